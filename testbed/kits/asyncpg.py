"""asyncpg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from hasql.asyncpg import PoolManager
from testbed.kits.base import Ending, Kit, closed


async def terminated(pool: Any, connection: Any) -> None:
    del pool
    connection.terminate()


async def ask(connection: Any) -> None:
    """Do what a `setup` hook may do."""
    await connection.execute("SELECT 1")


if TYPE_CHECKING:
    from testbed.kits.base import Hook


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

    def endings(self) -> dict[str, Ending]:
        return {**super().endings(), "closed": closed, "terminated": terminated}

    def checks(self) -> list[dict[str, Any]]:
        return [{"setup": ask}]

    def reset_hook(self, hook: Hook) -> dict[str, Any]:
        return {"reset": hook}

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        return {name: {name: hook} for name in ("init", "setup")}

    async def value(self, connection: Any, query: str) -> Any:
        return await connection.fetchval(query)

    async def write(self, connection: Any, statement: str) -> None:
        await connection.execute(statement)

    async def begin(self, connection: Any, statement: str) -> None:
        await connection.execute(f"BEGIN; {statement}")
