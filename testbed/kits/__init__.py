"""The drivers of the suite, one kit for each that this environment is meant for.

aiopg.sa and asyncpgsa need SQLAlchemy 1.4 and the others get on without it or need 2, so that
`make test` has an environment for each. A driver that is missing from its environment is an error:
nothing here skips.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testbed.kits.base import Kit

__all__ = ("KITS",)

KITS: list[Kit]

#: The kits of each environment, by the major version of its SQLAlchemy.
_CLASSES = {
    "1": ("aiopg_sa.AiopgSaKit", "asyncpgsa.AsyncpgsaKit"),
    "2": (
        "asyncpg.AsyncpgKit",
        "psycopg3.Psycopg3Kit",
        "aiopg.AiopgKit",
        "asyncsqlalchemy.SqlalchemyAsyncpgKit",
        "asyncsqlalchemy.SqlalchemyPsycopgKit",
    ),
}


def _make(path: str) -> Kit:
    module, name = path.split(".")
    kit: Kit = getattr(import_module(f"testbed.kits.{module}"), name)()
    return kit


def __getattr__(name: str) -> list[Kit]:
    # Made when asked for: a program that imports one kit does without the others' libraries.
    if name != "KITS":
        raise AttributeError(name)
    return [_make(path) for path in _CLASSES[version("sqlalchemy").split(".")[0]]]
