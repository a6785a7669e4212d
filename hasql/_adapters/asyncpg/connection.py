"""Connections of asyncpg, and what their errors say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from hasql.driver import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = (
    "Connection",
    "Pool",
    "RawConnection",
    "connect_of",
    "count_rows",
    "failure_of",
    "in_hot_standby",
)

# As strings: asyncpg's classes take their parameter in its stubs alone.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
RawConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def connect_of(kwargs: Mapping[str, Any]) -> Any:
    """Return what opens a connection: the user's own, or asyncpg's."""
    return kwargs.get("connect") or asyncpg.connect


def in_hot_standby(connection: Connection | RawConnection) -> bool | None:
    """Return what the server reported last; PostgreSQL does since version 14."""
    settings: Any = connection.get_settings()
    try:
        # By hand, as the usual way looks for it everywhere else first: 0.6 us more, and each lease
        # of a replica asks twice.
        flag = settings.__getattr__("in_hot_standby")
    except AttributeError:
        return None
    in_standby: bool = flag == "on"
    return in_standby


async def count_rows(connection: Connection | RawConnection, sql: str) -> int:
    """Run a query and return how many rows it has, as its command tag says."""
    tag = await connection.execute(sql)
    return int(tag.rpartition(" ")[2])


def failure_of(error: BaseException) -> Failure:
    """Say what an exception tells of the server."""
    if isinstance(error, asyncpg.PostgresError):
        if isinstance(error.__cause__, asyncpg.PostgresError):
            error = error.__cause__  # what the server has said as it ended the connection
        return Failure.of_sqlstate(error.sqlstate or "", str(error))
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return Failure.REFUSED
    if isinstance(error, asyncpg.InternalClientError):
        return Failure.BROKEN  # as after the last words of a server that is going down
    return Failure.of_exception(error)
