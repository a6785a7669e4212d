"""aiopg.sa."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiopg.sa
import psycopg2  # type: ignore[import-untyped]

from hasql.aiopg_sa import PoolManager
from testbed.kits.base import Ending, Kit, closed


async def closed_beneath(pool: Any, connection: Any) -> None:
    del pool
    await connection.connection.close()


if TYPE_CHECKING:
    from testbed.kits.base import Hook


class AiopgSaKit(Kit):
    name = "aiopg_sa"
    module = "hasql.aiopg_sa"
    lost = (psycopg2.OperationalError, psycopg2.InterfaceError)
    refused_statement = psycopg2.Error
    refused_login = psycopg2.OperationalError
    min_keyword = "minsize"
    max_keyword = "maxsize"
    connection_type = aiopg.sa.SAConnection
    pool_type = aiopg.sa.Engine

    def manager(self, dsn: str, /, *args: Any, **kwargs: Any) -> PoolManager:
        return PoolManager(dsn, *args, **kwargs)

    def contradictions(self) -> list[dict[str, Any]]:
        # A maximum of 0 is aiopg's word for none.
        return [bounds for bounds in super().contradictions() if bounds.get("maxsize") != 0]

    def endings(self) -> dict[str, Ending]:
        return {**super().endings(), "closed": closed, "closed beneath": closed_beneath}

    def checks(self) -> list[dict[str, Any]]:
        return [{"pool_recycle": 0}]

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        return {"on_connect": {"on_connect": hook}}

    async def value(self, connection: Any, query: str) -> Any:
        return await connection.scalar(query)

    async def write(self, connection: Any, statement: str) -> None:
        await connection.execute(statement)

    async def begin(self, connection: Any, statement: str) -> None:
        await connection.begin()
        await connection.execute(statement)
