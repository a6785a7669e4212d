"""The kit of asyncpgsa: statements are SQLAlchemy's expressions, which asyncpg itself refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncpgsa.connection import get_dialect
from sqlalchemy import text

from testbed.kits.asyncpg import PoolOfAsyncpgKit, as_lost, of_pool

if TYPE_CHECKING:
    from testbed.kits.arguments import Arguments
    from testbed.kits.base import Hook


class AsyncpgsaKit(PoolOfAsyncpgKit):
    name = "asyncpgsa"
    module = "hasql.asyncpgsa"

    def arguments(self) -> list[Arguments]:
        return [of_pool("asyncpgsa.create_pool", dialect=get_dialect())]

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        return {"setup": {"setup": hook}}

    async def value(self, connection: Any, query: str) -> Any:
        with as_lost():
            return await connection.fetchval(text(query))

    async def write(self, connection: Any, statement: str) -> None:
        await connection.execute(text(statement))

    async def begin(self, connection: Any, statement: str) -> None:
        await connection.execute("BEGIN")
        await connection.execute(text(statement))
