"""The connections that a psycopg pool for threads has opened."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

from psycopg import Connection

from hasql._adapters.psycopg.liveness import ignore_drop
from hasql._adapters.psycopg.server import (
    count_rows_in_thread,
    in_hot_standby,
    is_read_only,
)
from hasql._adapters.psycopg.thread_connection import ThreadConnection
from hasql._adapters.psycopg.thread_login import connect_for_pool, endable
from hasql._adapters.psycopg.thread_slots import IdleConnections, take_inserted
from hasql.driver.destinations import Destinations
from hasql.driver.os_threads import new_guard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql.driver import Endpoint
    from hasql.driver.address_race import ThreadedConnect

__all__ = ("ThreadConnections",)


class ThreadConnections:
    """The connections that one pool has opened and that are not closed yet; and how to open one."""

    def __init__(self, endpoint: Endpoint, kwargs: Mapping[str, Any]) -> None:
        self._endpoint = endpoint
        self._kwargs = kwargs.get("kwargs")
        self._configure = kwargs.get("configure")
        self._lock = new_guard()
        self._open: WeakSet[ThreadConnection] = WeakSet()
        self.idle = IdleConnections()
        #: By `pgconn`, so that connections are not kept alive.
        self.destinations = Destinations()
        #: Called for each connection that is dropped.
        self.dropped = ignore_drop
        user_class: type[Connection[Any]] = kwargs.get("connection_class") or Connection
        classes: tuple[type[Any], ...] = (_ThreadPooled, *endable(user_class))
        #: The class that the pool uses, derived from the application's class.
        self.connection_class: Any = type(
            user_class.__name__, classes, {"opened": self, "inherited_wait": user_class.wait}
        )

    def log_in(self, connect: ThreadedConnect) -> ThreadConnection:
        """Open a connection and run the user's `configure` hook on it.

        Raises ConnectionError if the connect was ended meanwhile.
        """
        kwargs = self._kwargs() if callable(self._kwargs) else self._kwargs
        opened = connect_for_pool(
            self._endpoint, connect, self.connection_class.log_in, kwargs or {}
        )
        (connection, address), made = opened
        flag, read_only = in_hot_standby(connection), is_read_only(connection)
        with self._lock:
            self._open.add(connection)
        key = _key_of(connection)
        self.destinations.opened(key, flag, read_only=read_only, address=address, made=made)
        try:
            if self._configure is not None:
                self._configure(connection)
                connection.check_idle("configure")
            connect.check()
        except BaseException:
            connection.close()
            raise
        return connection  # type: ignore[no-any-return]  # of the class above

    def resetting(self, hook: Callable[[Any], None] | None) -> Callable[[Any], None] | None:
        """Return the application's hook, extended to make again the settings that it undoes."""
        settings, undone = self._endpoint.settings, self.destinations.undone_by_reset
        if hook is None or not settings:
            return hook

        def reset(connection: ThreadConnection) -> None:
            hook(connection)
            if names := undone.get(_key_of(connection)):
                count_rows_in_thread(connection, settings.query(names))

        return reset

    def forget(self, connection: ThreadConnection) -> None:
        """Stop counting a connection."""
        with self._lock:
            self._open.discard(connection)
        self.idle.note_unusable(connection)
        self.destinations.closed(_key_of(connection))

    def __len__(self) -> int:
        return len(self._open)

    def all(self) -> tuple[ThreadConnection, ...]:
        """Return the connections that are open now."""
        with self._lock:
            return tuple(self._open)


class _ThreadPooled(ThreadConnection):
    """A connection of one pool."""

    opened: ClassVar[ThreadConnections]

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
        """Return the connection that is being put into the pool. The pool calls this to connect."""
        del conninfo, kwargs
        return take_inserted()

    @classmethod
    def log_in(cls, conninfo: str, **kwargs: Any) -> Any:
        """Connect by the application's class."""
        return super().connect(conninfo, **kwargs)

    def close(self) -> None:
        """Close it, as `ThreadConnection` does."""
        self.opened.forget(self)
        super().close()

    def __del__(self, warn: Any = warnings.warn, /) -> None:
        """Report a dropped lease, which gives the connection back; otherwise do as psycopg does."""
        # It may never have been leased, nor even opened: then `dropped` returns False.
        if self.lost or not self.opened.dropped(id(self), lambda: self):
            super().__del__(warn)


def _key_of(connection: Connection[Any]) -> Any:
    return connection.pgconn  # it stays the same, whichever object wraps it
