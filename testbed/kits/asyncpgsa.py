"""asyncpgsa."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy import text

from hasql.asyncpgsa import PoolManager
from testbed.kits.asyncpg import AsyncpgKit, ask, terminated
from testbed.kits.base import Ending, Kit, closed

if TYPE_CHECKING:
    from testbed.kits.base import Hook


class AsyncpgsaKit(Kit):
    name = "asyncpgsa"
    module = "hasql.asyncpgsa"
    lost = AsyncpgKit.lost
    refused_statement = asyncpg.PostgresError
    refused_login = asyncpg.InvalidPasswordError
    min_keyword = "min_size"
    max_keyword = "max_size"
    acquire_kwargs: ClassVar[dict[str, Any]] = {}
    unprepared = AsyncpgKit.unprepared
    release_kwargs: ClassVar[dict[str, Any]] = {"timeout": 3}
    connection_type = PoolConnectionProxy
    pool_type = asyncpg.Pool

    def manager(self, dsn: str, /, *args: Any, **kwargs: Any) -> PoolManager:
        return PoolManager(dsn, *args, **kwargs)

    def endings(self) -> dict[str, Ending]:
        return {**super().endings(), "closed": closed, "terminated": terminated}

    def checks(self) -> list[dict[str, Any]]:
        return [{"setup": ask}]

    # As SQLAlchemy's expressions, which a connection of asyncpg alone would refuse.

    def reset_hook(self, hook: Hook) -> dict[str, Any]:
        return {"reset": hook}

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        return {"setup": {"setup": hook}}

    async def value(self, connection: Any, query: str) -> Any:
        return await connection.fetchval(text(query))

    async def write(self, connection: Any, statement: str) -> None:
        await connection.execute(text(statement))

    async def begin(self, connection: Any, statement: str) -> None:
        await connection.execute("BEGIN")
        await connection.execute(text(statement))
