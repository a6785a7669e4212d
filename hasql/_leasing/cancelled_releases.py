"""Releases whose tasks were cancelled, and that tasks of their own finish.

A task that is cancelled, and cancelled again at each of its steps as by the scopes of anyio, can
wait for nothing any more. If its connection were broken then, the driver could not ask the server
to stop the statement, which the server would go on with, as it does not look whether its client is
still there; and a new session would be opened in place of that one, which still lives.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.layers import LeaseLayers
from hasql._leasing.lease import Lease
from hasql._leasing.lease_tracing import LeaseTracing
from hasql._routing.router import Router
from hasql.diagnostics import about
from hasql.driver import ConnT, PoolT

__all__ = ("CancelledReleases",)

log = logging.getLogger("hasql")

#: Seconds in which they have to end once their connections are broken.
_LAST_WORDS = 1.0


class CancelledReleases(Generic[PoolT, ConnT]):
    """All of one manager. Each keeps its place and its entry in the book until it has ended."""

    #: At work while there is a tracer.
    tracing: LeaseTracing[PoolT, ConnT] | None = None
    #: At work if anything stands around the leases.
    layers: LeaseLayers[PoolT, ConnT] | None = None

    def __init__(
        self,
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        is_over: Callable[[], bool],
        hide: Callable[[str], str],
    ) -> None:
        self._router = router
        self._book = book
        #: Whether the manager is closed, or the program about to end.
        self._is_over = is_over
        self._hide = hide
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, lease: Lease[PoolT, ConnT], finish: Coroutine[Any, Any, None]) -> bool:
        """Have a task finish the release of a lease; False: there is nobody to wait for one.

        The connection is broken in that case, so that it can be finished at once.
        """
        if lease.detached or self._is_over():
            finish.close()
            self._abort(lease)
            return False
        lease.detached = True
        task = asyncio.get_running_loop().create_task(finish)
        self._tasks.add(task)
        task.add_done_callback(partial(self._finished, lease))
        return True

    def _finished(self, lease: Lease[PoolT, ConnT], task: asyncio.Task[None]) -> None:
        # A callback's work, as a task that is cancelled before its first step does nothing.
        self._tasks.discard(task)
        if (node := lease.node) is None:
            return  # it was terminated, and its places were free before its block had ended
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        try:
            if failure is not None:
                told = self._hide(repr(failure))
                extra = about("connection_closed", host=node.host)
                log.debug(
                    "%s: a connection was closed, not given back: %s", node.host, told, extra=extra
                )
                self._abort(lease)
        finally:
            self._book.remove(lease)
            self._router.vacate(node)
            if self.layers is not None:
                self.layers.returned(lease, node, failure)
            if self.tracing is not None:
                self.tracing.returned(lease, node, failure)

    def _abort(self, lease: Lease[PoolT, ConnT]) -> None:
        node, connection = lease.node, lease.connection
        assert connection is not None  # noqa: S101  # as above
        # Unless the driver's pool has lent it to the next one already.
        mine = self._book.find(connection) is lease
        if mine and node is not None and node.pool is not None:
            node.pool.abort(connection)

    async def end(self) -> None:
        """Wait until all have ended, as they do once their connections are broken."""
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=_LAST_WORDS)
            for task in left:
                task.cancel()
