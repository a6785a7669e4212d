"""Logging in by psycopg's asynchronous connections: for reserved connections and for a pool."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import AsyncConnection, OperationalError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn, TransactionStatus

from hasql._adapters.libpq import parameters_of_session
from hasql._adapters.psycopg.connection import PsycopgConnection, is_of_libpq
from hasql._adapters.psycopg.failure import failure_of
from hasql._adapters.psycopg.server import count_rows
from hasql._adapters.psycopg.session import PsycopgSession
from hasql._adapters.psycopg.settings import backend_pid, naming
from hasql._adapters.reserved_session import with_settings_if_taken
from hasql._adapters.session_setup import Setup, WithSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from hasql.driver import Endpoint
    from hasql.driver.session_settings import SessionSettings

__all__ = (
    "connect_by",
    "connect_for_pool",
    "finish_addressed",
    "finish_opened",
    "open_session",
    "take_over",
)

_ConnT = TypeVar("_ConnT", bound=AsyncConnection[Any])

#: Arguments that say how the application's statements work; a reserved connection ignores them.
_OF_STATEMENTS = frozenset(
    {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}
)
#: Arguments that `parameters_of_session` reads and that must not be passed on a second time.
_OF_SESSIONS = ("client_encoding", "options", "replication")


async def _log_in(
    endpoint: Endpoint, kwargs: Mapping[str, Any], user_connect: Callable[..., Any]
) -> tuple[PsycopgConnection, str | None, bool]:
    """Open a reserved connection; return it, its address, and whether its login named our settings.

    This connects by `connect` of the application's class, because that may add a password which is
    made anew for each login.
    """
    endpoint = await endpoint.for_login()
    kwargs = endpoint.arguments(kwargs)
    arguments = {name: value for name, value in kwargs.items() if name not in _OF_STATEMENTS}
    given: dict[str, Any] = conninfo_to_dict(endpoint.dsn)
    given |= {name: arguments.pop(name) for name in _OF_SESSIONS if name in arguments}

    async def connect(*, with_settings: bool) -> tuple[AsyncConnection[Any], str | None]:
        parameters = parameters_of_session(given, is_of_libpq, with_settings=with_settings)
        connecting = partial(user_connect, **arguments)
        return await connect_by(endpoint, connecting, make_conninfo(**parameters))

    (connection, address), has_settings = await with_settings_if_taken(connect, OperationalError)
    return await take_over(connection), address, has_settings


async def connect_by(
    endpoint: Endpoint, connect: Callable[[str], Coroutine[Any, Any, _ConnT]], conninfo: str
) -> tuple[_ConnT, str | None]:
    """Connect to a host at the address that its name leads to; return the address as well.

    The address is None for a Unix socket, and where `connect` of the application's class takes
    another way, such as a tunnel.
    """
    name = endpoint.host.host

    async def dial(address: str | None) -> tuple[_ConnT, str | None]:
        at = conninfo if address is None else make_conninfo(conninfo, hostaddr=address)
        connection = await connect(at)
        host, led_to = connection.pgconn.host.decode(), connection.pgconn.hostaddr.decode()
        as_dialled = host == name and address in {None, led_to}
        return connection, (led_to or None) if as_dialled else None

    return await endpoint.connect(dial, failure_of, finish_addressed)


async def connect_for_pool(
    endpoint: Endpoint,
    connect: Callable[..., Coroutine[Any, Any, PsycopgConnection]],
    kwargs: Mapping[str, Any],
) -> WithSettings[tuple[PsycopgConnection, str | None]]:
    """Connect for the application, with the settings of its pool; otherwise as `connect_by`."""
    endpoint = await endpoint.for_login()
    kwargs = endpoint.arguments(kwargs)

    def log_in(settings: SessionSettings) -> Any:
        conninfo, named = naming(settings, endpoint.dsn, kwargs)
        return connect_by(endpoint, partial(connect, **named), conninfo)

    setup: Setup[tuple[PsycopgConnection, str | None]] = Setup(
        log_in,
        OperationalError,
        backend_pid,
        lambda opened, sql: count_rows(opened[0], sql),
        finish_addressed,
    )
    return await setup.open(endpoint.settings)


def finish_opened(opened: WithSettings[tuple[PsycopgConnection, str | None]]) -> None:
    """Close a connection of `connect_for_pool` that no task waits for any more."""
    finish_addressed(opened.connection)


def finish_addressed(connected: tuple[AsyncConnection[Any], str | None]) -> None:
    """Close a connection of `connect_by` that no task waits for any more."""
    connected[0].pgconn.finish()


async def take_over(connection: AsyncConnection[Any]) -> PsycopgConnection:
    """Move the session of a connection into a connection of hasql's own class."""
    pgconn, connection.pgconn = connection.pgconn, PGconn.connect_start(b"none=")
    reserved = PsycopgConnection(pgconn)
    try:
        if pgconn.transaction_status != TransactionStatus.IDLE:
            await reserved.rollback()  # the application's `connect` has left one open
        await reserved.set_autocommit(True)
    except BaseException:
        await reserved.close()
        raise
    return reserved


async def open_session(
    endpoint: Endpoint,
    kwargs: Mapping[str, Any],
    on_lost: Callable[[], None],
    user_connect: Callable[..., Any] = AsyncConnection.connect,
) -> PsycopgSession:
    """Open a reserved connection; `user_connect` is `connect` of the application's class."""
    connection, address, has_settings = await _log_in(endpoint, kwargs, user_connect)
    return PsycopgSession(connection, on_lost, address, in_transactions=not has_settings)
