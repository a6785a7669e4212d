"""aiopg."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, ClassVar

import aiopg
import psycopg2  # type: ignore[import-untyped]
from psycopg2 import extensions

from hasql.aiopg import PoolManager
from testbed.kits.base import Ending, Kit, closed

if TYPE_CHECKING:
    from testbed.kits.base import Hook


class AiopgKit(Kit):
    name = "aiopg"
    module = "hasql.aiopg"
    lost = (psycopg2.OperationalError, psycopg2.InterfaceError)
    refused_statement = psycopg2.Error
    refused_login = psycopg2.OperationalError
    min_keyword = "minsize"
    max_keyword = "maxsize"
    connection_type = aiopg.Connection
    pool_type = aiopg.Pool

    def manager(self, dsn: str, /, *args: Any, **kwargs: Any) -> PoolManager:
        return PoolManager(dsn, *args, **kwargs)

    def contradictions(self) -> list[dict[str, Any]]:
        # A maximum of 0 is aiopg's word for none.
        return [bounds for bounds in super().contradictions() if bounds.get("maxsize") != 0]

    def endings(self) -> dict[str, Ending]:
        return {**super().endings(), "closed": closed}

    def checks(self) -> list[dict[str, Any]]:
        return [{"pool_recycle": 0}]

    def hooks(self, hook: Hook) -> dict[str, dict[str, Any]]:
        return {"on_connect": {"on_connect": hook}}

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


class Overtaken(extensions.connection):  # type: ignore[misc]  # of an untyped library
    """When libpq closes a socket, another thread opens one, which gets its number.

    A thread can do so before anybody in this one is told that the connection is lost.
    """

    sockets: ClassVar[list[socket.socket]] = []

    def poll(self) -> Any:
        try:
            return super().poll()
        except psycopg2.OperationalError:
            if self.closed:
                self.sockets.append(socket.socket())
            raise
