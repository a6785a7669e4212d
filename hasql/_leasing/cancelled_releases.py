"""Releases whose tasks were cancelled: each is finished by a task of its own.

A task that is cancelled again at each of its steps, as the scopes of anyio do, can wait for nothing
any more. If its connection were broken then, the driver could not ask the server to stop the
statement. The server would go on with it, because it does not check whether its client is still
there, and a new session would be opened while the old one still lives.
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

#: Seconds in which the releases have to end once their connections are broken.
_END_TIMEOUT = 1.0


class CancelledReleases(Generic[PoolT, ConnT]):
    """The cancelled releases of one manager.

    Each lease keeps its place and its entry in the book until its release has ended.
    """

    #: Set while there is a tracer.
    tracing: LeaseTracing[PoolT, ConnT] | None = None
    #: Set if the manager has layers that learn of returns.
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
        """Start a task that finishes the release of a lease; return whether it was started.

        It is not if the lease already has one, or if nothing would wait for it any more. The
        connection is broken in that case, so that the release can be finished at once.
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
        # A callback does this, because a task that is cancelled before its first step never runs.
        self._tasks.discard(task)
        if (node := lease.node) is None:
            return  # it was terminated, and its places were freed before its block ended
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
        assert connection is not None  # noqa: S101  # a lease that is returning has one
        # The driver's pool may have lent the connection to another lease already.
        mine = self._book.find(connection) is lease
        if mine and node is not None and node.pool is not None:
            node.pool.abort(connection)

    async def end(self) -> None:
        """Wait until all have ended, as they do once their connections are broken.

        Those that have not ended a second later are cancelled.
        """
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=_END_TIMEOUT)
            for task in left:
                task.cancel()
