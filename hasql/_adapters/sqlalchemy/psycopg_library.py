"""psycopg 3, as SQLAlchemy uses it: connections without a pool of psycopg's."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects.postgresql.psycopg import dialect_async

from hasql._adapters.psycopg import login
from hasql._adapters.psycopg.connection import PsycopgConnection
from hasql._adapters.psycopg.failure import failure_of, sqlstate_of
from hasql._adapters.psycopg.server import (
    ask,
    count_rows,
    first_row,
    in_hot_standby,
    is_read_only,
)
from hasql._adapters.psycopg.session import PsycopgSession
from hasql._adapters.psycopg.transactions import state_of
from hasql._adapters.sqlalchemy.library import DbapiLibrary
from hasql._adapters.sqlalchemy.query import flag, not_text, whole_number
from hasql.driver.arguments import ROUTING, refuse_keywords
from hasql.driver.connects import discard_if_cancelled
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from hasql._adapters.session_setup import WithSettings
    from hasql.driver import Endpoint

__all__ = ("LIBRARY",)

_OF_PSYCOPG = frozenset(signature(psycopg.AsyncConnection.connect).parameters) - {"kwargs"}
#: psycopg itself reads all other parameters in the DSN.
_URL_ARGUMENTS: Mapping[str, Callable[[str], Any]] = {
    "autocommit": flag,
    "context": not_text,
    "cursor_factory": not_text,
    "prepare_threshold": whole_number,
    "row_factory": not_text,
}


class PsycopgLibrary(DbapiLibrary):
    """psycopg 3: a cancelled task waits for the server, and idle sockets are not watched."""

    dialect = dialect_async
    url_arguments = _URL_ARGUMENTS
    failure_of = staticmethod(failure_of)
    sqlstate_of = staticmethod(sqlstate_of)
    state_of = staticmethod(state_of)
    count_rows = staticmethod(count_rows)
    in_hot_standby = staticmethod(in_hot_standby)
    is_read_only = staticmethod(is_read_only)

    def check_connect_args(self, kwargs: Mapping[str, Any]) -> None:
        refuse_keywords(kwargs, ROUTING, "connect_args: hasql takes no argument {!r}")
        try:
            make_conninfo(**{name: v for name, v in kwargs.items() if name not in _OF_PSYCOPG})
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(f"connect_args: {error}") from None

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_closed: Callable[[Any], None]
    ) -> WithSettings[tuple[PsycopgConnection, str | None]]:
        del on_closed  # psycopg notices the loss when the connection is next used
        connecting = login.connect_for_pool(endpoint, PsycopgConnection.connect, kwargs)
        opened = await discard_if_cancelled(connecting, login.finish_opened)
        opened.connection[0].used_by_hasql = False
        return opened

    async def open_session(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> PsycopgSession:
        connecting = login.open_session(endpoint, kwargs, on_lost)
        return await discard_if_cancelled(connecting, PsycopgSession.kill)

    async def session_of(
        self, connection: psycopg.AsyncConnection[Any], on_lost: Callable[[], None]
    ) -> PsycopgSession:
        return PsycopgSession(await login.take_over(connection), on_lost, in_transactions=True)

    async def fetch_row(self, connection: PsycopgConnection, sql: str) -> Sequence[str | None]:
        return first_row(await ask(connection, sql))

    def read_only(self, adapted: Any) -> bool | None:
        before: bool | None = adapted.driver_connection.read_only
        return before

    async def set_read_only(self, adapted: Any, value: bool | None) -> None:  # noqa: FBT001  # as above
        await adapted.driver_connection.set_read_only(value)

    def is_closed(self, connection: PsycopgConnection) -> bool:
        return connection.lost or connection.closed

    def is_dead(self, connection: PsycopgConnection) -> bool:
        return not connection.is_alive()

    def is_clean(self, connection: PsycopgConnection) -> bool:
        idle = connection.pgconn.transaction_status == TransactionStatus.IDLE
        return idle and not connection.lock.locked()

    def in_use(self, connection: PsycopgConnection) -> bool:
        active = connection.pgconn.transaction_status == TransactionStatus.ACTIVE
        return active or connection.lock.locked()

    def abort(self, connection: PsycopgConnection) -> None:
        connection.abort()
        if not self.in_use(connection):
            connection.pgconn.finish()

    def pending_cancel(self, connection: PsycopgConnection) -> asyncio.Future[None] | None:
        return connection.pending_cancel

    async def wait_until_unused(self, connection: PsycopgConnection) -> None:
        async with connection.lock:  # its holder wakes, because the socket is shut down
            pass


LIBRARY = PsycopgLibrary()
