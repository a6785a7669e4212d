"""The lease as a thread uses it."""

import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from hasql._leasing.lease import Lease
from hasql.driver import ConnT, PoolT

__all__ = ("ThreadLease", "ThreadLender")


class ThreadLender(Protocol[PoolT, ConnT]):
    """Who takes connections for leases and gives them back."""

    def take(self, lease: Lease[PoolT, ConnT]) -> ConnT:
        """Find a connection for the lease, enter it in the book, and return it."""

    def leave(self, lease: Lease[PoolT, ConnT], error: BaseException | None) -> None:
        """Give the lease's connection back at the end of a block; `error` is what ended that."""

    def forget(self, lease: Lease[PoolT, ConnT]) -> None:
        """End the block of a lease that has no connection, or is being given back."""

    def leave_anew(self, lease: Lease[PoolT, ConnT], error: BaseException | None) -> None:
        """Do what is left to do of one of these that has raised: it may not have begun."""

    def limited(self, lease: Lease[PoolT, ConnT], seconds: float) -> AbstractContextManager[object]:
        """Abort the lease's connection if what is done within takes longer."""


class ThreadLease(Lease[PoolT, ConnT]):
    """What `acquire` returns: ``with`` it. `getconn` takes one that `putconn` gives back."""

    _lender: ThreadLender[PoolT, ConnT]

    def take(self) -> ConnT:
        """Take a connection for `getconn`."""
        self.awaited = True
        return self.__enter__()

    def limited(self, seconds: float) -> AbstractContextManager[object]:
        """Abort the connection if what is done within takes longer than so many seconds.

        For what hasql itself asks of a server that may be silent. It ends with the driver's error.
        """
        return self._lender.limited(self, seconds)

    def query_after_reset(self) -> str | None:
        """Return SQL that makes again what a `RESET ALL` undoes of the manager's settings, if any.

        For who resets a session. Mostly there is nothing, as a login has named the settings.
        """
        node, connection = self.node, self.connection
        if node is None or node.pool is None or connection is None:
            return None
        undone = node.pool.destinations.undone_by_reset.get(node.pool.key(connection))
        return node.endpoint.settings.query(undone) if undone else None

    def __enter__(self) -> ConnT:
        if self.used:
            raise self.used_twice()
        self.used = True
        # Looked up each time, as gevent may put its own there later.
        self.thread = threading.get_ident()
        return self._lender.take(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # Given back within the block already, by putconn(): nothing left to do.
            if self.connection is None or self.returning:
                self._lender.forget(self)
            else:
                self._lender.leave(self, exc)
        except BaseException:
            # Of a signal's handler, maybe, which may run before a function's first step.
            self._lender.leave_anew(self, exc)
            raise
