"""A connection that an alias has, and the duty to give it back."""

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

#: Attributes that an application may set, and that are not set anew for each lease.
_KEPT = ("server_cursor_factory", "prepared_max")


class LentConnection:
    """A connection that a manager has lent to one wrapper of Django's."""

    def __init__(self, manager: PoolManager, connection: Connection[Any]) -> None:
        self._manager = manager
        self.connection = connection
        self.given_back = False
        #: Those that were made of it and are alive: none of them may outlive the lease.
        self.cursors: WeakSet[Any] = WeakSet()
        self._found = {name: getattr(connection, name) for name in _KEPT}

    @property
    def still_fits(self) -> bool:
        """Whether it is alive, as far as its socket tells, and its host what it was taken for."""
        connection = cast("ThreadConnection", self.connection)  # what this manager's pools are of
        try:
            return self._manager.still_fits(connection) and connection.is_alive()
        except HasqlError:  # its manager was closed
            return False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way on it: neither a statement nor a transaction."""
        idle = self.connection.info.transaction_status is TransactionStatus.IDLE
        return idle and not self.given_back

    def give_back(self) -> None:
        """Give it back, at most once; what is left of its cursors is of no use after that."""
        self.given_back = True
        for cursor in tuple(self.cursors):
            if isinstance(cursor, ServerCursor):
                # When it is closed, or only collected, it tells the server; whoever has the
                # connection by then would get that into their transaction.
                if not cursor.closed:
                    self.connection.close()
            else:
                cursor.close()
        for name, value in self._found.items():
            setattr(self.connection, name, value)
        try:
            self._manager.putconn(self.connection)
        except HasqlError:
            self.connection.close()  # its manager was closed, and does not know it any more


class AbandonedConnections:
    """Gives back what the wrapper of a thread had that has ended without closing it.

    A finalizer runs wherever the collector does, be it while this thread changes a manager: all it
    may do is to put the connection into a queue. One thread gives it back.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._queue: SimpleQueue[LentConnection] = SimpleQueue()
        self._started = False

    def watch(self) -> None:
        """Start the thread, unless that was done. For want of threads, the next time does."""
        if self._started:
            return
        with self._lock, suppress(RuntimeError):
            if not self._started:
                Thread(target=self._work, name="hasql-django", daemon=True).start()
                self._started = True

    def add(self, lent: LentConnection) -> None:
        """Have it given back soon; may be called by a finalizer."""
        self._queue.put(lent)

    def _work(self) -> None:
        while True:
            self._queue.get().give_back()


abandoned = AbandonedConnections()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=abandoned.__init__)  # type: ignore[misc]  # all of it anew
