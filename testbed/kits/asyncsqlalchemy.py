"""SQLAlchemy's asyncio extension, over asyncpg and over psycopg 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import asyncpg
import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import await_only

from hasql.asyncsqlalchemy import PoolManager
from testbed.kits.base import Ending, Kit


async def rolled_back(_: Any, connection: Any) -> None:
    await connection.rollback()


async def invalidated(_: Any, connection: Any) -> None:
    await connection.invalidate()


async def invalidated_and_used_again(_: Any, connection: Any) -> None:
    await connection.invalidate()
    await connection.rollback()
    await connection.execute(text("SELECT 1"))


async def invalidated_when_it_is_back(_: Any, connection: Any) -> None:
    (await connection.get_raw_connection()).invalidate(soft=True)


async def invalidated_where_SQLAlchemy_cannot_close(_: Any, connection: Any) -> None:  # noqa: N802
    (await connection.get_raw_connection()).invalidate()


async def detached(_: Any, connection: Any) -> None:
    (await connection.get_raw_connection()).detach()


async def detached_and_closed(_: Any, connection: Any) -> None:
    (await connection.get_raw_connection()).detach()
    await connection.close()


async def closed_beneath(_: Any, connection: Any) -> None:
    await (await connection.get_raw_connection()).driver_connection.close()


async def engine_disposed_of(engine: Any, _: Any) -> None:
    await engine.dispose()


_ENDINGS = (
    rolled_back,
    invalidated,
    invalidated_and_used_again,
    invalidated_when_it_is_back,
    invalidated_where_SQLAlchemy_cannot_close,
    detached,
    detached_and_closed,
    closed_beneath,
    engine_disposed_of,
)

if TYPE_CHECKING:
    from testbed.kits.base import Hook


class _SqlalchemyKit(Kit):
    module = "hasql.asyncsqlalchemy"
    lost: tuple[type[Exception], ...] = (DBAPIError, ConnectionError)
    refused_statement = DBAPIError
    min_keyword = None
    max_keyword = "pool_size"
    autocommit: ClassVar[dict[str, Any] | None] = {"isolation_level": "AUTOCOMMIT"}
    connection_type = AsyncConnection
    pool_type = AsyncEngine
    driver: str

    def manager(self, dsn: str, /, *args: Any, **kwargs: Any) -> PoolManager:
        dsn = dsn.replace("postgresql://", f"postgresql+{self.driver}://", 1)
        return PoolManager(dsn, *args, **kwargs)

    def sizes(self, minimum: int, maximum: int) -> dict[str, Any]:
        del minimum  # SQLAlchemy's pools begin with none
        return {"pool_size": maximum, "max_overflow": 0}

    async def take(self, pool: Any) -> Any:
        return await pool.connect()

    async def put(self, pool: Any, connection: Any) -> None:
        del pool
        await connection.close()

    def endings(self) -> dict[str, Ending]:
        return {**super().endings(), **{end.__name__.replace("_", " "): end for end in _ENDINGS}}

    def checks(self) -> list[dict[str, Any]]:
        return [{"pool_pre_ping": True}, {"pool_recycle": 0}]

    def reset_hook(self, hook: Hook) -> dict[str, Any]:
        return self._on(hook, "reset")

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        return {name: self._on(hook, name) for name in ("connect", "checkout")}

    def _on(self, hook: Hook, name: str) -> dict[str, Any]:
        return {"pool_events": [(lambda adapted, *_: await_only(hook(adapted)), name)]}

    async def value(self, connection: Any, query: str) -> Any:
        return await connection.scalar(text(query))

    async def write(self, connection: Any, statement: str) -> None:
        await connection.execute(text(statement))
        await connection.commit()

    async def begin(self, connection: Any, statement: str) -> None:
        await connection.execute(text(statement))


class SqlalchemyAsyncpgKit(_SqlalchemyKit):
    name = "sqlalchemy-asyncpg"
    driver = "asyncpg"
    unprepared: ClassVar[dict[str, Any]] = {
        "connect_args": {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
        }
    }
    # SQLAlchemy before 2.1 lets asyncpg's own error through on a connection that has heard the
    # server's last words.
    lost = (*_SqlalchemyKit.lost, asyncpg.InternalClientError)
    refused_login = asyncpg.InvalidPasswordError


class SqlalchemyPsycopgKit(_SqlalchemyKit):
    name = "sqlalchemy-psycopg"
    driver = "psycopg"
    unprepared: ClassVar[dict[str, Any]] = {"connect_args": {"prepare_threshold": None}}
    refused_login = psycopg.OperationalError
