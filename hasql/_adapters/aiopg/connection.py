"""aiopg's connections: how psycopg2's are made, watched and broken."""

from __future__ import annotations

import os
import socket
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import psycopg2  # type: ignore[import-untyped]
from psycopg2 import extensions

from hasql._adapters.inherited import cut_off_in_children
from hasql._adapters.libpq import listen_no_more, of_pool, of_session, shut_down
from hasql.driver.holder import Held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import aiopg

    from hasql._adapters.aiopg.addresses import Addresses

__all__ = (
    "break_off",
    "close_raw",
    "connection_factory",
    "count_rows",
    "in_hot_standby",
    "in_transaction",
    "is_read_only",
    "session_factory",
)

#: `closed` of a psycopg2 connection that was closed by us, not lost.
_CLOSED = 1
_ACTIVE = extensions.TRANSACTION_STATUS_ACTIVE
#: What the server says of a session over a Unix socket.
_NO_PORT = -1


class _Watched(extensions.connection, Held):  # type: ignore[misc]  # of an untyped library
    """A connection of psycopg2's that tells when it ends, be it closed or lost.

    aiopg asks `poll` whenever there is something to read, so a server that closes an idle
    connection is noticed as soon as the event loop runs.
    """

    on_end: Callable[[Any], None] | None = None
    #: The socket that aiopg listens to, as long as libpq may replace it.
    first_socket: int | None = None
    #: The number of its socket; None once that is lost, as the number may be another's by then.
    number: int | None
    #: The process at the server, and the port here, of one closed by aiopg during a statement.
    left_running: tuple[int, int] | None = None

    def poll(self) -> Any:
        try:
            state = super().poll()
            if self.first_socket is not None:
                self._check_socket(state)
        except psycopg2.Error:
            # Has libpq closed its socket? Another thread may have opened one of that number since,
            # which aiopg then takes for this one and goes on to listen to; if it waits to write
            # there, it always does. Who gets the number next in this loop would be deaf or refused.
            if self.number is not None and (self.closed or self.fileno() != self.number):
                listen_no_more(self.number)
                self.number = None
            raise
        else:
            return state
        finally:
            self._tell_end()

    def close(self) -> None:
        if not self.closed and self.info.transaction_status == _ACTIVE:
            self.left_running = self.get_backend_pid(), _port_of(self)
        super().close()
        self._tell_end()

    def _check_socket(self, state: int) -> None:
        if _socket_of(self) != self.first_socket:
            raise psycopg2.OperationalError(
                "libpq gave up its first attempt to connect and began another, which aiopg does "
                "not notice; if it is because of sslmode=prefer or allow, choose another sslmode"
            )
        if state == extensions.POLL_OK:
            self.first_socket = None

    def _tell_end(self) -> None:
        if self.closed and self.on_end is not None:
            on_end, self.on_end = self.on_end, None
            on_end(self)


def _port_of(raw: Any) -> int:
    with socket.socket(fileno=os.dup(raw.fileno())) as twin:
        name = twin.getsockname()
    return name[1] if isinstance(name, tuple) else _NO_PORT


def _socket_of(raw: Any) -> int:
    return os.fstat(raw.fileno()).st_ino


class _Reserved(_Watched):
    """A connection whose cursors are psycopg2's own, whatever the application's class makes."""

    cursor = extensions.connection.cursor


@cache
def _class_of(ours: Any, users: Any) -> Any:
    return ours if users is None else type(ours.__name__, (ours, users), {})


@cache
def _is_of_libpq(name: str) -> bool:
    try:
        extensions.make_dsn(**{name: "0"})
    except (TypeError, psycopg2.ProgrammingError):
        return False
    return True


def connection_factory(kwargs: Mapping[str, Any], addresses: Addresses) -> Callable[..., Any]:
    """Return what makes psycopg2's connections, watched and of the user's class if there is one."""
    of_class = _class_of(_Watched, kwargs.get("connection_factory"))
    return partial(_make, of_class, addresses, partial(of_pool, knows=_is_of_libpq))


def session_factory(
    kwargs: Mapping[str, Any], addresses: Addresses, *, with_settings: bool
) -> Callable[..., Any]:
    """Return what makes reserved connections; the user's class may be what brings the password."""
    of_class = _class_of(_Reserved, kwargs.get("connection_factory"))
    parameters = partial(of_session, knows=_is_of_libpq, with_settings=with_settings)
    return partial(_make, of_class, addresses, parameters)


def _make(
    of_class: Any, addresses: Addresses, parameters: Any, dsn: str, *args: Any, **kwargs: Any
) -> Any:
    watched = extensions.make_dsn(**parameters(extensions.parse_dsn(dsn)))
    raw = of_class(addresses.choose(watched), *args, **kwargs)
    raw.first_socket, raw.number = _socket_of(raw), raw.fileno()
    listen_no_more(raw.number)  # what does has outlived its socket, and would be in aiopg's way
    cut_off_in_children(raw, extensions.connection.fileno)
    return raw


def close_raw(raw: Any) -> None:
    """Close a connection of psycopg2's that aiopg has let go of."""
    if not raw.closed:
        listen_no_more(raw.fileno())
        raw.close()


def break_off(connection: aiopg.Connection) -> None:
    """Close without a word to the server.

    Never twice, nor where `poll` has told of a loss: aiopg would stop to listen to a socket that
    may be another connection's by then.
    """
    raw = connection.raw
    if not raw.closed:
        shut_down(raw.fileno())
    if raw.number is None:
        raw.close()
    elif raw.closed != _CLOSED:
        _ = connection.close()
    raw.left_running = None  # what is broken is left alone


def in_transaction(connection: aiopg.Connection) -> bool:
    """Whether a transaction is open, or a statement running, as far as libpq knows."""
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
    """Return what the server reported last; PostgreSQL does since version 14."""
    raw = connection.raw
    flag = None if raw.closed else raw.get_parameter_status("in_hot_standby")
    return None if flag is None else flag == "on"


def is_read_only(connection: aiopg.Connection) -> bool:
    """Tell whether transactions are read-only by default, as the server reported last."""
    default: str | None = connection.raw.get_parameter_status("default_transaction_read_only")
    return default == "on"
