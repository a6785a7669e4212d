"""The drivers of the suite, one kit for each that this environment is meant for.

aiopg.sa and asyncpgsa need SQLAlchemy 1.4 and the others get on without it or need 2, so that
`make test` has an environment for each. A driver that is missing from its environment is an error:
nothing here skips. `registry` names them all.
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
"""The drivers for threads, where SQLAlchemy 2 is."""


def _make(path: str) -> Kit:
    module, name = path.split(".")
    kit: Kit = getattr(import_module(f"testbed.kits.{module}"), name)()
    return kit


def __getattr__(name: str) -> list[Kit] | list[ThreadLoadKit]:
    # Made when first asked for: a program that imports one kit does without the others' libraries.
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
