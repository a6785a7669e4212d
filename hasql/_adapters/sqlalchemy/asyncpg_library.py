"""asyncpg, as SQLAlchemy uses it: connections without a pool of asyncpg's."""

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
    check_open,
    count_rows,
    failure_of,
    guard_from_forks,
    in_hot_standby,
    is_read_only,
    sqlstate_of,
)
from hasql._adapters.asyncpg.fatal_errors import FatalErrorReader
from hasql._adapters.asyncpg.named_files import naming_files
from hasql._adapters.asyncpg.row import fetch_row
from hasql._adapters.asyncpg.session import AsyncpgSession
from hasql._adapters.asyncpg.transactions import ROLLED_BACK, state_of
from hasql._adapters.sqlalchemy.library import DbapiLibrary
from hasql._adapters.sqlalchemy.query import flag, not_text, text, whole_number
from hasql.driver import check_keywords
from hasql.driver.arguments import ROUTING, refuse_keywords
from hasql.driver.connects import discard_if_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql._adapters.session_setup import WithSettings
    from hasql.driver import Endpoint

__all__ = ("LIBRARY",)

_KNOWN = signature(asyncpg.connect).parameters.keys() - ROUTING.keys()
#: The `connect_args` that SQLAlchemy keeps for itself.
_OF_SQLALCHEMY = {"prepared_statement_cache_size", "prepared_statement_name_func"}
#: asyncpg itself reads all other parameters, such as `sslmode` or `passfile`, in the DSN.
_URL_ARGUMENTS: Mapping[str, Callable[[str], Any]] = {
    "command_timeout": float,
    "connection_class": not_text,
    "database": text,
    "direct_tls": flag,
    "max_cacheable_statement_size": whole_number,
    "max_cached_statement_lifetime": whole_number,
    "prepared_statement_cache_size": whole_number,
    "prepared_statement_name_func": not_text,
    "record_class": not_text,
    "server_settings": not_text,
    "servicefile": text,
    "ssl": text,
    "statement_cache_size": whole_number,
    "timeout": float,
}


class AsyncpgLibrary(DbapiLibrary):
    """asyncpg: its operations end at once when they are cancelled, and it watches its sockets."""

    dialect = dialect
    url_arguments = _URL_ARGUMENTS
    failure_of = staticmethod(failure_of)
    sqlstate_of = staticmethod(sqlstate_of)
    fetch_row = staticmethod(fetch_row)
    state_of = staticmethod(state_of)
    count_rows = staticmethod(count_rows)
    in_hot_standby = staticmethod(in_hot_standby)
    is_read_only = staticmethod(is_read_only)

    def check_connect_args(self, kwargs: Mapping[str, Any]) -> None:
        refuse_keywords(kwargs, ROUTING, "connect_args: hasql takes no argument {!r}")
        check_keywords(kwargs, _KNOWN | _OF_SQLALCHEMY, "asyncpg's connect, by connect_args,")

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_closed: Callable[[Any], None]
    ) -> WithSettings[tuple[RawConnection, str | None]]:
        of_class = _class_of(kwargs.get("connection_class", asyncpg.Connection))
        kwargs = {**kwargs, "connection_class": of_class}
        connecting = login.connect_for_pool(endpoint, asyncpg.connect, kwargs)
        with naming_files(endpoint.dsn):
            opened = await discard_if_cancelled(connecting, login.terminate_opened)
        connection = opened.connection[0]
        check_open(connection)
        guard_from_forks(connection)
        connection.add_termination_listener(on_closed)
        if isinstance(connection, _EngineConnection):  # always, but type checkers do not know that
            connection.fatal_errors = FatalErrorReader(connection)
        return opened

    async def open_session(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> AsyncpgSession:
        return await login.open_session(endpoint, kwargs, asyncpg.connect, on_lost)

    async def session_of(
        self, connection: RawConnection, on_lost: Callable[[], None]
    ) -> AsyncpgSession:
        return AsyncpgSession(connection, on_lost)

    def is_closed(self, connection: RawConnection) -> bool:
        return connection.is_closed()

    def is_clean(self, connection: RawConnection) -> bool:
        # asyncpg does not tell whether another task's statement runs: see `check_unused`.
        return not connection.is_closed() and not connection.is_in_transaction()

    def read_only(self, adapted: Any) -> bool | None:
        before: bool = adapted.readonly
        return before

    async def set_read_only(self, adapted: Any, value: bool | None) -> None:  # noqa: FBT001  # as above
        adapted.readonly = value

    def ended_by_limit(self, connection: RawConnection) -> bool:
        return isinstance(connection, _EngineConnection) and connection.ended_by_limit

    def was_rolled_back(self, connection: RawConnection) -> bool:
        # A listener of the application's may have made a connection of another class.
        return getattr(connection, "last_tag", "") == ROLLED_BACK

    async def check_unused(self, connection: RawConnection) -> None:
        # asyncpg raises an error if another statement is already running.
        await connection.execute("")

    def abort(self, connection: RawConnection) -> None:
        # asyncpg's own method also ends a connection that is being closed. That of
        # `_EngineConnection` does not.
        asyncpg.Connection.terminate(connection)

    def pending_cancel(self, connection: RawConnection) -> asyncio.Future[None] | None:
        closing: asyncio.Future[None] | None = getattr(connection, "closing", None)
        return None if closing is None or closing.done() else closing


class _EngineConnection:
    """Mixed into a connection: keeps the last answer, and finishes closing once that has begun.

    SQLAlchemy closes a connection when a statement on it is cancelled, and asyncpg then first
    asks the server to cancel the statement. If SQLAlchemy's task is cancelled again meanwhile,
    SQLAlchemy terminates the connection, and the server would go on with the statement.
    """

    closing: asyncio.Task[None] | None = None
    #: The command tag of the last `execute`; SQLAlchemy ends transactions by that method.
    last_tag = ""
    fatal_errors: FatalErrorReader | None = None

    @property
    def ended_by_limit(self) -> bool:
        """Whether the server has said that it ends the session because of a time limit."""
        return self.fatal_errors is not None and self.fatal_errors.of_limit

    async def execute(self, query: str, *args: Any, **kwargs: Any) -> str:
        """Execute as asyncpg does, and keep the answer, which asyncpg drops after a COMMIT."""
        tag: str = await super().execute(query, *args, **kwargs)  # type: ignore[misc]  # as mixed in
        self.last_tag = tag
        return tag

    async def close(self, *, timeout: float | None = None) -> None:
        """Close as asyncpg does, but in a task of its own, which goes on if this is cancelled.

        SQLAlchemy passes a `timeout` when it closes a connection because a statement has failed.
        Without a `timeout` no task is made.
        """
        orderly = super().close(timeout=timeout)  # type: ignore[misc]  # as mixed in
        if timeout is None or self.is_closed():  # type: ignore[attr-defined]  # as above
            await orderly
            return
        self.closing = asyncio.create_task(orderly)
        self.closing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self.closing)

    def terminate(self) -> None:
        """Terminate as asyncpg does, unless it is being closed: closing has a time limit."""
        if self.closing is None or self.closing.done():
            super().terminate()  # type: ignore[misc]  # as above


@cache
def _class_of(user_class: Any) -> Any:
    return type(user_class.__name__, (_EngineConnection, user_class), {})


LIBRARY = AsyncpgLibrary()
