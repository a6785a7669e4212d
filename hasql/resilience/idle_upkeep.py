"""The upkeep of idle connections: those that are too old are closed, and others asked if they live.

They are taken from the driver's pool as an acquire takes them, each with a place of its own, so
that there is never one more than there may be.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Generic, Protocol

from hasql._leasing.book import LeaseBook
from hasql._leasing.layers import Layer
from hasql._leasing.lease import Lease
from hasql._routing.node import Node
from hasql._routing.router import Router
from hasql.diagnostics import about
from hasql.driver import AsyncPool, ConnT, DriverPool, PoolT, ThreadPool
from hasql.driver.threads import in_thread
from hasql.driver.time_left import TimeLeft
from hasql.resilience.connection_ages import ConnectionAges

__all__ = ("IdleUpkeep", "PoolCalls", "TaskPoolCalls", "ThreadPoolCalls", "look_every")

log = logging.getLogger("hasql")

#: Seconds in which an idle connection is to be had, and in which it has to answer.
_TAKING, _ANSWERING = 1.0, 1.0
#: Seconds after which those that were taken to get at another one go back, answer or not.
_LONGEST_ASIDE = 0.05


class PoolCalls(Protocol[PoolT, ConnT]):
    """How connections are taken and given back by one face's pools."""

    async def take(self, pool: DriverPool[PoolT, ConnT]) -> ConnT:
        """Take an idle connection."""
        ...

    async def ask(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Have it answer; raises what it meets."""
        ...

    async def give_back(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Give it back."""
        ...


class TaskPoolCalls(Generic[PoolT, ConnT]):
    """The calls of pools for tasks."""

    async def take(self, pool: DriverPool[PoolT, ConnT]) -> ConnT:
        """Take an idle connection."""
        its: AsyncPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # its face's
        connection: ConnT = await its.acquire()
        return connection

    async def ask(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Have it answer."""
        its: AsyncPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # as above
        await its.count_rows(connection, "SELECT 1")

    async def give_back(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Give it back."""
        its: AsyncPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # as above
        await its.release(connection)


class ThreadPoolCalls(Generic[PoolT, ConnT]):
    """The calls of pools for threads: what may wait has a thread of its own."""

    async def take(self, pool: DriverPool[PoolT, ConnT]) -> ConnT:
        """Take an idle connection."""
        its: ThreadPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # its face's
        time_left = TimeLeft(_TAKING, lambda: 0.0, _TAKING, lambda: None)
        taking = in_thread(partial(its.acquire, time_left), "hasql upkeep", its.release)
        return await asyncio.wrap_future(taking)

    async def ask(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Have it answer."""
        its: ThreadPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # as above
        asking = partial(its.count_rows, connection, "SELECT 1")
        await asyncio.wrap_future(in_thread(asking, "hasql upkeep"))

    async def give_back(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Give it back."""
        its: ThreadPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # as above
        try:
            back = in_thread(partial(its.release, connection), "hasql upkeep")
        except RuntimeError:  # no more threads can be had
            its.abort(connection)  # so that giving it back waits for nothing
            its.release(connection)
        else:
            await asyncio.wrap_future(back)


class IdleUpkeep(Layer, Generic[PoolT, ConnT]):
    """One task for all pools of a manager, which looks at them every so many seconds.

    Args:
        every: Seconds between two looks.
        notes_use: Whether it matters when a connection was used.
        new_ages: Makes what knows of the ages of one pool's connections.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        every: float,
        notes_use: bool,  # noqa: FBT001  # as the others
        new_ages: Callable[[], ConnectionAges],
        nodes: Callable[[], Iterable[Node[PoolT, ConnT]]],
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        calls: PoolCalls[PoolT, ConnT],
        guard: AbstractContextManager[object],
        hide: Callable[[str], str],
    ) -> None:
        self._every = every
        self.notes_use = notes_use
        self._new_ages = new_ages
        self._nodes = nodes
        self._router = router
        self._book = book
        self._calls = calls
        self._guard = guard
        self._hide = hide
        self._ages: dict[Node[PoolT, ConnT], ConnectionAges] = {}
        self._task: asyncio.Task[None] | None = None
        #: How many were closed for their age, and how many gave no sign of life.
        self.aged = 0
        self.dead = 0

    # As a layer, which it is only where it matters when a connection was used

    def lent(self, lease: Lease[Any, Any]) -> None:
        """Take note which connection is in use, as the lease does not have it when it is back."""
        node, connection = lease.node, lease.connection
        if node is not None and node.pool is not None and connection is not None:
            lease.key = node.pool.key(connection)

    def returned(
        self, lease: Lease[Any, Any], node: Node[Any, Any], error: BaseException | None
    ) -> None:
        """Take note that a connection was used until now."""
        del error
        ages = self._ages.get(node)
        if ages is not None and lease.key is not None:
            ages.used(lease.key)

    # The task

    def begin(self) -> None:
        """Begin to look, unless that has begun; in the event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the task, if it has begun."""
        return [] if self._task is None else [self._task]

    async def _run(self) -> None:
        while True:
            nodes = [node for node in self._nodes() if node.pool is not None]
            self._ages = {node: self._ages.get(node) or self._new_ages() for node in nodes}
            for node in nodes:
                try:
                    await self._look_at(node)
                except Exception as error:  # noqa: BLE001  # the next look is the next occasion
                    told, extra = self._hide(repr(error)), about("upkeep_failed", host=node.host)
                    log.debug("%s: no look at idle ones: %s", node.host, told, extra=extra)
            await asyncio.sleep(self._every)

    async def _look_at(self, node: Node[PoolT, ConnT]) -> None:
        pool, ages = node.pool, self._ages[node]
        assert pool is not None  # noqa: S101  # as was looked above
        ages.know(keys := pool.destinations.keys())
        lent = self._lent_by(node, pool, ages)
        due = {key for key in keys - lent if ages.is_to_go(key) or ages.is_to_be_asked(key)}
        aside: list[ConnT] = []
        try:
            for _ in range(pool.idle()):
                if not due or not self._has_room(node, pool):
                    break
                await self._see_to_one(node, pool, due, aside)
        finally:
            await self._put_back(node, pool, aside)

    def _lent_by(
        self, node: Node[PoolT, ConnT], pool: DriverPool[PoolT, ConnT], ages: ConnectionAges
    ) -> set[Hashable | None]:
        """Return what is in use; what is too old of that is closed when it is back.

        It is marked here and not when it is lent, so that its age costs an acquire nothing. One
        that is given back meanwhile is found by the next look.
        """
        lent = set()
        for lease in self._book.out(node):
            if (connection := lease.connection) is None:
                continue
            lent.add(key := pool.key(connection))
            if ages.is_old(key):
                lease.expired = True
        return lent

    def _has_room(self, node: Node[PoolT, ConnT], pool: DriverPool[PoolT, ConnT]) -> bool:
        """Tell whether one can be taken that nobody waits for."""
        wanted = self._router.waiting > 0 or not node.in_routing
        return pool.idle() > 0 and node.free > 0 and not wanted

    async def _see_to_one(
        self,
        node: Node[PoolT, ConnT],
        pool: DriverPool[PoolT, ConnT],
        due: set[Hashable],
        aside: list[ConnT],
    ) -> None:
        """Take one idle connection, and do what is due; others are set aside to get at the next."""
        ages = self._ages[node]
        self._router.occupy_on(node)
        try:
            async with asyncio.timeout(_TAKING):
                connection = await self._calls.take(pool)
        except BaseException:
            self._router.vacate(node)
            raise
        key = pool.key(connection)
        if key not in due:
            aside.append(connection)  # it keeps its place
            return
        due.discard(key)
        try:
            if ages.is_to_go(key):
                pool.abort(connection)
                self.aged += 1
            elif await self._answers(node, pool, connection, aside):
                ages.heard(key)
            else:
                pool.abort(connection)
                self.dead += 1
        finally:
            await self._put_back(node, pool, [connection])

    async def _answers(
        self,
        node: Node[PoolT, ConnT],
        pool: DriverPool[PoolT, ConnT],
        connection: ConnT,
        aside: list[ConnT],
    ) -> bool:
        asking = asyncio.ensure_future(self._calls.ask(pool, connection))
        try:
            done, _ = await asyncio.wait({asking}, timeout=_LONGEST_ASIDE)
            if not done:
                await self._put_back(node, pool, aside)
                await asyncio.wait({asking}, timeout=_ANSWERING)
        finally:
            if not asking.done():
                pool.abort(connection)  # which ends it
                asking.cancel()
                await asyncio.wait({asking}, timeout=_ANSWERING)
        failure = asyncio.CancelledError() if asking.cancelled() else asking.exception()
        if failure is not None:
            told, extra = self._hide(repr(failure)), about("connection_lost", host=node.host)
            log.debug("%s: an idle connection is dead: %s", node.host, told, extra=extra)
        return failure is None

    async def _put_back(
        self,
        node: Node[PoolT, ConnT],
        pool: DriverPool[PoolT, ConnT],
        connections: list[ConnT],
    ) -> None:
        while connections:
            connection = connections.pop()
            alive = not pool.is_closed(connection)
            if node.succession is not None:  # another pool has taken its place
                pool.abort(connection)
            try:
                async with asyncio.timeout(_TAKING):
                    await self._calls.give_back(pool, connection)
            except Exception:  # noqa: BLE001  # whatever it was, it is of no use
                self._abort(pool, connection)
                self.dead += alive
            except BaseException:
                self._abort(pool, connection)
                raise
            finally:
                self._router.vacate(node)

    def _abort(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        with self._guard:
            if self._book.find(connection) is None:  # else it was back, and is the next one's
                pool.abort(connection)


def look_every(limits: Collection[float | None]) -> float:
    """Return how often to look, by the shortest of the limits."""
    return max(0.02, min(30.0, min(limit for limit in limits if limit is not None) / 8))
