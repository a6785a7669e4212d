"""The drivers that the test suite covers in this environment, one kit for each.

aiopg.sa and asyncpgsa need SQLAlchemy 1.4; the other drivers do without it or need version 2.
Therefore `make test` has two environments. A driver that is missing from its environment is an
error, not a reason to skip tests. `registry` names all drivers.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from testbed.kits.registry import DRIVERS

if TYPE_CHECKING:
    from testbed.kits.base import Kit
    from testbed.kits.in_threads import ThreadLoadKit

__all__ = ("KITS", "THREAD_KITS")

KITS: list[Kit]
THREAD_KITS: list[ThreadLoadKit]
"""The drivers for threads, in the environment with SQLAlchemy 2."""


def _make(path: str) -> Kit:
    module, name = path.split(".")
    kit: Kit = getattr(import_module(f"testbed.kits.{module}"), name)()
    return kit


def __getattr__(name: str) -> list[Kit] | list[ThreadLoadKit]:
    # Made on first use, so that a program that imports one kit does not need the others' libraries.
    if name not in __all__:
        raise AttributeError(name)
    here = version("sqlalchemy").split(".")[0]
    made: list[Kit] | list[ThreadLoadKit]
    if name == "THREAD_KITS":
        made = import_module("testbed.kits.in_threads").ALL if here == "2" else []
    else:
        made = [_make(x) for driver in DRIVERS if driver.sqlalchemy == here for x in driver.kits]
    globals()[name] = made
    return made
