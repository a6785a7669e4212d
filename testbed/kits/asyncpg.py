"""The kit of asyncpg, and the part that it shares with that of asyncpgsa."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from testbed.kits.arguments import CHOOSES, DSN_ITSELF, IN_THE_DSN, OF_THE_LOOP, Arguments, hook
from testbed.kits.base import Ending, Kit, closed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.kits.base import Hook


async def terminated(pool: Any, connection: Any) -> None:
    del pool
    connection.terminate()


@contextmanager
def as_lost() -> Iterator[None]:
    """Raise an InterfaceError where asyncpg stumbles over a connection that was terminated.

    A statement takes two round trips if it is not prepared yet. If the connection is terminated
    between them, asyncpg raises AttributeError, which `except` cannot tell from a mistake.
    """
    try:
        yield
    except AttributeError as error:
        if error.name is None or error.obj is not None:  # asyncpg sets what it drops to None
            raise
        raise asyncpg.InterfaceError("terminated between two round trips") from error


async def ask(connection: Any) -> None:
    """Run a query, as a `setup` hook may do."""
    await connection.execute("SELECT 1")


def of_connect() -> Arguments:
    """Return the arguments of a connection."""
    taken = {
        "user": "app",
        "password": "secret",
        "passfile": "/dev/null",
        "service": "x",
        "servicefile": "/dev/null",
        "database": "app",
        "timeout": 5,
        "statement_cache_size": 10,
        "max_cached_statement_lifetime": 10,
        "max_cacheable_statement_size": 1000,
        "command_timeout": 5,
        "ssl": "disable",
        "direct_tls": False,
        "connection_class": asyncpg.Connection,
        "record_class": asyncpg.Record,
        "server_settings": {"work_mem": "8MB"},
        "krbsrvname": "postgres",
        "gsslib": "gssapi",
    }
    refused = {**IN_THE_DSN, **CHOOSES, **DSN_ITSELF, **OF_THE_LOOP}
    return Arguments(taken, refused, ("asyncpg.connect",))


def of_pool(create_pool: str, **more: Any) -> Arguments:
    """Return the arguments of a pool, including those of its connections."""
    of_connections = of_connect()
    hooks = {"connect": hook, "setup": hook, "init": hook, "reset": hook}
    numbers = {"min_size": 1, "max_size": 2, "max_queries": 9, "init_size": 1}
    taken = {**of_connections.taken, **hooks, **numbers, "max_inactive_connection_lifetime": 9}
    documented_by = (create_pool, *of_connections.documented_by)
    return Arguments(taken | more, of_connections.refused, documented_by)


class PoolOfAsyncpgKit(Kit):
    """The part that is the same for all libraries that use asyncpg's pool."""

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

    def endings(self) -> dict[str, Ending]:
        return {**super().endings(), "closed": closed, "terminated": terminated}

    def checks(self) -> list[dict[str, Any]]:
        return [{"setup": ask}]

    def reset_hook(self, hook: Hook) -> dict[str, Any]:
        return {"reset": hook}


class AsyncpgKit(PoolOfAsyncpgKit):
    name = "asyncpg"
    module = "hasql.asyncpg"

    def arguments(self) -> list[Arguments]:
        return [of_pool("asyncpg.create_pool")]

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        return {name: {name: hook} for name in ("init", "setup")}

    async def value(self, connection: Any, query: str) -> Any:
        with as_lost():
            return await connection.fetchval(query)

    async def write(self, connection: Any, statement: str) -> None:
        await connection.execute(statement)

    async def begin(self, connection: Any, statement: str) -> None:
        await connection.execute(f"BEGIN; {statement}")
