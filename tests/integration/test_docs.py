"""README and docs/ are true: code blocks run, commands exist, tables are complete.

The content of a `python` block decides how it is run; there is no list of exceptions:

* A block that calls ``asyncio.run`` or ``main`` at its end is a program. `test_docs_programs.py`
  runs it as a program.
* A block with test functions is a test file and is given to pytest.
* Any other block is a fragment and is run as the body of a coroutine on both event loops. It finds
  ``asyncio``, ``asyncpg``, ``PoolManager`` and ``LocalCluster`` imported, a running LocalCluster as
  ``cluster``, a manager of it as ``pool``, and a table ``visits (id uuid, page text)``.

`_CHECKS` checks each command of a `console` block; a command that it does not know fails. A block
of any other language says why it is not run; see `tests/pages.py`. `make docs` checks that the
pages are well-formed and that their references lead somewhere.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import importlib.util
import inspect
import io
import logging
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import asyncpg
import pytest
from docutils import nodes
from docutils.core import publish_doctree

import hasql
import hasql.balancer_policy
import hasql.errors
from hasql.asyncpg import PoolManager
from hasql.cluster.state import Exclusion, Health
from hasql.metrics import Metrics, NodeMetrics
from hasql.testing import LocalCluster, LocalNode
from hasql.tracing import Tracer
from testbed.kits.registry import DRIVERS, THREAD_DRIVERS
from testbed.scene import until_replicated
from tests.pages import BLOCKS, DOCS, PAGES, README, ROOT, Block, environment, for_this_environment
from tests.suites import SUITES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.loops_in_turn

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
#: All that is written about the package, except for what is taken from its docstrings.
TEXT = "\n".join(path.read_text("utf-8") for path in (README, *DOCS))

#: The modules that a user imports.
PUBLIC = (
    "hasql",
    "hasql.aiopg",
    "hasql.aiopg_sa",
    "hasql.asyncpg",
    "hasql.asyncpgsa",
    "hasql.asyncsqlalchemy",
    "hasql.balancer_policy",
    "hasql.base",
    "hasql.contrib.django",
    "hasql.contrib.fastapi",
    "hasql.contrib.flask",
    "hasql.diagnostics",
    "hasql.discovery",
    "hasql.dns",
    "hasql.errors",
    "hasql.events",
    "hasql.metrics",
    "hasql.psycopg3",
    "hasql.resilience",
    "hasql.settings",
    "hasql.sync.base",
    "hasql.sync.psycopg2",
    "hasql.sync.psycopg3",
    "hasql.sync.sqlalchemy",
    "hasql.testing",
    "hasql.tracing",
)

#: Each command once. Scripts of the same name on two pages are two commands.
COMMANDS = {
    (command, block.page if command.endswith(".py") else None): block
    for block in BLOCKS
    if block.language == "console"
    for command in (line.removeprefix("$ ") for line in block.code.splitlines())
}


def of_kind(kind: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.kind == kind]


def parse(page: Path) -> tuple[nodes.document, str]:
    """Read a page with docutils alone, which complains about all that only Sphinx knows."""
    complaints = io.StringIO()
    settings = {"report_level": 2, "halt_level": 5, "warning_stream": complaints}
    text = page.read_text("utf-8")
    return publish_doctree(text, str(page), settings_overrides=settings), complaints.getvalue()


def table_rows(page: str) -> Iterator[list[str]]:
    """Yield all rows of all tables of a page, each cell as it is written."""
    for row in parse(ROOT / "docs" / page)[0].findall(nodes.row):
        yield [cell.rawsource or cell.astext() for cell in row.findall(nodes.paragraph)]


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=100,  # without a cache, mypy reads the standard library
        check=False,
    )


def run_pytest(*arguments: str, cwd: Path, plugins: tuple[str, ...]) -> str:
    # Plugins are named, not discovered: where hasql is installed, its entry point would load the
    # plugin a second time.
    names = [word for name in plugins for word in ("-p", name)]
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    done = run(sys.executable, "-m", "pytest", *names, *arguments, cwd=cwd, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The text


def test_the_readme_is_read_without_a_complaint_where_there_is_no_sphinx() -> None:
    assert parse(README)[1] == ""


def test_the_readme_is_a_front_door() -> None:
    assert README.read_text("utf-8").count("\n") <= 200


def test_every_block_is_run_or_says_why_not() -> None:
    silent = [str(b) for b in BLOCKS if b.language not in {"python", "console"} and not b.reason]
    assert silent == []
    assert [str(b) for b in BLOCKS if b.language in {"python", "console"} and b.reason] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_it_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    for path in re.findall(r"(?:image:: |`\w[^`]*? <)([\w./-]+\.(?:svg|rst))\b", text):
        assert (page.parent / path).is_file(), path
    for path in re.findall(r"``((?:[\w-]+/)*[\w-]+\.(?:svg|rst|py|yml|txt|toml))``", text):
        assert (ROOT / path).is_file() or f"``{path}``, whole:" in text, path


def test_the_picture_of_the_demo_is_whole_in_itself() -> None:
    picture = (ROOT / "resources" / "demo.svg").read_text("utf-8")
    assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314
    assert re.findall(r"url\(|href|https?://(?!www\.w3\.org)|/home/|/tmp/", picture) == []


# Python


@pytest.mark.parametrize("block", of_kind("test file"))
def test_a_test_file_passes(block: Block, tmp_path: Path) -> None:
    (tmp_path / "test_application.py").write_text(block.code)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    output = run_pytest("-q", cwd=tmp_path, plugins=("hasql.testing.pytest_plugin",))
    assert re.search(r"^\d+ passed", output, re.MULTILINE), output


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger("asyncpg.pool")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize("block", of_kind("fragment"))
async def test_a_fragment_runs(
    block: Block, pg_cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the fragment may write files
    await pg_cluster.master.sql("DROP TABLE IF EXISTS visits")
    code = compile(
        # The empty lines make errors show at their place in the page.
        "\n" * (block.line - 1) + block.code,
        str(block.page),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    async with PoolManager(pg_cluster.dsn) as pool:
        await pool.ready(1, 2)
        async with pool.acquire_master() as connection:
            await connection.execute(
                "CREATE TABLE visits (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), page text)"
            )
        await until_replicated(pg_cluster)
        names = {
            "asyncio": asyncio,
            "asyncpg": asyncpg,
            "PoolManager": PoolManager,
            "LocalCluster": LocalCluster,
            "cluster": pg_cluster,
            "pool": pool,
        }
        outcome = eval(code, names)  # noqa: S307  # our own pages
        if code.co_flags & inspect.CO_COROUTINE:
            await outcome


def test_programs_and_test_files_satisfy_a_type_checker(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    pytest.importorskip("asyncpg-stubs", reason="asyncpg has its types from asyncpg-stubs")
    for block in BLOCKS:
        if block.kind in {"program", "test file"} and for_this_environment(block):
            (tmp_path / f"{re.sub(r'[^a-z0-9]', '_', str(block))}.py").write_text(block.code)
    done = run(sys.executable, "-m", "mypy", "--strict", str(tmp_path), cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert re.search(r"in \d\d source files", done.stdout)


# Commands


def check_make(words: list[str]) -> None:
    done = run("make", "--dry-run", *words, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for variable in (word for word in words if "=" in word):
        name, _, value = variable.partition("=")
        if name == "ARGS":
            _TARGETS[words[0]](shlex.split(value))
        else:
            assert f"$({name})" in (ROOT / "Makefile").read_text("utf-8")


def check_bench(words: list[str]) -> None:
    program = ROOT / "benchmarks" / f"{words[0]}.py"
    checks_options(str(program))(words[1:])


def checks_options(*program: str) -> Callable[[list[str]], None]:
    def check(words: list[str]) -> None:
        # Only the unknown option is refused, so all the rest is accepted; and nothing is run.
        done = run(sys.executable, *program, *words, "--no-such-option", cwd=ROOT)
        assert done.stderr.endswith("error: unrecognized arguments: --no-such-option\n"), (
            done.stderr
        )

    return check


def check_hasql(words: list[str]) -> None:
    assert words[0] == "demo"
    check_demo(words[1:])


def check_demo(words: list[str]) -> None:
    # The duration is refused by the very last check, so all the rest is accepted.
    done = run(sys.executable, "-m", "hasql.cli", "demo", *words, "--duration", "0", cwd=ROOT)
    if "--help" in words:
        assert done.returncode == 0, done.stderr
    else:
        assert "--duration 0: give" in done.stderr


def check_pytest(words: list[str]) -> None:
    # pytest accepts these. Whether a word still selects a test changes when tests are renamed.
    options = iter(words)
    for option in options:
        match option:
            case "-x":
                pass
            case "-p":
                assert importlib.util.find_spec(next(options))
            case "--suite":
                assert next(options) in SUITES
            case "-k":
                word = next(options)
                assert any(word in path.name for path in (ROOT / "tests").rglob("test_*.py"))
            case _:
                pytest.fail(f"say here how to check pytest's {option}")


def check_python(words: list[str]) -> None:
    assert words[:2] == ["-m", "venv"]
    assert len(words) == 3


def check_pip(words: list[str]) -> None:
    install, requirement = words
    found = re.fullmatch(r"\.\[(?P<extras>[\w,-]+)\]", requirement)
    assert install == "install"
    assert found
    assert set(found["extras"].split(",")) <= PROJECT["project"]["optional-dependencies"].keys()


def check_flask(words: list[str]) -> None:
    # The help shows that the command exists, and asks no server.
    environment = {"DATABASE_URL": "postgresql://db1,db2/app"}
    done = run(sys.executable, "-m", "flask", *words, "--help", cwd=ROOT, **environment)
    assert done.returncode == 0, done.stderr
    given = {word for word in words[2:] if word.startswith("--")}
    assert given <= set(re.findall(r"--[\w-]+", done.stdout))


_TARGETS: dict[str, Callable[[list[str]], None]] = {
    "bench": check_bench,
    "chaos": checks_options("-m", "chaos"),
    "demo": check_demo,
    "patroni": checks_options("-m", "chaos.patroni"),
    "test": check_pytest,
    "web": checks_options("-m", "chaos.web"),
}
_CHECKS: dict[str, Callable[[list[str]], None]] = {
    "flask": check_flask,
    "hasql": check_hasql,
    "make": check_make,
    "pip": check_pip,
    "python3": check_python,
}


@pytest.mark.parametrize(
    ("block", "command"),
    [
        pytest.param(block, command, id=f"{block}-{command}")
        for (command, _), block in COMMANDS.items()
    ],
)
def test_a_command_exists(block: Block, command: str) -> None:
    program, *words = shlex.split(command, comments=True)
    while re.match(r"[A-Z_]+=", program):  # a variable of the environment
        program, *words = words
    if words[:2] == ["-m", "pytest"] and not command.endswith(".py"):
        check_pytest(words[2:])
        return
    if program.endswith("python"):
        introduction = re.escape(f"``{words[-1]}``, whole:")
        page = block.page.read_text("utf-8")
        assert re.search(introduction + r"\s+\.\. code-block:: python", page)
        return
    program = program.rpartition("/")[2]
    assert program in _CHECKS, "say in _CHECKS how to check it"
    _CHECKS[program](words)


# Tables


def test_hosts_are_read_as_the_table_says() -> None:
    rows = [
        row for row in table_rows("howto/hosts.rst") if row[0].startswith(("``post", "``host="))
    ]
    assert len(rows) > 5
    for dsn, hosts in rows:
        manager = PoolManager(dsn.strip("`"))
        assert [str(host) for host in manager.dsn.hosts] == hosts.replace("`", "").split()


def test_every_parameter_is_in_the_table_with_its_default() -> None:
    rows = table_rows("reference/pool-manager.rst")
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows}
    for name, parameter in inspect.signature(PoolManager).parameters.items():
        default = parameter.default
        shown = default.__name__ if isinstance(default, type) else repr(default)
        if default is inspect.Parameter.empty:
            shown = "required"
        assert documented[name] == shown, name


def test_every_setting_is_in_the_table() -> None:
    pytest.importorskip("pydantic_settings")
    from tests.settings_table import table_of_settings

    [_, *rows] = table_rows("howto/settings.rst")
    assert rows == list(table_of_settings())


def messages(source: Path) -> Iterator[tuple[str, str]]:
    """Yield level and text of all that a module logs, except for debugging."""
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        match node:
            case ast.Call(ast.Attribute(ast.Name("log"), level), [ast.Constant(str(text)), *_]):
                pass
            # Messages that the event loop logs later, outside the guard, and messages whose level
            # may be that for debugging.
            case ast.Call(
                ast.Name("log_soon" | "soon"),
                [ast.Attribute(ast.Name("log"), level), ast.Constant(str(text)), *_],
            ):
                pass
            case ast.Call(
                ast.Attribute(ast.Name("log"), "log"),
                [ast.IfExp(_, _, ast.Attribute(_, level)), ast.Constant(str(text)), *_],
            ):
                pass
            case _:
                continue
        if level.lower() != "debug":
            level = "ERROR" if level == "exception" else level.upper()
            yield level, re.sub("%[a-z]", "…", text)


def test_every_message_of_the_log_is_in_the_table() -> None:
    rows = [
        row for row in table_rows("howto/observe.rst") if row[0] in logging.getLevelNamesMapping()
    ]
    logged = {each for path in (ROOT / "hasql").rglob("*.py") for each in messages(path)}
    told = {(row[0], " ".join(row[1].strip("`").split())) for row in rows}
    assert told == logged


def public(cls: type) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(public(PoolManager), id="pool manager"),
        pytest.param(public(LocalCluster), id="cluster"),
        pytest.param(public(LocalNode), id="node"),
        pytest.param(hasql.errors.__all__, id="errors"),
        pytest.param(hasql.balancer_policy.__all__, id="policies"),
        pytest.param(public(hasql.balancer_policy.Candidate), id="candidates"),
        pytest.param([field.name for field in dataclasses.fields(Metrics)], id="metrics"),
        pytest.param([field.name for field in dataclasses.fields(NodeMetrics)], id="node metrics"),
        pytest.param([*Health.__members__, *Exclusion.__members__], id="states"),
        pytest.param(inspect.signature(LocalCluster).parameters, id="cluster options"),
        pytest.param([field.name for field in dataclasses.fields(Tracer)], id="callbacks"),
    ],
)
def test_everything_public_is_named(names: list[str]) -> None:
    missing = [name for name in names if not re.search(rf"\b{name}\b", TEXT)]
    assert missing == []


@pytest.mark.parametrize("module", PUBLIC)
def test_everything_public_is_in_the_reference(module: str) -> None:
    if f".. automodule:: {module}\n   :members:" not in TEXT:
        for name in import_module(module).__all__:
            # The errors have a page of their own.
            documented = re.search(rf":: {module}\.{name}\b", TEXT) is not None
            assert documented or name in hasql.errors.__all__, name


def public_errors() -> set[str]:
    # A facade has no errors of its own, and may need a library that this environment lacks.
    facades = {driver.facade for driver in (*DRIVERS, *THREAD_DRIVERS)}
    return {
        name
        for module in map(import_module, sorted(set(PUBLIC) - facades))
        for name, shown in ((name, getattr(module, name)) for name in module.__all__)
        if isinstance(shown, type) and issubclass(shown, Exception)
    }


def test_each_error_has_a_section() -> None:
    titles = {
        title.astext().partition(" ")[0]
        for title in parse(ROOT / "docs/reference/errors.rst")[0].findall(nodes.title)
    }
    assert public_errors() - titles == set()


def test_each_error_has_the_bases_of_the_table() -> None:
    rows = {row[0].strip("`"): row for row in table_rows("reference/errors.rst") if row}
    for name in hasql.errors.__all__:
        error = getattr(hasql, name)
        others = [base.__name__ for base in error.__bases__ if base.__module__ == "builtins"]
        shown = [cell.strip("`") for cell in rows[name][1:-1]]
        assert shown == [other for other in others if other != "Exception"], name
