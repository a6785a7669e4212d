"""The kit of aiopg.sa."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiopg.sa
from aiopg.sa.engine import get_dialect

from testbed.kits.aiopg import PoolOfAiopgKit, of_pool

if TYPE_CHECKING:
    from testbed.kits.arguments import Arguments
    from testbed.kits.base import Ending


async def closed_beneath(pool: Any, connection: Any) -> None:
    del pool
    await connection.connection.close()


class AiopgSaKit(PoolOfAiopgKit):
    name = "aiopg_sa"
    module = "hasql.aiopg_sa"
    connection_type = aiopg.sa.SAConnection
    pool_type = aiopg.sa.Engine

    def arguments(self) -> list[Arguments]:
        dialect = get_dialect()  # type: ignore[no-untyped-call]
        return [of_pool("aiopg.sa.create_engine", dialect=dialect)]

    def endings(self) -> dict[str, Ending]:
        return {**super().endings(), "closed beneath": closed_beneath}

    async def value(self, connection: Any, query: str) -> Any:
        return await connection.scalar(query)

    async def write(self, connection: Any, statement: str) -> None:
        await connection.execute(statement)

    async def begin(self, connection: Any, statement: str) -> None:
        await connection.begin()
        await connection.execute(statement)
