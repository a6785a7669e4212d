"""The warm-up: the first connection to a host that is back, opened before an acquire needs it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic

from hasql._routing.node import Node
from hasql._routing.observations import HostWarm, RoutingObservation
from hasql._routing.router import Router
from hasql.diagnostics import about
from hasql.driver import ConnT, DriverPool, PoolT
from hasql.driver.connects import PendingConnects

__all__ = ("WarmUps",)

log = logging.getLogger("hasql")

#: Seconds after which the host serves, warm or not.
_TIMEOUT = 0.5


class WarmUps(Generic[PoolT, ConnT]):
    """The warm-ups that are under way. Each takes a place on its node, as an acquire does."""

    def __init__(
        self,
        router: Router[PoolT, ConnT],
        hide: Callable[[str], str],
        publish: Callable[[RoutingObservation], None],
    ) -> None:
        self._router = router
        self._hide = hide
        self._publish = publish
        self._pending = PendingConnects()
        self._nodes: set[Node[PoolT, ConnT]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, node: Node[PoolT, ConnT]) -> None:
        """Begin to open a connection on a node, unless a warm-up is under way there."""
        if node not in self._nodes:
            self._nodes.add(node)  # first, because an eager task may end before it is returned
            task = asyncio.get_running_loop().create_task(self._run(node))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, node: Node[PoolT, ConnT]) -> None:
        try:
            # If all connections are lent still, the warm-up would wait for one of those.
            if node.pool is not None and node.in_flight < node.capacity:
                node.pool.end_connects()  # those that began while the host did not answer
                await self._connect(node, node.pool)
        finally:
            self._nodes.discard(node)
        # Also after a failure: acquires will see whether connecting works.
        self._publish(HostWarm(node.host))

    async def _connect(self, node: Node[PoolT, ConnT], pool: DriverPool[PoolT, ConnT]) -> None:
        self._router.occupy_on(node)
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._pending.run(pool.warm_up())
        except Exception as error:  # noqa: BLE001  # acquires will see whether it works
            told, extra = self._hide(repr(error)), about("warm_up_failed", host=node.host)
            log.debug("%s: could not open a first connection: %s", node.host, told, extra=extra)
        finally:
            self._router.vacate(node)

    def is_under_way(self, node: Node[PoolT, ConnT]) -> bool:
        """Tell whether a warm-up is under way on a node."""
        return node in self._nodes

    def end(self) -> None:
        """End all warm-ups: their connections will not be used."""
        self._pending.end()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks under way."""
        return list(self._tasks)
