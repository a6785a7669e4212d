"""The core has one clock and one source of chance, which its manager hands to it.

A resolver, which several managers may share, has its own.

This makes it possible to run a manager in virtual time, and to repeat a run. Timers are set by
durations. They are never compared with `loop.time()`, which has another origin and is rounded by
uvloop.
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
#: Packages that serve real servers, or libraries and frameworks with clocks of their own.
EXEMPT = {"_adapters", "cli", "contrib", "testing"}
#: Modules that use a library that goes by the wall clock, because several processes share it.
FOREIGN = {"resilience/stored_rates.py"}
CORE = sorted(
    place
    for path in PACKAGE.rglob("*.py")
    if (place := path.relative_to(PACKAGE).as_posix()).partition("/")[0] not in EXEMPT
    and place not in FOREIGN
)
#: The only modules that have the clock, and those that may make a source of chance: the manager's,
#: a policy's own until it serves a manager, and that of sources of hosts, which no simulation uses.
CLOCKS = ("_manager/facade.py", "dns/resolver.py")
CHANCE = {
    "_manager/facade.py",
    "balancer_policy/base.py",
    "discovery/by_name.py",
    "discovery/polling.py",
}

_CLOCKS = {"time", "datetime"}
_CHANCES = {"random", "secrets"}
#: Names that take, or return, a time of the event loop's.
_LOOP_TIMES = {"time", "call_at", "timeout_at", "when"}


def offences(place: str, source: str) -> Iterator[str]:
    """Yield each use of a clock, or of chance, that a module makes by itself."""
    for node in ast.walk(ast.parse(source)):
        if found := _imported(place, node) or _used(place, node):
            yield f"hasql/{place}:{getattr(node, 'lineno', 0)}: {found}"


def _imported(place: str, node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=names):
            taken = {name.name for name in names}
        case ast.ImportFrom(module=str(module), names=names, level=0):
            taken = {f"{module}.{name.name}" for name in names}
        case _:
            return None
    taken -= {"random.Random"}
    if place in CLOCKS:
        taken -= {"time.monotonic"}
    own = [name for name in taken if name.partition(".")[0] in _CLOCKS | _CHANCES]
    return f"imports {', '.join(sorted(own))}" if own else None


def _used(place: str, node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Name(id="Random")) if place not in CHANCE:
            return "makes a source of chance"
        case ast.Call(func=ast.Name(id=name)) | ast.Attribute(attr=name) if name in _LOOP_TIMES:
            return f"uses a time of the event loop: {name}"
        # 0.0 means at once, by any clock.
        case ast.Call(func=ast.Attribute(attr="reschedule"), args=args) if not (
            len(args) == 1 and isinstance(args[0], ast.Constant) and args[0].value in {0.0, None}
        ):
            return "uses a time of the event loop: reschedule"
    return None


def test_no_module_of_the_core_has_a_clock_or_chance_of_its_own() -> None:
    found = [
        each
        for place in CORE
        for each in offences(place, (PACKAGE / place).read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import time as clock",
        "from time import monotonic",
        "from time import monotonic as now",
        "from time import perf_counter",
        "def wait():\n    from time import time",
        "import random",
        "from random import random",
        "from random import Random, choice",
        "import datetime",
        "from datetime import datetime",
        "import secrets",
        "Random()",
        "now = self._loop.time()",
        "now = asyncio.get_running_loop().time",
        "loop.call_at(due, end)",
        "async with asyncio.timeout_at(due): pass",
        "timer.reschedule(due)",
        "due = timer.when()",
    ],
)
def test_what_would_be_a_clock_or_chance_of_its_own(source: str) -> None:
    assert list(offences("_routing/router.py", source))


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("_routing/router.py", "from random import Random"),
        ("_routing/router.py", "self._clock() + self._chance.random()"),
        ("_routing/router.py", "asyncio.timeout(1.0)"),
        ("_routing/router.py", "loop.call_later(1.0, end)"),
        ("_routing/router.py", "timer.reschedule(0.0)"),
        ("_manager/facade.py", "from time import monotonic\nRandom()"),
        ("dns/resolver.py", "from time import monotonic"),
        ("balancer_policy/base.py", "chance = Random()"),
    ],
)
def test_what_is_none(place: str, source: str) -> None:
    assert not list(offences(place, source))


@pytest.mark.parametrize("place", CLOCKS)
def test_a_manager_and_a_resolver_hand_out_one_clock(place: str) -> None:
    # The clock is used in the hook alone: any other use would be a second clock.
    tree = ast.parse((PACKAGE / place).read_text(encoding="utf-8"))
    used = [
        node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "monotonic"
    ]
    hook = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "_clock")
    assert [node for node in ast.walk(hook) if node in used] == used
    assert len(used) == 1
