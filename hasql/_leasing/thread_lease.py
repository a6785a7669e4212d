"""The lease as a thread uses it."""

import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from hasql._leasing.lease import Lease
from hasql.driver import ConnT, PoolT

__all__ = ("ThreadLease", "ThreadLender")


class ThreadLender(Protocol[PoolT, ConnT]):
    """The object that takes connections for leases and gives them back."""

    def take(self, lease: Lease[PoolT, ConnT]) -> ConnT:
        """Find a connection for the lease, enter it in the book, and return it."""

    def leave(self, lease: Lease[PoolT, ConnT], error: BaseException | None) -> None:
        """Give the connection back at the end of a block; `error` is what that raised, or None."""

    def forget(self, lease: Lease[PoolT, ConnT]) -> None:
        """End the block of a lease that has no connection, or that is being given back already."""

    def finish_leaving(self, lease: Lease[PoolT, ConnT], error: BaseException | None) -> None:
        """Do what is left to do after `leave` or `forget` has raised, perhaps before it began."""

    def limited(self, lease: Lease[PoolT, ConnT], seconds: float) -> AbstractContextManager[object]:
        """Abort the lease's connection if the block takes longer than so many seconds."""


class ThreadLease(Lease[PoolT, ConnT]):
    """What `acquire` returns, for a ``with`` block.

    `getconn` takes one, too, which `putconn` gives back.
    """

    _lender: ThreadLender[PoolT, ConnT]

    def take(self) -> ConnT:
        """Take a connection for `getconn`."""
        self.released_by_call = True
        return self.__enter__()

    def limited(self, seconds: float) -> AbstractContextManager[object]:
        """Abort the connection if the block takes longer than so many seconds.

        This is for queries of hasql itself to a server that may be silent. An aborted query ends
        with the driver's error.
        """
        return self._lender.limited(self, seconds)

    def query_after_reset(self) -> str | None:
        """Return SQL that makes again the manager's settings that a `RESET ALL` undoes, if any.

        This is for code that resets a session. Usually there are none, because the settings were
        made at the login.
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
        # Looked up each time, because gevent may put its own function there later.
        self.thread = threading.get_ident()
        return self._lender.take(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # True if putconn() was called within the block: nothing is left to do.
            if self.connection is None or self.returning:
                self._lender.forget(self)
            else:
                self._lender.leave(self, exc)
        except BaseException:
            # A signal's handler may have raised this, and may have run before the first step of the
            # function that was called.
            self._lender.finish_leaving(self, exc)
            raise
