"""psycopg 3, as it works beneath SQLAlchemy: connections without a pool of their own."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects.postgresql.psycopg import dialect_async as dialect

from hasql._adapters.psycopg import login
from hasql._adapters.psycopg.connection import Watched
from hasql._adapters.psycopg.failure import failure_of
from hasql._adapters.psycopg.server import count_rows, in_hot_standby, is_read_only
from hasql._adapters.psycopg.session import PsycopgSession
from hasql._adapters.sqlalchemy.query import flag, no_text, whole_number
from hasql.driver.arguments import ROUTING, refuse_keywords
from hasql.driver.connects import left_to_end
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

__all__ = (
    "URL_ARGUMENTS",
    "break_off",
    "check_connect_args",
    "check_unused",
    "connect",
    "count_rows",
    "dialect",
    "ending",
    "failure_of",
    "has_died",
    "in_hot_standby",
    "in_use",
    "is_clean",
    "is_closed",
    "is_read_only",
    "open_session",
    "session_of",
    "settle",
)

_OF_PSYCOPG = frozenset(signature(psycopg.AsyncConnection.connect).parameters) - {"kwargs"}
#: All else psycopg reads in the DSN itself.
URL_ARGUMENTS: Mapping[str, Callable[[str], Any]] = {
    "autocommit": flag,
    "context": no_text,
    "cursor_factory": no_text,
    "prepare_threshold": whole_number,
    "row_factory": no_text,
}


def check_connect_args(kwargs: Mapping[str, Any]) -> None:
    """Refuse what is not known. Raises ConfigurationError."""
    refuse_keywords(kwargs, ROUTING, "connect_args: hasql takes no argument {!r}")
    try:
        make_conninfo(**{name: v for name, v in kwargs.items() if name not in _OF_PSYCOPG})
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(f"connect_args: {error}") from None


async def connect(dsn: str, kwargs: Mapping[str, Any], on_closed: Callable[[Any], None]) -> Watched:
    """Open a connection."""
    del on_closed  # psycopg finds out when it is used
    connection = await left_to_end(Watched.connect(dsn, **kwargs), break_off)
    connection.ours = False
    return connection


async def open_session(
    dsn: str, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
) -> PsycopgSession:
    """Open a reserved connection."""
    connecting = login.open_session(dsn, kwargs, on_lost)
    return await left_to_end(connecting, PsycopgSession.kill)


async def session_of(
    connection: psycopg.AsyncConnection[Any], on_lost: Callable[[], None]
) -> PsycopgSession:
    """Go on with a connection that the application has opened as a reserved one."""
    return PsycopgSession(await login.taken_over(connection), on_lost, in_transactions=True)


def is_closed(connection: Watched) -> bool:
    """Tell whether a connection is known to be gone."""
    return connection.lost or connection.closed


def has_died(connection: Watched) -> bool:
    """Tell whether an idle connection is gone, which psycopg does not watch."""
    return not connection.is_sound()


def is_clean(connection: Watched) -> bool:
    """Tell, without asking the server, whether nothing is open or at work in a connection."""
    idle = connection.pgconn.transaction_status == TransactionStatus.IDLE
    return idle and not connection.lock.locked()


async def check_unused(connection: Watched) -> None:
    """Raise nothing: `in_use` tells."""


def in_use(connection: Watched) -> bool:
    """Tell whether somebody waits for an answer who must not be cancelled before it breaks."""
    active = connection.pgconn.transaction_status == TransactionStatus.ACTIVE
    return active or connection.lock.locked()


def break_off(connection: Watched) -> None:
    """Break a connection at once, without a word to the server."""
    connection.sever()
    if not in_use(connection):
        connection.pgconn.finish()


def ending(connection: Watched) -> asyncio.Future[None] | None:
    """Return what ends a statement that was cancelled, if SQLAlchemy does not wait for it."""
    return connection.ending


async def settle(connection: Watched) -> None:
    """Wait until nobody is inside a broken connection: its socket has to wake them first."""
    async with connection.lock:
        pass
