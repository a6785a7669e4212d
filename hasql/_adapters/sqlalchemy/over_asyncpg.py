"""asyncpg, as it works beneath SQLAlchemy: connections without a pool of their own."""

from __future__ import annotations

import asyncio
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from hasql._adapters.asyncpg import login
from hasql._adapters.asyncpg.connection import (
    RawConnection,
    count_rows,
    failure_of,
    guard_from_forks,
    in_hot_standby,
    is_read_only,
    naming_files,
)
from hasql._adapters.asyncpg.session import AsyncpgSession
from hasql._adapters.sqlalchemy.query import flag, no_text, text, whole_number
from hasql.driver import check_keywords
from hasql.driver.arguments import ROUTING, refuse_keywords
from hasql.driver.connects import left_to_end

if TYPE_CHECKING:
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

_KNOWN = signature(asyncpg.connect).parameters.keys() - ROUTING.keys()
#: What SQLAlchemy keeps to itself of `connect_args`.
_OF_SQLALCHEMY = {"prepared_statement_cache_size", "prepared_statement_name_func"}
#: All else, such as `sslmode` or `passfile`, asyncpg reads in the DSN itself.
URL_ARGUMENTS: Mapping[str, Callable[[str], Any]] = {
    "command_timeout": float,
    "connection_class": no_text,
    "database": text,
    "direct_tls": flag,
    "max_cacheable_statement_size": whole_number,
    "max_cached_statement_lifetime": whole_number,
    "prepared_statement_cache_size": whole_number,
    "prepared_statement_name_func": no_text,
    "record_class": no_text,
    "server_settings": no_text,
    "servicefile": text,
    "ssl": text,
    "statement_cache_size": whole_number,
    "timeout": float,
}


def check_connect_args(kwargs: Mapping[str, Any]) -> None:
    """Refuse what is not known. Raises ConfigurationError."""
    refuse_keywords(kwargs, ROUTING, "connect_args: hasql takes no argument {!r}")
    check_keywords(kwargs, _KNOWN | _OF_SQLALCHEMY, "asyncpg's connect, by connect_args,")


class _Parting:
    """Closes a connection to the end, once SQLAlchemy has begun to.

    It does so when a statement is cancelled, for which asyncpg first has the server end that. When
    it is cancelled again meanwhile, it terminates the connection, with the statement running.
    """

    goodbye: asyncio.Task[None] | None = None

    async def close(self, *, timeout: float | None = None) -> None:
        """Close, as asyncpg does; in a task of its own, which goes on when this is cancelled.

        SQLAlchemy gives a time limit when a statement has failed.
        """
        closing = super().close(timeout=timeout)  # type: ignore[misc]  # as mixed in
        if timeout is None or self.is_closed():  # type: ignore[attr-defined]  # as above
            await closing
            return
        self.goodbye = asyncio.create_task(closing)
        self.goodbye.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self.goodbye)

    def terminate(self) -> None:
        """Terminate, as asyncpg does, unless it is being closed, which has its time limit."""
        if self.goodbye is None or self.goodbye.done():
            super().terminate()  # type: ignore[misc]  # as above


@cache
def _class_of(users: Any) -> Any:
    return type(users.__name__, (_Parting, users), {})


async def connect(
    dsn: str, kwargs: Mapping[str, Any], on_closed: Callable[[Any], None]
) -> RawConnection:
    """Open a connection; `on_closed` is called when it is gone."""
    of_class = _class_of(kwargs.get("connection_class", asyncpg.Connection))
    kwargs = {**kwargs, "connection_class": of_class}
    connecting = asyncpg.connect(login.without_choice(dsn), **kwargs)
    with naming_files(dsn):
        connection: RawConnection = await left_to_end(connecting, asyncpg.Connection.terminate)
    guard_from_forks(connection)
    connection.add_termination_listener(on_closed)
    return connection


async def open_session(
    dsn: str, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
) -> AsyncpgSession:
    """Open a reserved connection."""
    return await login.open_session(dsn, kwargs, asyncpg.connect, on_lost)


async def session_of(connection: RawConnection, on_lost: Callable[[], None]) -> AsyncpgSession:
    """Go on with a connection that the application has opened as a reserved one."""
    return AsyncpgSession(connection, on_lost)


def is_closed(connection: RawConnection) -> bool:
    """Tell whether a connection is known to be gone."""
    return connection.is_closed()


#: asyncpg watches its idle sockets.
has_died = is_closed


def is_clean(connection: RawConnection) -> bool:
    """Tell, without asking the server, whether no transaction is open in a connection."""
    return not connection.is_closed() and not connection.is_in_transaction()


async def check_unused(connection: RawConnection) -> None:
    """Raise if a statement of another task runs: asyncpg says so when it is to run one more."""
    await connection.execute("")


def in_use(connection: RawConnection) -> bool:
    """Tell whether somebody waits for an answer who must not be cancelled before it breaks."""
    del connection
    return False  # asyncpg's operations end at once when cancelled


def break_off(connection: RawConnection) -> None:
    """Break a connection at once, without a word to the server."""
    asyncpg.Connection.terminate(connection)


def ending(connection: RawConnection) -> asyncio.Future[None] | None:
    """Return what ends a statement that was cancelled, if SQLAlchemy does not wait for it."""
    goodbye: asyncio.Future[None] | None = getattr(connection, "goodbye", None)
    return None if goodbye is None or goodbye.done() else goodbye


async def settle(connection: RawConnection) -> None:
    """Wait until nobody is inside a broken connection: asyncpg lets everybody go at once."""
