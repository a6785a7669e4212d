"""Ends leases in the application's place: leases that are out for too long, or were dropped."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.lease import Lease
from hasql._leasing.returns import Returns
from hasql._leasing.thread_returns import ThreadReturns
from hasql._routing.node import Node
from hasql._routing.router import Router
from hasql.diagnostics import about
from hasql.driver import AsyncPool, ConnT, PoolT, ThreadPool
from hasql.driver.threads import end_in_thread
from hasql.errors import UnknownConnectionError

if TYPE_CHECKING:
    from hasql._leasing.layers import LeaseLayers

__all__ = ("AsyncLeaseEnds", "ThreadLeaseEnds")

log = logging.getLogger("hasql")

#: Seconds in which the user of a broken connection meets the error and gives the connection back.
#: Nothing else may touch the connection while a thread may be about to give it back.
_RETURN_TIMEOUT = 0.25


class _LeaseEnds(Generic[PoolT, ConnT]):
    """What both faces do to end a lease that the application does not end."""

    def __init__(
        self,
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        guard: AbstractContextManager[object],
        hide: Callable[[str], str],
    ) -> None:
        self._router = router
        self._book = book
        self._guard = guard
        self._hide = hide
        #: Set if the manager has layers.
        self.layers: LeaseLayers[PoolT, ConnT] | None = None

    def terminate(self, lease: Lease[PoolT, ConnT]) -> None:
        """Break a connection that is in use; to be called in the loop, under the guard.

        The application meets the driver's error, and gives the connection back like any broken one.
        In case it never does, the places of the lease are freed a moment later.
        """
        node, connection = lease.node, lease.connection
        if node is None or node.pool is None or connection is None:
            return
        lease.terminated = True
        node.pool.abort(connection)
        asyncio.get_running_loop().call_later(_RETURN_TIMEOUT, self._free, lease)

    def _free(self, lease: Lease[PoolT, ConnT]) -> None:
        with self._guard:
            node, connection = lease.node, lease.connection
            if lease.returning or node is None or connection is None:
                return
            try:
                del lease.unreturned
            except AttributeError:  # a thread has just begun to give it back
                return
            self._book.set_aside(lease)
        self._release(lease, node, connection)

    def _release(
        self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], connection: ConnT
    ) -> None:
        raise NotImplementedError

    def _released(
        self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], error: BaseException | None
    ) -> None:
        if error is not None:
            told = self._hide(repr(error))
            log.debug(
                "%s: a connection was closed, not given back: %s",
                node.host,
                told,
                extra=about("connection_closed", host=node.host),
            )
        self._router.vacate(node)
        if self.layers is not None:
            self.layers.returned(lease, node, None)


class AsyncLeaseEnds(_LeaseEnds[PoolT, ConnT]):
    """Ends the leases of tasks, each in a task of its own."""

    def __init__(
        self,
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        returns: Returns[PoolT, ConnT],
        guard: AbstractContextManager[object],
        hide: Callable[[str], str],
    ) -> None:
        super().__init__(router, book, guard, hide)
        self._returns = returns
        self._tasks: set[asyncio.Task[None]] = set()

    def reclaim(self, lease: Lease[PoolT, ConnT]) -> None:
        """Close a connection that the application has dropped, and give it back."""
        lease.expired = True
        self._begin(self._give_back(lease))

    async def _give_back(self, lease: Lease[PoolT, ConnT]) -> None:
        if lease.node is not None and not lease.returning:
            await self._returns.give_back(lease)

    def _release(
        self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], connection: ConnT
    ) -> None:
        self._begin(self._release_it(lease, node, connection))

    async def _release_it(
        self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], connection: ConnT
    ) -> None:
        pool: AsyncPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # an AsyncPool
        failure = None
        try:
            await pool.release(connection)
        except Exception as error:  # noqa: BLE001  # it is broken anyway
            failure = error
        finally:
            self._released(lease, node, failure)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class ThreadLeaseEnds(_LeaseEnds[PoolT, ConnT]):
    """Ends the leases of threads, each in a thread of its own."""

    def __init__(
        self,
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        returns: ThreadReturns[PoolT, ConnT],
        guard: AbstractContextManager[object],
        hide: Callable[[str], str],
    ) -> None:
        super().__init__(router, book, guard, hide)
        self._returns = returns

    def reclaim(self, lease: Lease[PoolT, ConnT]) -> None:
        """Close a connection that the application has dropped, and give it back."""
        lease.expired = True
        end_in_thread(partial(self._give_back, lease), "hasql reclaim")

    def _give_back(self, lease: Lease[PoolT, ConnT]) -> None:
        with suppress(UnknownConnectionError):  # another thread gives it back already
            self._returns.give_back(lease)

    def _release(
        self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], connection: ConnT
    ) -> None:
        end_in_thread(partial(self._release_it, lease, node, connection), "hasql reclaim")

    def _release_it(
        self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], connection: ConnT
    ) -> None:
        pool: ThreadPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # a ThreadPool
        failure = None
        try:
            pool.release(connection)
        except Exception as error:  # noqa: BLE001  # it is broken anyway
            failure = error
        finally:
            self._released(lease, node, failure)
