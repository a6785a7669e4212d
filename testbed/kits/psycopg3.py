"""The kit of psycopg 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from testbed.kits.arguments import NOT_OF_LIBPQ, OF_LIBPQ, Arguments, hook
from testbed.kits.base import Ending, Kit, closed

if TYPE_CHECKING:
    from testbed.kits.base import Hook


def of_connect() -> Arguments:
    """Return the arguments of a connection."""
    own = {
        "autocommit": True,
        "prepare_threshold": 5,
        "context": None,
        "row_factory": dict_row,
        "cursor_factory": psycopg.AsyncCursor,
    }
    refused = {**NOT_OF_LIBPQ, "conninfo": "first argument"}
    return Arguments({**OF_LIBPQ, **own}, refused, ("psycopg.AsyncConnection.connect",))


def of_pool() -> Arguments:
    """Return the arguments of a pool."""
    taken = {
        "connection_class": AsyncConnection,
        "kwargs": {"autocommit": True},
        "min_size": 1,
        "max_size": 2,
        "configure": hook,
        "check": hook,
        "reset": hook,
        "name": "x",
        "timeout": 5,
        "max_waiting": 9,
        "max_lifetime": 60,
        "max_idle": 60,
        "num_workers": 2,
    }
    refused = {
        "conninfo": "first argument",
        "open": "when its host answers",
        "close_returns": "release",
        "reconnect_timeout": "hasql itself connects",
        "reconnect_failed": "hasql itself connects",
    }
    return Arguments(taken, refused, ("psycopg_pool.AsyncConnectionPool",))


class Psycopg3Kit(Kit):
    name = "psycopg3"
    module = "hasql.psycopg3"
    over_libpq = True
    plus_is_space = False
    lost = (psycopg.OperationalError,)
    refused_statement = psycopg.DatabaseError
    refused_login = psycopg.OperationalError
    min_keyword = "min_size"
    max_keyword = "max_size"
    commits = True
    autocommit: ClassVar[dict[str, Any]] = {"kwargs": {"autocommit": True}}
    unprepared: ClassVar[dict[str, Any]] = {"kwargs": {"prepare_threshold": None}}
    connection_type = psycopg.AsyncConnection
    pool_type = AsyncConnectionPool

    def arguments(self) -> list[Arguments]:
        return [of_pool(), of_connect()._replace(within=lambda given: {"kwargs": given})]

    def of_connections(self, **kwargs: Any) -> dict[str, Any]:
        return {"kwargs": kwargs}

    async def take(self, pool: Any) -> Any:
        return await pool.getconn()

    async def put(self, pool: Any, connection: Any) -> None:
        await pool.putconn(connection)

    def endings(self) -> dict[str, Ending]:
        return {**super().endings(), "closed": closed}

    def checks(self) -> list[dict[str, Any]]:
        return [{"check": AsyncConnectionPool.check_connection}]

    def reset_hook(self, hook: Hook) -> dict[str, Any]:
        return {"reset": hook}

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        return {name: {name: hook} for name in ("configure", "check")}

    async def value(self, connection: Any, query: str) -> Any:
        cursor = await connection.execute(query)
        (value,) = await cursor.fetchone()
        return value

    async def write(self, connection: Any, statement: str) -> None:
        await connection.execute(statement)
        await connection.commit()

    async def begin(self, connection: Any, statement: str) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(f"BEGIN; {statement}" if connection.autocommit else statement)
