"""No adapter uses private names of its library, which any release may change.

The modules that recognise reads are the exception: SQLAlchemy has no public names for much of what
becomes SQL, and its public traversal leaves that out. If a release changes those names, a statement
does not count as a read any more; the tests of the reads show that.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hasql
from testbed.kits.registry import DRIVERS, THREAD_DRIVERS

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(hasql.__file__).parent
#: The facades, and the adapters behind them.
FACADES = [driver.facade.removeprefix("hasql.") for driver in (*DRIVERS, *THREAD_DRIVERS)]
MODULES = [f"{facade.replace('.', '/')}.py" for facade in FACADES]
MODULES += sorted(
    str(module.relative_to(PACKAGE))
    for module in PACKAGE.glob("_adapters/**/*.py")
    if not module.match("sqlalchemy/read_*.py")
)

_BY_NAME = {"getattr", "setattr", "delattr", "hasattr", "attrgetter", "methodcaller"}


def is_private(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.startswith("_")
        and not (name.startswith("__") and name.endswith("__"))
    )


def own_classes(tree: ast.Module) -> set[str]:
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names of methods that a module defines and of attributes that it sets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id  # in the body of a class, for example


def is_own(value: ast.expr, own: set[str]) -> bool:
    """Whether an expression is `self`, `super()`, or a class of this module."""
    if isinstance(value, ast.Call):
        return called(value) == "super"
    return isinstance(value, ast.Name) and value.id in own


def called(node: ast.Call) -> str | None:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def private_uses(source: str, ours: set[str] | None = None) -> Iterator[str]:
    """Yield every use of a private attribute that is not hasql's own.

    A class of hasql's may have a library's class as its base. So even on `self` a private name may
    be used only if it is in `ours`, the names that hasql's modules define, or if this module
    defines it.
    """
    tree = ast.parse(source)
    own = {"self", "cls", *own_classes(tree)}
    ours = {*(ours or ()), *defined(tree)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name):
                found = is_private(name) and not (is_own(value, own) and name in ours)
            case ast.Call(args=arguments) if called(node) in _BY_NAME:
                found = any(isinstance(x, ast.Constant) and is_private(x.value) for x in arguments)
            case ast.Subscript(slice=ast.Constant(value=name)):  # for example of vars()
                found = is_private(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found = any(map(is_private, imported(node, names)))
            case _:
                continue
        if found:
            yield f"{node.lineno}: {ast.unparse(node)}"


def imported(node: ast.Import | ast.ImportFrom, names: list[ast.alias]) -> list[str]:
    """Return the parts of the imported names, or nothing if they are hasql's."""
    module = getattr(node, "module", None) or ""
    parts = [*module.split("."), *(part for alias in names for part in alias.name.split("."))]
    return [] if "hasql" in parts else parts


def test_an_adapter_uses_the_public_interface_of_its_library_alone() -> None:
    ours = {
        name
        for module in PACKAGE.rglob("*.py")
        for name in defined(ast.parse(module.read_text("utf-8")))
    }
    found = [
        f"hasql/{module}:{use}"
        for module in MODULES
        for use in private_uses((PACKAGE / module).read_text("utf-8"), ours)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "connection._protocol",
        "self._connection._con",
        "self.pool._pool.popleft()",
        "connection._closed = True",
        "getattr(connection, '_con', None)",
        "setattr(connection, '_con', None)",
        "attrgetter('_con')(proxy)",
        "operator.methodcaller('_reset')(connection)",
        "vars(connection)['_fd']",
        "connection.__dict__['_fd']",
        "from psycopg_pool._task import BackTask",
        "from asyncpg.pool import _Thing",
        "import psycopg._encodings",
        "self._own._theirs",
        "self._theirs",
        "super()._theirs()",
    ],
)
def test_each_way_to_a_private_attribute_is_found(line: str) -> None:
    assert len(list(private_uses(line))) >= 1


@pytest.mark.parametrize(
    "line",
    [
        "self._connection = None\nself._connection.close()",
        "def _own(): super()._own()",
        "connection.__class__",
        "class _Own: pass\n_Own._made = 1",
        "from __future__ import annotations",
        "from hasql._adapters.libpq import shut_down",
        "getattr(connection, 'closed', None)",
        "_local = _function(_other)",
        "rows['name']",
    ],
)
def test_what_is_ones_own_or_public_is_not(line: str) -> None:
    assert list(private_uses(line)) == []
