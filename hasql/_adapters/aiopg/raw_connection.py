"""The psycopg2 connections inside aiopg's: how they are made, and how their end is noticed."""

from __future__ import annotations

import os
import select
import socket
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

from hasql._adapters.fork_guard import cut_off_in_children
from hasql._adapters.libpq import parameters_of_session, stop_listening
from hasql._adapters.psycopg2.parameters import is_of_libpq
from hasql.driver.holder import HolderNotes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql._adapters.aiopg.addresses import Addresses

__all__ = ("connection_factory", "session_factory")

_ACTIVE = extensions.TRANSACTION_STATUS_ACTIVE
#: The port that the server shows for a session over a Unix socket.
_NO_PORT = -1


class _Psycopg2Connection(extensions.connection, HolderNotes):
    """A psycopg2 connection that calls `on_end` when it ends, whether it is closed or lost.

    aiopg calls `poll` whenever there is something to read. So when the server closes an idle
    connection, hasql notices as soon as the event loop runs.
    """

    on_end: Callable[[Any], None] | None = None
    #: The inode of the socket that aiopg listens to, as long as libpq may replace the socket.
    first_socket: int | None = None
    #: The descriptor of its socket; None once the socket is lost: it may then be another socket's.
    descriptor: int | None
    #: If aiopg closed it during a statement: the server's process id, and the port on this side.
    left_running: tuple[int, int] | None = None

    def poll(self) -> Any:
        try:
            state = super().poll()
            # If a connection is reset, uvloop reports that once and then stops listening. This call
            # may have read only the server's last words, so go on until psycopg2 sees the loss.
            while state == extensions.POLL_READ and _is_reset(self.fileno()):
                state = super().poll()
            if self.first_socket is not None:
                self._check_socket(state)
        except psycopg2.Error:
            # If libpq has closed its socket, another thread may since have opened a socket that got
            # the same descriptor. aiopg takes that for this connection's and goes on listening to
            # it; if aiopg waited to write, it never stops. The next connection of this event loop
            # that gets the descriptor would then hear nothing, or be refused. So the event loop
            # forgets the descriptor here, before another socket of this event loop can get it.
            if self.descriptor is not None and (self.closed or self.fileno() != self.descriptor):
                stop_listening(self.descriptor)
                self.descriptor = None
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
        if _inode_of(self) != self.first_socket:
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


def _is_reset(fileno: int) -> bool:
    """Tell whether a socket was reset, or closed by libpq: no more is going to arrive on it."""
    if fileno < 0:
        return True
    poller = select.poll()
    poller.register(fileno, 0)
    return bool(poller.poll(0))


def _port_of(raw: Any) -> int:
    with socket.socket(fileno=os.dup(raw.fileno())) as duplicate:
        name = duplicate.getsockname()
    return name[1] if isinstance(name, tuple) else _NO_PORT


def _inode_of(raw: Any) -> int:
    return os.fstat(raw.fileno()).st_ino


class _ReservedConnection(_Psycopg2Connection):
    """A connection with psycopg2's own cursors, whatever cursors the application's class makes."""

    cursor = extensions.connection.cursor


@cache
def _class_of(ours: Any, user_class: Any) -> Any:
    return ours if user_class is None else type(ours.__name__, (ours, user_class), {})


def connection_factory(
    kwargs: Mapping[str, Any],
    addresses: Addresses,
    parameters: Callable[[dict[str, str]], dict[str, str]],
) -> Callable[..., Any]:
    """Return the factory of a pool's connections; their class is derived from the user's, if any.

    `parameters` makes libpq's parameters from the given ones.
    """
    of_class = _class_of(_Psycopg2Connection, kwargs.get("connection_factory"))
    return partial(_make, of_class, addresses, parameters)


def session_factory(
    kwargs: Mapping[str, Any], addresses: Addresses, *, with_settings: bool
) -> Callable[..., Any]:
    """Return the factory of reserved connections; their class is derived from the user's, if any.

    The user's class may be what adds the password to a login.
    """
    of_class = _class_of(_ReservedConnection, kwargs.get("connection_factory"))
    parameters = partial(parameters_of_session, knows=is_of_libpq, with_settings=with_settings)
    return partial(_make, of_class, addresses, parameters)


def _make(
    of_class: Any, addresses: Addresses, parameters: Any, dsn: str, *args: Any, **kwargs: Any
) -> Any:
    dsn = extensions.make_dsn(**parameters(extensions.parse_dsn(dsn)))
    raw = of_class(addresses.choose(dsn), *args, **kwargs)
    raw.first_socket, raw.descriptor = _inode_of(raw), raw.fileno()
    # A listener that is still registered for this descriptor belongs to an earlier socket, and
    # would be in aiopg's way.
    stop_listening(raw.descriptor)
    cut_off_in_children(raw, extensions.connection.fileno)
    return raw
