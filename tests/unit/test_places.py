"""A place is one count of a node's `in_flight`, which only the routers change.

So every place that is taken is given back by `vacate`, and the acquires that wait for it are told.
All other code that needs a place asks a router for it.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hasql

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(hasql.__file__).parent
ROUTERS = ("_routing/router.py", "_routing/shared_router.py")
#: The module in which a node begins, with no place taken.
NODE = "_routing/node.py"


def writes(place: str, source: str) -> Iterator[str]:
    """Yield where a module changes the count of places, except for its initial value."""
    tree = ast.parse(source)
    begins = [
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__" and place == NODE
        for each in node.body
        if isinstance(each, ast.Assign) and ast.unparse(each) == "self.in_flight = 0"
        for target in each.targets
    ]
    for node in ast.walk(tree):
        if _writes(node) and node not in begins:
            yield f"hasql/{place}:{getattr(node, 'lineno', 0)}: changes in_flight"


def _writes(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(attr="in_flight", ctx=ast.Store() | ast.Del()):
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args):
            named = any(isinstance(x, ast.Constant) and x.value == "in_flight" for x in args)
            return named and name in {"setattr", "__setattr__", "delattr", "__delattr__"}
    return False


def test_nothing_but_a_router_changes_how_many_places_are_taken() -> None:
    found = [
        each
        for path in sorted(PACKAGE.rglob("*.py"))
        if (place := path.relative_to(PACKAGE).as_posix()) not in ROUTERS
        for each in writes(place, path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("place", ROUTERS)
def test_a_router_does(place: str) -> None:
    assert list(writes(place, (PACKAGE / place).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "node.in_flight = 0",
        "node.in_flight += 1",
        "lease.node.in_flight -= 1",
        "node.in_flight: int = 0",
        "peak, node.in_flight = 0, 0",
        "for node.in_flight in range(3): pass",
        "with place as node.in_flight: pass",
        "del node.in_flight",
        "setattr(node, 'in_flight', 0)",
        "object.__setattr__(node, 'in_flight', 0)",
        "def reset(self):\n    self.in_flight = 0",
        "def __init__(self, taken):\n    self.in_flight = taken",
    ],
)
@pytest.mark.parametrize("place", ["_leasing/returns.py", NODE])
def test_what_would_change_it(place: str, source: str) -> None:
    assert list(writes(place, source))


@pytest.mark.parametrize(
    ("place", "source"),
    [
        (NODE, "def __init__(self):\n    self.in_flight = 0"),
        ("_leasing/returns.py", "if node.in_flight: free = node.limit - node.in_flight"),
        ("_leasing/returns.py", "in_flight = node.in_flight"),
        ("_manager/measuring.py", "Metrics(in_flight=node.in_flight)"),
        ("_manager/measuring.py", "getattr(node, 'in_flight')"),
        ("metrics.py", "class NodeMetrics:\n    in_flight: int"),
    ],
)
def test_what_does_not(place: str, source: str) -> None:
    assert not list(writes(place, source))
