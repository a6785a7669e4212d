"""The connection that an alias holds, and the duty to give it back."""

from __future__ import annotations

import os
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from psycopg import ServerCursor
from psycopg.pq import TransactionStatus

from hasql.errors import HasqlError

if TYPE_CHECKING:
    from psycopg import Connection

    from hasql._adapters.psycopg.thread_connection import ThreadConnection
    from hasql.sync.psycopg3 import PoolManager

__all__ = ("AbandonedConnections", "LentConnection", "abandoned")

#: Attributes that an application may change; nothing sets them again for the next lease, so they
#: are restored when the connection is given back.
_RESTORED = ("server_cursor_factory", "prepared_max")


class LentConnection:
    """A connection that a pool manager has lent to one connection wrapper of Django's."""

    def __init__(self, manager: PoolManager, connection: Connection[Any]) -> None:
        self._manager = manager
        self.connection = connection
        self.given_back = False
        #: The cursors of this connection that still exist; none of them may outlive the lease.
        self.cursors: WeakSet[Any] = WeakSet()
        self._original = {name: getattr(connection, name) for name in _RESTORED}

    @property
    def still_fits(self) -> bool:
        """Whether the socket looks alive, and the host still has the role that was asked for."""
        connection = cast("ThreadConnection", self.connection)  # the class in this manager's pools
        try:
            return self._manager.still_fits(connection) and connection.is_alive()
        except HasqlError:  # the pool manager was closed
            return False

    @property
    def is_idle(self) -> bool:
        """Whether the connection is still lent, with neither a statement nor a transaction open."""
        idle = self.connection.info.transaction_status is TransactionStatus.IDLE
        return idle and not self.given_back

    def give_back(self) -> None:
        """Give the connection back, once; its cursors cannot be used after that."""
        self.given_back = True
        for cursor in tuple(self.cursors):
            if isinstance(cursor, ServerCursor):
                # A server cursor sends a CLOSE when it is closed or garbage-collected. By then the
                # connection may have another lease, and the CLOSE would end up in its transaction.
                # So the connection is closed instead.
                if not cursor.closed:
                    self.connection.close()
            else:
                cursor.close()
        for name, value in self._original.items():
            setattr(self.connection, name, value)
        try:
            self._manager.putconn(self.connection)
        except HasqlError:
            self.connection.close()  # the manager was closed, and no longer knows the connection


class AbandonedConnections:
    """Gives back the connections of threads that have ended without closing them.

    A finalizer runs wherever the garbage collector runs, possibly while the same thread is changing
    a pool manager. It may therefore only put the connection into a queue; a separate thread gives
    the connection back.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._queue: SimpleQueue[LentConnection] = SimpleQueue()
        self._started = False

    def watch(self) -> None:
        """Start the thread if it is not running.

        If no thread can be started now, the next call tries again.
        """
        if self._started:
            return
        with self._lock, suppress(RuntimeError):
            if not self._started:
                Thread(target=self._work, name="hasql-django", daemon=True).start()
                self._started = True

    def add(self, lent: LentConnection) -> None:
        """Queue a connection to be given back soon; a finalizer may call this."""
        self._queue.put(lent)

    def _work(self) -> None:
        while True:
            self._queue.get().give_back()


abandoned = AbandonedConnections()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=abandoned.__init__)  # type: ignore[misc]  # start afresh
