"""The warm-up: the first connection to a host that is back, opened before anybody waits for it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic

from hasql._routing.node import Node
from hasql._routing.router import Router
from hasql.driver import ConnT, DriverPool, PoolT
from hasql.driver.connects import PendingConnects
from hasql.driver.deadline import cancellations

__all__ = ("WarmUps",)

log = logging.getLogger("hasql")

#: Seconds that one takes at most: its host is not probed meanwhile.
_TIMEOUT = 0.5


class WarmUps(Generic[PoolT, ConnT]):
    """Warm-ups that are under way, each with a place on its node as an acquire has one."""

    def __init__(self, router: Router[PoolT, ConnT], hide: Callable[[str], str]) -> None:
        self._router = router
        self._hide = hide
        self._pending = PendingConnects()
        self._nodes: set[Node[PoolT, ConnT]] = set()

    async def run(self, node: Node[PoolT, ConnT]) -> None:
        """Have a node open a connection. Whether that worked, those will see who want one."""
        if node.pool is None or node.in_flight >= node.sizes.maximum:
            return  # all are lent still: it would wait for one of those
        node.pool.end_connects()  # those begun while nobody answered there
        node.in_flight += 1
        self._nodes.add(node)
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._pending.run(_use(node.pool))
        except Exception as error:  # noqa: BLE001  # as said above
            log.debug("%s: no connection to begin with: %s", node.host, self._hide(repr(error)))
        finally:
            self._nodes.discard(node)
            self._router.vacate(node)

    def concern(self, node: Node[PoolT, ConnT]) -> bool:
        """Whether one is under way on a node."""
        return node in self._nodes

    def end(self) -> None:
        """End all: nobody is going to use them."""
        self._pending.end()


async def _use(pool: DriverPool[Any, Any]) -> None:
    """Take a connection and give it back."""
    before = cancellations()
    connection = await pool.acquire()
    if cancellations() > before:
        pool.abort(connection)  # nothing else would end its release
    try:
        await pool.release(connection)
    except BaseException:
        pool.abort(connection)
        raise
