"""aiopg's connections: what they tell about the server, and how they are aborted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from psycopg2 import extensions

from hasql._adapters.libpq import shut_down, stop_listening

if TYPE_CHECKING:
    import aiopg

__all__ = (
    "LOST",
    "abort_connection",
    "address_of",
    "close_raw",
    "count_rows",
    "in_hot_standby",
    "in_transaction",
    "is_read_only",
    "lost_while_opened",
)

#: `closed` of a psycopg2 connection that was closed on this side, not lost.
_CLOSED = 1

LOST = 2
"""`closed` of a psycopg2 connection that was lost and has not been closed since."""


def close_raw(raw: Any) -> None:
    """Close a psycopg2 connection that aiopg no longer refers to."""
    if not raw.closed:
        stop_listening(raw.fileno())
        raw.close()


def lost_while_opened() -> ConnectionError:
    """Return the error for an acquire whose connection was lost before it could be used.

    If a connection ends right after an answer, psycopg2 reports a closed cursor, as it would to an
    application that has closed the cursor itself. The acquire would not go on after that error; it
    does after this one.
    """
    return ConnectionError("the connection was lost while it was being opened")


def abort_connection(connection: aiopg.Connection) -> None:
    """Close a connection at once, without a word to the server.

    aiopg's `close` makes the event loop forget the descriptor, so it must not be called twice, nor
    after `poll` has found the connection lost: by then the descriptor may belong to another
    connection. But aiopg's pool calls it once more when the pool is closed. So `close` of this
    connection is replaced by a function that does nothing.
    """
    raw = connection.raw
    if not raw.closed:
        shut_down(raw.fileno())
    if raw.descriptor is None:
        raw.close()
    elif raw.closed != _CLOSED:
        _ = connection.close()
    connection.close = _nothing_more  # type: ignore[method-assign]  # of this one object
    raw.left_running = None  # the statement of an aborted connection is left to the server


def _nothing_more() -> asyncio.Future[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


def address_of(connection: aiopg.Connection) -> str | None:
    """Return the address that libpq was given; None: a Unix socket, or the host is an address."""
    address: str | None = connection.raw.info.dsn_parameters.get("hostaddr")
    return address or None


def in_transaction(connection: aiopg.Connection) -> bool:
    """Tell whether a transaction is open or a statement is running, as far as libpq knows."""
    status: int = connection.raw.info.transaction_status
    idle: int = extensions.TRANSACTION_STATUS_IDLE
    return status != idle


async def count_rows(connection: aiopg.Connection, sql: str) -> int:
    """Run a query and return how many rows it has; aiopg's connections are in autocommit."""
    async with connection.cursor(cursor_factory=extensions.cursor) as cursor:
        await cursor.execute(sql)
        count: int = cursor.rowcount
        return count


def in_hot_standby(connection: aiopg.Connection) -> bool | None:
    """Return what the server reported last. PostgreSQL reports this since version 14."""
    raw = connection.raw
    flag = None if raw.closed else raw.get_parameter_status("in_hot_standby")
    return None if flag is None else flag == "on"


def is_read_only(connection: aiopg.Connection) -> bool:
    """Tell whether transactions are read-only by default, as the server reported last."""
    default: str | None = connection.raw.get_parameter_status("default_transaction_read_only")
    return default == "on"
