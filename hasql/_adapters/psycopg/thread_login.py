"""Logging in by psycopg's synchronous connections, so that another thread can end the login."""

from __future__ import annotations

import asyncio
from functools import partial
from threading import local
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from psycopg import Connection, OperationalError, generators, waiting
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo, timeout_from_conninfo
from psycopg.errors import ConnectionTimeout

from hasql._adapters.libpq import parameters_of_pool
from hasql._adapters.psycopg.connection import is_of_libpq
from hasql._adapters.psycopg.failure import failure_of
from hasql._adapters.psycopg.server import count_rows_in_thread
from hasql._adapters.psycopg.settings import backend_pid, naming
from hasql._adapters.session_setup import Setup, WithSettings
from hasql.driver.address_race import ThreadedConnect, connect_in_thread
from hasql.driver.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg.abc import AdaptContext, PQGenConn
    from psycopg.pq.abc import PGconn

    from hasql.driver import Endpoint
    from hasql.driver.session_settings import SessionSettings

__all__ = ("connect_for_pool", "connect_for_session", "endable")

#: Seconds between two looks at whether a login was ended.
_LOOK = 0.1

_thread = local()


class _EndableLogin(Connection[Any]):
    """Comes after the application's class, whose `connect` calls this one in place of psycopg's.

    psycopg's own `connect` waits for a silent server until its time limit, and nothing ends that.
    """

    @classmethod
    def connect(  # noqa: PLR0913  # as psycopg has it
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: Any = None,
        cursor_factory: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Connect as psycopg does; raise ConnectionError when the thread's connect is ended."""
        parameters = conninfo_to_dict(conninfo, **kwargs)
        deadline = monotonic() + timeout_from_conninfo(parameters)
        steps = generators.connect(make_conninfo("", **parameters))
        steps = _until_ended(steps, _thread.connect, deadline)
        connection = cls(waiting.wait_conn(steps, interval=_LOOK))
        connection.autocommit = bool(autocommit)
        connection.prepare_threshold = prepare_threshold
        if row_factory:
            connection.row_factory = row_factory
        if cursor_factory:
            connection.cursor_factory = cursor_factory
        if context:
            AdaptersMap.__init__(connection.adapters, context.adapters)
        return connection


def endable(user_class: type[Connection[Any]]) -> tuple[type[Any], ...]:
    """Return the bases for a class whose login can be ended."""
    return (_EndableLogin,) if user_class is Connection else (user_class, _EndableLogin)


async def connect_for_session(
    user_class: type[Connection[Any]], conninfo: str, **kwargs: Any
) -> Connection[Any]:
    """Connect by the application's class, in a thread that ends when this is cancelled."""
    attempt = ThreadedConnect()
    made: Any = type(user_class.__name__, endable(user_class), {})

    def connect() -> Any:
        _thread.connect = attempt
        return made.connect(conninfo, **kwargs)

    try:
        return await asyncio.wrap_future(in_thread(connect, "hasql connect", made.close))
    except asyncio.CancelledError:
        attempt.end()
        raise


def _until_ended(
    steps: PQGenConn[PGconn], connect: ThreadedConnect, deadline: float
) -> PQGenConn[PGconn]:
    """Run the steps of a login; raise an error once it was ended, or at the deadline."""
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            connect.check()
            if not ready and monotonic() > deadline:
                raise ConnectionTimeout("connection timeout expired")
            wanted = steps.send(ready)
    except StopIteration as done:
        server: PGconn = done.value
        return server
    finally:
        steps.close()


def connect_for_pool(
    endpoint: Endpoint,
    attempt: ThreadedConnect,
    connect: Callable[..., Any],
    kwargs: Mapping[str, Any],
) -> WithSettings[tuple[Any, str | None]]:
    """Connect for the application, with the settings of its pool; see `_connect_by_thread`."""
    endpoint = endpoint.for_login_in_thread(attempt.check)
    kwargs = endpoint.arguments(kwargs)

    def log_in(settings: SessionSettings) -> tuple[Any, str | None]:
        conninfo, named = naming(settings, endpoint.dsn, kwargs)
        return _connect_by_thread(endpoint, attempt, partial(connect, **named), conninfo)

    setup: Setup[tuple[Any, str | None]] = Setup(
        log_in,
        OperationalError,
        backend_pid,
        lambda opened, sql: count_rows_in_thread(opened[0], sql),
        _finish,
    )
    return setup.open_in_thread(endpoint.settings)


def _connect_by_thread(
    endpoint: Endpoint,
    attempt: ThreadedConnect,
    connect: Callable[[str], Any],
    conninfo: str,
) -> tuple[Any, str | None]:
    """Connect to a host at the address that its name leads to; return the address as well.

    The address is None for a Unix socket, and where `connect` of the application's class takes
    another way, such as a tunnel.
    """
    name = endpoint.host.host
    given: dict[str, Any] = conninfo_to_dict(conninfo)
    conninfo = make_conninfo(**parameters_of_pool(given, is_of_libpq))

    def dial(address: str | None, attempt: ThreadedConnect) -> tuple[Any, str | None]:
        at = conninfo if address is None else make_conninfo(conninfo, hostaddr=address)
        _thread.connect = attempt
        connection = connect(at)
        host, led_to = connection.pgconn.host.decode(), connection.pgconn.hostaddr.decode()
        as_dialled = host == name and address in {None, led_to}
        return connection, (led_to or None) if as_dialled else None

    return connect_in_thread(endpoint, attempt, dial, failure_of, _finish)


def _finish(connected: tuple[Any, str | None]) -> None:
    connected[0].close()
