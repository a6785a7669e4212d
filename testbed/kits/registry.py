"""The table of hasql's drivers, with everything that other parts of the project must know of each.

A new driver needs a row here, a package in `hasql/_adapters`, a facade, an extra in
`pyproject.toml`, and a kit. The tests of structure, the test suites, nox and `tools/venv.sh` use
this table, so it needs only the standard library.

    python testbed/kits/registry.py 1     the extras of the environment with SQLAlchemy 1
"""

from __future__ import annotations

import sys
from typing import NamedTuple

__all__ = ("DRIVERS", "THREAD_DRIVERS", "RegisteredDriver", "extras_with")


class RegisteredDriver(NamedTuple):
    """One driver."""

    #: The module that a user imports.
    facade: str
    #: The package in `hasql/_adapters` that holds its classes.
    room: str
    #: The extra of `pyproject.toml` that brings its library.
    extra: str
    #: The libraries that facade and room may import. If the first is missing, the facade names the
    #: extra to install.
    libraries: tuple[str, ...]
    #: Its kits in `testbed/kits`: module and class.
    kits: tuple[str, ...]
    #: The files in `tests/integration` that are about this driver alone.
    tests: tuple[str, ...]
    #: The major version of SQLAlchemy that its environment has.
    sqlalchemy: str = "2"
    #: The other rooms that its room may import from.
    built_on: tuple[str, ...] = ()


DRIVERS = (
    RegisteredDriver(
        facade="hasql.asyncpg",
        room="asyncpg",
        extra="asyncpg",
        libraries=("asyncpg",),
        kits=("asyncpg.AsyncpgKit",),
        tests=("test_asyncpg.py",),
    ),
    RegisteredDriver(
        facade="hasql.psycopg3",
        room="psycopg",
        extra="psycopg",
        libraries=("psycopg", "psycopg_pool"),
        kits=("psycopg3.Psycopg3Kit",),
        tests=("test_psycopg3.py", "test_psycopg_cancel.py"),
    ),
    RegisteredDriver(
        facade="hasql.aiopg",
        room="aiopg",
        extra="aiopg",
        libraries=("aiopg", "psycopg2"),
        kits=("aiopg.AiopgKit",),
        tests=("test_aiopg.py",),
        built_on=("psycopg2",),
    ),
    RegisteredDriver(
        facade="hasql.asyncsqlalchemy",
        room="sqlalchemy",
        extra="sqlalchemy",
        libraries=("sqlalchemy", "greenlet", "asyncpg", "psycopg"),
        kits=("asyncsqlalchemy.SqlalchemyAsyncpgKit", "asyncsqlalchemy.SqlalchemyPsycopgKit"),
        tests=(
            "test_asyncsqlalchemy.py",
            "test_asyncsqlalchemy_url.py",
            "test_sqlalchemy_sessions.py",
            "test_routed_sessions.py",
            "test_session_runs.py",
        ),
        built_on=("asyncpg", "psycopg"),
    ),
    # Both of these were written for SQLAlchemy 1.4, and so need an environment of their own.
    RegisteredDriver(
        facade="hasql.aiopg_sa",
        room="aiopg",
        extra="aiopg-sa",
        libraries=("aiopg", "psycopg2"),
        kits=("aiopg_sa.AiopgSaKit",),
        tests=("test_aiopg_sa.py",),
        sqlalchemy="1",
        built_on=("psycopg2",),
    ),
    RegisteredDriver(
        facade="hasql.asyncpgsa",
        room="asyncpgsa",
        extra="asyncpgsa",
        libraries=("asyncpgsa", "asyncpg", "sqlalchemy"),
        kits=("asyncpgsa.AsyncpgsaKit",),
        tests=("test_asyncpgsa.py",),
        sqlalchemy="1",
        built_on=("asyncpg",),
    ),
)

#: The drivers of `hasql.sync`. Their kits are in `testbed/sync_kits.py`.
THREAD_DRIVERS = (
    RegisteredDriver(
        facade="hasql.sync.psycopg3",
        room="psycopg",
        extra="psycopg",
        libraries=("psycopg", "psycopg_pool"),
        kits=("Psycopg3ThreadKit",),
        tests=("test_sync_psycopg3.py",),
    ),
    RegisteredDriver(
        facade="hasql.sync.psycopg2",
        room="psycopg2",
        extra="psycopg2",
        libraries=("psycopg2", "sqlalchemy", "psycopg"),
        kits=("Psycopg2ThreadKit",),
        tests=("test_sync_psycopg2.py",),
        built_on=("psycopg", "sqlalchemy"),
    ),
    RegisteredDriver(
        facade="hasql.sync.sqlalchemy",
        room="sqlalchemy",
        extra="sqlalchemy",
        libraries=("sqlalchemy", "psycopg", "psycopg2"),
        kits=("SqlalchemyPsycopgThreadKit", "SqlalchemyPsycopg2ThreadKit"),
        tests=("test_sync_sqlalchemy.py",),
        built_on=("psycopg", "psycopg2"),
    ),
)


def extras_with(sqlalchemy: str) -> tuple[str, ...]:
    """Return the extras of the drivers whose environment has this major version of SQLAlchemy."""
    here = (driver for driver in DRIVERS + THREAD_DRIVERS if driver.sqlalchemy == sqlalchemy)
    return tuple(dict.fromkeys(driver.extra for driver in here))


if __name__ == "__main__":
    sys.stdout.write(",".join(extras_with(sys.argv[1])) + "\n")
