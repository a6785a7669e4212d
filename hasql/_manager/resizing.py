"""The resizing of the pools of one manager, while they are in use.

Not every driver's pool can be resized, and none closes the connections that are then too many. So
each host gets a new pool, with the new bounds, and the former pool lends no more: its idle
connections are closed at once, and lent ones when they are given back.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.breaking import purge
from hasql._leasing.options import InLoop
from hasql._manager.guarded import log_soon
from hasql._manager.routing_state import RoutingState
from hasql._routing.node import Node
from hasql._routing.succession import Succession
from hasql.diagnostics import about
from hasql.driver import ConnT, Driver, DriverPool, PoolSizes, PoolT
from hasql.errors import PoolManagerClosedError

__all__ = ("Resizing",)

log = logging.getLogger("hasql")


class Resizing(Generic[PoolT, ConnT]):
    """Changes the bounds of all pools, for the hosts of now and for later ones."""

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        routing: RoutingState[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        in_loop: InLoop,
        hide: Callable[[str], str],
    ) -> None:
        self._driver = driver
        self._routing = routing
        self._book = book
        self._in_loop = in_loop
        self._hide = hide
        self._tasks: set[asyncio.Task[None]] = set()

    def new_kwargs(self, minimum: int | None, maximum: int | None) -> Mapping[str, Any]:
        """Return the arguments of pools with these bounds. Raises ConfigurationError."""
        kwargs = self._driver.resized(self._routing.pool_kwargs, minimum, maximum)
        self._driver.sizes(kwargs)
        return kwargs

    def is_done(self, kwargs: Mapping[str, Any]) -> bool:
        """Tell whether all pools have these arguments already."""
        sizes, nodes = self._driver.sizes(kwargs), self._routing.nodes.values()
        return kwargs == self._routing.pool_kwargs and all(node.sizes == sizes for node in nodes)

    def set_before_start(self, kwargs: Mapping[str, Any]) -> None:
        """Give these arguments to all pools; none is open yet."""
        self._routing.set_sizes(kwargs, self._driver.sizes(kwargs))

    def begin(self, kwargs: Mapping[str, Any]) -> "asyncio.Future[None]":
        """Give these arguments to all pools. Call it in the loop; the result ends when all have."""
        routing, sizes = self._routing, self._driver.sizes(kwargs)
        with routing.guard:
            routing.set_sizes(kwargs, sizes)
            nodes = list(routing.nodes.values())
            for node in nodes:
                if node.pool is None:
                    node.set_sizes(sizes)
                    routing.reopen(node)
        task = asyncio.get_running_loop().create_task(self._replace_all(nodes, kwargs, sizes))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Log a failure: perhaps nothing waits for the task."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PoolManagerClosedError):
            extra = about("resize_failed")
            log.warning("a pool could not be resized: %s", self._hide(repr(error)), extra=extra)

    async def _replace_all(
        self, nodes: list[Node[PoolT, ConnT]], kwargs: Mapping[str, Any], sizes: PoolSizes
    ) -> None:
        pools = [self._replace(node, kwargs, sizes) for node in nodes if node.pool is not None]
        try:
            await asyncio.gather(*pools)
        except asyncio.CancelledError:
            if self._routing.serves:
                raise
            raise PoolManagerClosedError("the pool manager was closed") from None

    async def _replace(
        self, node: Node[PoolT, ConnT], kwargs: Mapping[str, Any], sizes: PoolSizes
    ) -> None:
        """Replace the pool of one host.

        The new pool is opened without connections: those of the old one are closed first.
        """
        empty = self._driver.resized(kwargs, 0, None)
        pool = await self._driver.open(node.endpoint, empty, partial(self._report, node))
        successor = None
        with self._routing.guard:
            if self._routing.pool_kwargs is kwargs:  # else a later call has set other arguments
                successor = self._succeed(node, pool, sizes)
        if successor is None:
            pool.terminate()
        else:
            await self._keep(successor)

    def _report(self, node: Node[PoolT, ConnT], connection: ConnT, error: BaseException) -> None:
        """Take in the error of a statement, for the node that has the host by now."""
        self._routing.hints.note_error(self._routing.nodes.get(node.host, node), connection, error)

    def _succeed(
        self, node: Node[PoolT, ConnT], pool: DriverPool[PoolT, ConnT], sizes: PoolSizes
    ) -> Node[PoolT, ConnT] | None:
        """Put a pool in the place of a node's, in one step. None: the node is gone."""
        assert node.pool is not None  # noqa: S101  # it was opened
        if not self._routing.has(node):
            return None
        successor: Node[PoolT, ConnT] = node.make_successor(pool, sizes)
        succession = Succession(node, successor, self._emptied)
        for former in node.successions:  # these have not ended yet either
            former.successor = successor
        successor.successions = [*node.successions, succession]
        node.successions, node.succession = [], succession
        successor.offer_returned_places()
        self._routing.replace(node, successor, pool)
        purge(node, self._book)
        if not node.in_flight:
            self._emptied(succession)
        log_soon(
            log.info,
            "%s: its pool has %d to %d connections now",
            node.host,
            "pool_resized",
            sizes.minimum,
            sizes.maximum,
        )
        return successor

    def _emptied(self, succession: Succession) -> None:
        self._in_loop(self._end, succession)

    def _end(self, succession: Succession) -> None:
        successor: Node[PoolT, ConnT] = succession.successor
        with self._routing.guard:
            if succession not in successor.successions:
                return
            successor.successions.remove(succession)
        succession.former.pool.terminate()
        if successor.pool is not None and self._routing.serves:
            task = asyncio.get_running_loop().create_task(self._keep(successor))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _keep(self, node: Node[PoolT, ConnT]) -> None:
        """Let a pool keep its minimum of connections, once no former pool of its host has any.

        Until then a connection that the pool opens by itself could be one too many, because no
        place is counted for it.
        """
        if node.pool is None or node.successions or not self._routing.has(node):
            return
        try:
            await node.pool.keep(node.sizes)
        except Exception as error:  # noqa: BLE001  # an acquire will open them, and meet the error
            told, extra = self._hide(repr(error)), about("refill_failed", host=node.host)
            log.debug("%s: its pool could not be filled: %s", node.host, told, extra=extra)

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks under way."""
        return list(self._tasks)
