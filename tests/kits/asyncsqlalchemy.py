"""SQLAlchemy's asyncio extension, over asyncpg and over psycopg 3."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import uuid4

import asyncpg
import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from hasql.asyncsqlalchemy import PoolManager
from tests.kits.base import Kit


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
