"""The README is true: its code blocks run, its commands exist, its tables are complete.

What a `python` block is decides how it is run; there is no list of exceptions:

* one that calls ``asyncio.run`` at its end is a program. It is run as one, with warnings as
  errors, and finds the DSN of a cluster in DATABASE_URL.
* one with test functions is a test file and given to pytest.
* any other is a fragment, run as the body of a coroutine on both event loops. It finds
  ``asyncio``, ``asyncpg``, ``PoolManager`` and ``LocalCluster`` imported, a running LocalCluster as
  ``cluster``, a manager of it as ``pool``, and a table ``visits (id uuid, page text)``.

Of a `console` block each command is checked by `_CHECKS`, and one that is not known there fails.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import inspect
import io
import logging
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from docutils import nodes
from docutils.core import publish_doctree

import hasql
import hasql.balancer_policy
from hasql.asyncpg import PoolManager
from hasql.cluster.state import Exclusion, Health
from hasql.metrics import Metrics, NodeMetrics
from hasql.testing import LocalCluster, LocalNode
from testbed.scene import complaints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.rst").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@dataclass(frozen=True)
class Block:
    """One code block."""

    language: str
    code: str
    line: int

    def __str__(self) -> str:
        return f"line{self.line}"

    @property
    def kind(self) -> str:
        body = ast.parse(self.code).body
        if any(isinstance(x, ast.FunctionDef) and x.name.startswith("test_") for x in body):
            return "test file"
        return "program" if ast.unparse(body[-1]).startswith("asyncio.run(") else "fragment"


def parse() -> tuple[nodes.document, str]:
    complaints = io.StringIO()
    settings = {"report_level": 2, "halt_level": 5, "warning_stream": complaints}
    return publish_doctree(TEXT, "README.rst", settings_overrides=settings), complaints.getvalue()


def blocks() -> Iterator[Block]:
    position = 0
    for node in parse()[0].findall(nodes.literal_block):
        if "code" in node["classes"]:
            code = node.astext()
            first = code.splitlines()[0]
            # The tree does not say where a block began.
            position = TEXT.index(f"\n    {first}\n", position) + 1
            language = next(name for name in node["classes"] if name != "code")
            yield Block(language, code, TEXT[:position].count("\n") + 1)


BLOCKS = list(blocks())
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    pytest.param(line.removeprefix("$ "), id=line.removeprefix("$ "))
    for block in BLOCKS
    if block.language == "console"
    for line in block.code.splitlines()
]


def of_kind(kind: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in PYTHON if block.kind == kind]


def table_rows() -> Iterator[list[str]]:
    """All rows of all tables, each cell as it is written."""
    for row in parse()[0].findall(nodes.row):
        yield [cell.rawsource or cell.astext() for cell in row.findall(nodes.paragraph)]


def environment(**more: str) -> dict[str, str]:
    """What a program of a user finds: hasql installed."""
    result = {**os.environ, **more}
    try:
        distribution("hasql")
    except PackageNotFoundError:
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        result["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return result


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def run_pytest(*arguments: str, cwd: Path, plugins: tuple[str, ...]) -> str:
    # Named, not found: where hasql is installed, its entry point would load the plugin twice.
    names = [word for name in plugins for word in ("-p", name)]
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    done = run(sys.executable, "-m", "pytest", *names, *arguments, cwd=cwd, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The text


def test_docutils_reads_it_without_a_complaint() -> None:
    assert parse()[1] == ""


def test_every_code_block_is_of_a_language_that_is_run() -> None:
    assert {block.language for block in BLOCKS} == {"python", "console"}


def test_every_file_it_names_is_there() -> None:
    for path in re.findall(r"(?:image:: |``)([\w./]+\.(?:svg|rst|py|yml))\b", TEXT):
        assert (ROOT / path).is_file() or f"``{path}``, whole:" in TEXT, path


# Python


@pytest.mark.parametrize("block", of_kind("program"))
def test_a_program_runs(block: Block, pg_cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(block.code)
    flags = ("-W", "error", "-X", "dev")
    done = run(sys.executable, *flags, "program.py", cwd=tmp_path, DATABASE_URL=pg_cluster.dsn)
    assert done.returncode == 0, done.stderr
    assert complaints(done.stderr) == ""


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
async def test_a_fragment_runs(block: Block, pg_cluster: LocalCluster) -> None:
    await pg_cluster.master.sql("DROP TABLE IF EXISTS visits")
    code = compile(
        # Errors are shown at their place in the README.
        "\n" * (block.line - 1) + block.code,
        str(ROOT / "README.rst"),
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
        outcome = eval(code, names)  # noqa: S307  # our own README
        if code.co_flags & inspect.CO_COROUTINE:
            await outcome


async def until_replicated(cluster: LocalCluster) -> None:
    position = await cluster.master.sql("SELECT pg_current_wal_lsn()")
    async with asyncio.timeout(15):
        for replica in cluster.replicas:
            while await replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") != "t":
                await asyncio.sleep(0.01)


def test_programs_and_test_files_satisfy_a_type_checker(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    pytest.importorskip("asyncpg-stubs", reason="asyncpg has its types from asyncpg-stubs")
    for block in PYTHON:
        if block.kind != "fragment":
            (tmp_path / f"readme_{block}.py").write_text(block.code)
    done = run(sys.executable, "-m", "mypy", "--strict", str(tmp_path), cwd=ROOT)
    assert done.returncode == 0, done.stdout


# Commands


def check_make(words: list[str]) -> None:
    done = run("make", "--dry-run", *words, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    target, *variables = words
    for variable in variables:
        name, _, value = variable.partition("=")
        assert name == "ARGS"
        {"demo": check_demo, "test": check_pytest}[target](shlex.split(value))


def check_demo(words: list[str]) -> None:
    # A duration that is refused, by the last check there is, shows that all the rest is accepted.
    done = run(sys.executable, "-m", "hasql.cli", "demo", *words, "--duration", "0", cwd=ROOT)
    if "--help" in words:
        assert done.returncode == 0, done.stderr
    else:
        assert "--duration 0: give" in done.stderr


def check_pytest(words: list[str]) -> None:
    plugins = ("hasql.testing.pytest_plugin", "anyio", "pytest_timeout")
    # It fails if these words select nothing.
    run_pytest("-q", "--collect-only", *words, "tests/integration", cwd=ROOT, plugins=plugins)


def check_pip(words: list[str]) -> None:
    install, requirement = words
    found = re.fullmatch(r"\.\[(?P<extras>[\w,-]+)\]", requirement)
    assert install == "install"
    assert found
    assert set(found["extras"].split(",")) <= PROJECT["project"]["optional-dependencies"].keys()


def check_python(words: list[str]) -> None:
    (name,) = words
    introduction = re.escape(f"``{name}``, whole:")
    assert re.search(introduction + r"\s+\.\. code-block:: python", TEXT)


_CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists(command: str) -> None:
    program, *words = shlex.split(command)
    assert program in _CHECKS, "say in _CHECKS how to check it"
    _CHECKS[program](words)


# Tables


def test_hosts_are_read_as_the_table_says() -> None:
    rows = [row for row in table_rows() if re.match(r"``(?:\w+://|host=)", row[0])]
    assert len(rows) > 5
    for dsn, hosts in rows:
        manager = PoolManager(dsn.strip("`"))
        assert [str(host) for host in manager.dsn.hosts] == hosts.replace("`", "").split()


def test_every_parameter_is_in_the_table_with_its_default() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in table_rows() if len(row) == 3}
    for name, parameter in inspect.signature(PoolManager).parameters.items():
        default = parameter.default
        shown = default.__name__ if isinstance(default, type) else repr(default)
        if default is inspect.Parameter.empty:
            shown = "required"
        assert documented[name] == shown, name


def public(cls: type) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(public(PoolManager), id="pool manager"),
        pytest.param(public(LocalCluster), id="cluster"),
        pytest.param(public(LocalNode), id="node"),
        pytest.param(hasql.__all__, id="errors"),
        pytest.param(hasql.balancer_policy.__all__, id="policies"),
        pytest.param([field.name for field in dataclasses.fields(Metrics)], id="metrics"),
        pytest.param([field.name for field in dataclasses.fields(NodeMetrics)], id="node metrics"),
        pytest.param([*Health.__members__, *Exclusion.__members__], id="states"),
        pytest.param(inspect.signature(LocalCluster).parameters, id="cluster options"),
    ],
)
def test_everything_public_is_named(names: list[str]) -> None:
    missing = [name for name in names if not re.search(rf"\b{name}\b", TEXT)]
    assert missing == []


def test_each_error_has_the_bases_of_the_table() -> None:
    rows = {row[0].strip("`"): row for row in table_rows()}
    for name in hasql.__all__:
        error = getattr(hasql, name)
        others = [base.__name__ for base in error.__bases__ if base.__module__ == "builtins"]
        shown = [cell.strip("`") for cell in rows[name][1:-1]]
        assert shown == [other for other in others if other != "Exception"], name
