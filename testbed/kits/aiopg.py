"""The kit of aiopg, and the part that it shares with that of aiopg.sa."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, ClassVar

import aiopg
import psycopg2
from psycopg2 import extensions

from testbed.kits.arguments import DSN_ITSELF, NOT_OF_LIBPQ, OF_LIBPQ, Arguments, hook
from testbed.kits.base import Ending, Kit, closed

if TYPE_CHECKING:
    from testbed.kits.base import Hook


def of_pool(*create_pool: str, **more: Any) -> Arguments:
    """Return the arguments of a pool, including those of its connections."""
    taken = {
        **OF_LIBPQ,
        "database": "app",
        "connection_factory": extensions.connection,
        "cursor_factory": extensions.cursor,
        "minsize": 1,
        "maxsize": 2,
        "timeout": 5,
        "pool_recycle": 60,
        "enable_json": False,
        "enable_hstore": False,
        "enable_uuid": False,
        "echo": True,
        "on_connect": hook,
    }
    own = {"async": "aiopg itself decides", "async_": "aiopg itself decides"}
    refused = {**NOT_OF_LIBPQ, **DSN_ITSELF, **own}
    documented_by = (*create_pool, "aiopg.create_pool", "psycopg2.connect")
    return Arguments(taken | more, refused, documented_by)


class PoolOfAiopgKit(Kit):
    """The part that is the same for aiopg and aiopg.sa."""

    over_libpq = True
    plus_is_space = False
    lost = (psycopg2.OperationalError, psycopg2.InterfaceError)
    refused_statement = psycopg2.Error
    refused_login = psycopg2.OperationalError
    min_keyword = "minsize"
    max_keyword = "maxsize"

    def contradictions(self) -> list[dict[str, Any]]:
        # For aiopg a maximum of 0 means no limit.
        return [bounds for bounds in super().contradictions() if bounds.get("maxsize") != 0]

    def endings(self) -> dict[str, Ending]:
        return {**super().endings(), "closed": closed}

    def checks(self) -> list[dict[str, Any]]:
        return [{"pool_recycle": 0}]

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        return {"on_connect": {"on_connect": hook}}


class AiopgKit(PoolOfAiopgKit):
    name = "aiopg"
    module = "hasql.aiopg"
    connection_type = aiopg.Connection
    pool_type = aiopg.Pool

    def arguments(self) -> list[Arguments]:
        return [of_pool()]

    async def value(self, connection: Any, query: str) -> Any:
        async with connection.cursor() as cursor:
            await cursor.execute(query)
            return (await cursor.fetchone())[0]

    async def write(self, connection: Any, statement: str) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(statement)

    async def begin(self, connection: Any, statement: str) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(f"BEGIN; {statement}")


class Overtaken(extensions.connection):
    """A connection whose file descriptor is reused as soon as libpq closes it.

    When libpq closes a socket, another thread may open one that gets the same number before this
    thread is told that the connection is lost. `poll` plays that thread.
    """

    sockets: ClassVar[list[socket.socket]] = []

    def poll(self) -> Any:
        try:
            return super().poll()
        except psycopg2.OperationalError:
            if self.closed:
                self.sockets.append(socket.socket())
            raise
