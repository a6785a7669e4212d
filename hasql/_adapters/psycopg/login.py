"""The login of a reserved connection over psycopg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection, OperationalError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn, TransactionStatus

from hasql._adapters.libpq import of_session
from hasql._adapters.psycopg.connection import Watched, is_of_libpq
from hasql._adapters.psycopg.session import PsycopgSession
from hasql._adapters.reserved import refuses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ("log_in", "open_session", "taken_over")

#: What the application's statements look like is nothing to the reserved connection.
_OF_STATEMENTS = frozenset(
    {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}
)
#: What `of_session` says, and no argument may say again.
_OF_SESSIONS = ("client_encoding", "options", "replication")


async def log_in(
    dsn: str, kwargs: Mapping[str, Any], users: type[AsyncConnection[Any]] = AsyncConnection
) -> tuple[Watched, bool]:
    """Open a reserved connection; also tell whether its session has hasql's settings.

    `connect` of the application's own class may bring a password that is made anew each time.
    """
    arguments = {name: value for name, value in kwargs.items() if name not in _OF_STATEMENTS}
    given: dict[str, Any] = conninfo_to_dict(dsn)
    given |= {name: arguments.pop(name) for name in _OF_SESSIONS if name in arguments}
    for with_settings in (True, False):
        parameters = of_session(given, is_of_libpq, with_settings=with_settings)
        try:
            connection = await users.connect(make_conninfo(**parameters), **arguments)
        except OperationalError as error:
            if not (with_settings and refuses(error)):
                raise
        else:
            return await taken_over(connection), with_settings
    raise AssertionError("unreachable")


async def taken_over(connection: AsyncConnection[Any]) -> Watched:
    """Go on with the session of a connection, without what its class does."""
    pgconn, connection.pgconn = connection.pgconn, PGconn.connect_start(b"none=")
    ours = Watched(pgconn)
    try:
        if pgconn.transaction_status != TransactionStatus.IDLE:
            await ours.rollback()  # a transaction that its `connect` has left open
        await ours.set_autocommit(True)
    except BaseException:
        await ours.close()
        raise
    return ours


async def open_session(
    dsn: str,
    kwargs: Mapping[str, Any],
    on_lost: Callable[[], None],
    users: type[AsyncConnection[Any]] = AsyncConnection,
) -> PsycopgSession:
    """Open a reserved connection."""
    connection, settled = await log_in(dsn, kwargs, users)
    return PsycopgSession(connection, on_lost, in_transactions=not settled)
