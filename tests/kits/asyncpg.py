"""asyncpg."""

from __future__ import annotations

from typing import Any, ClassVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from hasql.asyncpg import PoolManager
from tests.kits.base import Kit


class AsyncpgKit(Kit):
    name = "asyncpg"
    module = "hasql.asyncpg"
    lost = (
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        ConnectionError,
    )
    refused_statement = asyncpg.PostgresError
    refused_login = asyncpg.InvalidPasswordError
    min_keyword = "min_size"
    max_keyword = "max_size"
    acquire_kwargs: ClassVar[dict[str, Any]] = {}
    unprepared: ClassVar[dict[str, Any]] = {"statement_cache_size": 0}
    release_kwargs: ClassVar[dict[str, Any]] = {"timeout": 3}
    connection_type = PoolConnectionProxy
    pool_type = asyncpg.Pool

    def manager(self, dsn: str, /, *args: Any, **kwargs: Any) -> PoolManager:
        return PoolManager(dsn, *args, **kwargs)

    async def value(self, connection: Any, query: str) -> Any:
        return await connection.fetchval(query)

    async def write(self, connection: Any, statement: str) -> None:
        await connection.execute(statement)

    async def begin(self, connection: Any, statement: str) -> None:
        await connection.execute(f"BEGIN; {statement}")
