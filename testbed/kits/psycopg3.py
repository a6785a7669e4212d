"""psycopg 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from psycopg_pool import AsyncConnectionPool

from hasql.psycopg3 import PoolManager
from testbed.kits.base import Ending, Kit, closed

if TYPE_CHECKING:
    from testbed.kits.base import Hook


class Psycopg3Kit(Kit):
    name = "psycopg3"
    module = "hasql.psycopg3"
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

    def manager(self, dsn: str, /, *args: Any, **kwargs: Any) -> PoolManager:
        return PoolManager(dsn, *args, **kwargs)

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
