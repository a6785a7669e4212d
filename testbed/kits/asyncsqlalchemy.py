"""The kits of SQLAlchemy's asyncio extension, with asyncpg and with psycopg 3."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import asyncpg
import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

import testbed.kits.asyncpg
import testbed.kits.psycopg3
from testbed.kits.arguments import Arguments
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


def plain_hook(*_: object) -> None: ...


def within_connect_args(given: dict[str, Any]) -> dict[str, Any]:
    return {"connect_args": given}


def of_engine() -> Arguments:
    """Return the arguments of an engine."""
    taken = {
        "connect_args": {},
        "empty_in_strategy": "static",  # deprecated and without effect, like `implicit_returning`
        "implicit_returning": True,
        "echo": False,
        "echo_pool": False,
        "enable_from_linting": False,
        "execution_options": {"x": 1},
        "future": True,
        "hide_parameters": True,
        "insertmanyvalues_page_size": 10,
        "isolation_level": "READ COMMITTED",
        "json_deserializer": json.loads,
        "json_serializer": json.dumps,
        "label_length": 20,
        "logging_name": "x",
        "max_identifier_length": 63,
        "max_overflow": 1,
        "paramstyle": "numeric_dollar",
        "plugins": [],
        "pool_events": [(plain_hook, "checkout")],
        "pool_logging_name": "x",
        "pool_pre_ping": True,
        "pool_recycle": 60,
        "pool_reset_on_return": "rollback",
        "pool_size": 1,
        "pool_timeout": 5,
        "pool_use_lifo": True,
        "query_cache_size": 10,
        "use_insertmanyvalues": False,
        "native_inet_types": False,
    }
    if tuple(map(int, version("sqlalchemy").split(".")[:2])) >= (2, 1):
        taken["skip_autocommit_rollback"] = True
    refused = dict.fromkeys(("url", "pool", "poolclass"), "one queue pool for each host")
    refused |= dict.fromkeys(("creator", "async_creator", "module"), "connect_args")
    refused |= {"server_side_cursors": "stream"}
    pages = f"{create_async_engine.__doc__}{create_engine.__doc__}"
    return Arguments(taken, refused, (), on_pages=tuple(re.findall(r"(?m)^ *:param (\w+)", pages)))


class _SqlalchemyKit(Kit):
    module = "hasql.asyncsqlalchemy"
    lost: tuple[type[Exception], ...] = (DBAPIError, ConnectionError)
    refused_statement = DBAPIError
    min_keyword = None
    max_keyword = "pool_size"
    autocommit: ClassVar[dict[str, Any] | None] = {"isolation_level": "AUTOCOMMIT"}
    connection_type = AsyncConnection
    pool_type = AsyncEngine
    #: The library that SQLAlchemy uses, by its name in a DSN.
    library: str

    def dsn(self, dsn: str) -> str:
        return dsn.replace("postgresql://", f"postgresql+{self.library}://", 1)

    def of_connections(self, **kwargs: Any) -> dict[str, Any]:
        return {"connect_args": kwargs}

    def sizes(self, minimum: int, maximum: int) -> dict[str, Any]:
        del minimum  # SQLAlchemy's pools start empty
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
    library = "asyncpg"
    unprepared: ClassVar[dict[str, Any]] = {
        "connect_args": {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
        }
    }
    # On a connection that has received the server's last message, SQLAlchemy before 2.1 lets
    # asyncpg's own error through.
    lost = (*_SqlalchemyKit.lost, asyncpg.InternalClientError)
    refused_login = asyncpg.InvalidPasswordError

    def arguments(self) -> list[Arguments]:
        of_connect = testbed.kits.asyncpg.of_connect()
        of_connect.taken["prepared_statement_cache_size"] = 0
        of_connect.taken["prepared_statement_name_func"] = lambda: ""
        return [of_engine(), of_connect._replace(within=within_connect_args)]


class SqlalchemyPsycopgKit(_SqlalchemyKit):
    name = "sqlalchemy-psycopg"
    library = "psycopg"
    over_libpq = True
    odd_encoding = "LATIN1"
    unprepared: ClassVar[dict[str, Any]] = {"connect_args": {"prepare_threshold": None}}
    refused_login = psycopg.OperationalError

    def arguments(self) -> list[Arguments]:
        of_dialect, of_connect = of_engine(), testbed.kits.psycopg3.of_connect()
        of_dialect.taken["paramstyle"] = "pyformat"
        of_dialect.taken["use_native_hstore"] = False
        of_connect.taken["service"] = of_connect.refused.pop("service") and "x"
        return [of_dialect, of_connect._replace(within=within_connect_args)]
