"""The upkeep of idle connections: old ones are closed, and others are tested for a sign of life.

The upkeep takes connections from the driver's pool as an acquire does, and occupies a place for
each, so that the pool never has more connections than it may.
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

__all__ = ("IdleUpkeep", "PoolCalls", "TaskPoolCalls", "ThreadPoolCalls", "look_interval")

log = logging.getLogger("hasql")

#: Seconds that taking an idle connection from the pool may take, and that its answer may take.
_TAKE_TIMEOUT, _ANSWER_TIMEOUT = 1.0, 1.0
#: Seconds to wait for an answer before the connections that were set aside are given back.
_ASIDE_TIMEOUT = 0.05


class PoolCalls(Protocol[PoolT, ConnT]):
    """The calls that take, test and give back connections, for the pools of one face."""

    async def take(self, pool: DriverPool[PoolT, ConnT]) -> ConnT:
        """Take an idle connection."""
        ...

    async def ask(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Send a query and wait for the answer; raises whatever error occurs."""
        ...

    async def give_back(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Give the connection back."""
        ...


class TaskPoolCalls(Generic[PoolT, ConnT]):
    """The calls of pools for tasks."""

    async def take(self, pool: DriverPool[PoolT, ConnT]) -> ConnT:
        """Take an idle connection."""
        its: AsyncPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # a pool for tasks
        connection: ConnT = await its.acquire()
        return connection

    async def ask(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Send a query and wait for the answer."""
        its: AsyncPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # as above
        await its.count_rows(connection, "SELECT 1")

    async def give_back(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Give the connection back."""
        its: AsyncPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # as above
        await its.release(connection)


class ThreadPoolCalls(Generic[PoolT, ConnT]):
    """The calls of pools for threads. Each runs in a thread of its own, because it may block."""

    async def take(self, pool: DriverPool[PoolT, ConnT]) -> ConnT:
        """Take an idle connection."""
        its: ThreadPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # a pool for threads
        time_left = TimeLeft(_TAKE_TIMEOUT, lambda: 0.0, _TAKE_TIMEOUT, lambda: None)
        taking = in_thread(partial(its.acquire, time_left), "hasql upkeep", its.release)
        return await asyncio.wrap_future(taking)

    async def ask(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Send a query and wait for the answer."""
        its: ThreadPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # as above
        asking = partial(its.count_rows, connection, "SELECT 1")
        await asyncio.wrap_future(in_thread(asking, "hasql upkeep"))

    async def give_back(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        """Give the connection back."""
        its: ThreadPool[PoolT, ConnT] = pool  # type: ignore[assignment]  # as above
        try:
            back = in_thread(partial(its.release, connection), "hasql upkeep")
        except RuntimeError:  # no further thread can be started
            its.abort(connection)  # so that giving it back does not block the loop
            its.release(connection)
        else:
            await asyncio.wrap_future(back)


class IdleUpkeep(Layer, Generic[PoolT, ConnT]):
    """One task that looks at the idle connections of all pools of a manager at intervals.

    Args:
        every: Seconds between two looks.
        notes_use: Whether it matters when a connection was last used.
        new_ages: Makes a `ConnectionAges` for one pool.
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
        #: How many connections were closed for their age, and how many gave no sign of life.
        self.aged = 0
        self.dead = 0

    # As a layer: it is one only if it matters when a connection was last used

    def lent(self, lease: Lease[Any, Any]) -> None:
        """Note the connection's key, because the lease no longer has the connection at its end."""
        node, connection = lease.node, lease.connection
        if node is not None and node.pool is not None and connection is not None:
            lease.key = node.pool.key(connection)

    def returned(
        self, lease: Lease[Any, Any], node: Node[Any, Any], error: BaseException | None
    ) -> None:
        """Note that the connection was in use until now."""
        del error
        ages = self._ages.get(node)
        if ages is not None and lease.key is not None:
            ages.note_use(lease.key)

    # The task

    def begin(self) -> None:
        """Start the task, in the event loop, unless it has been started."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the task in a list, which is empty if it was not started."""
        return [] if self._task is None else [self._task]

    async def _run(self) -> None:
        while True:
            nodes = [node for node in self._nodes() if node.pool is not None]
            self._ages = {node: self._ages.get(node) or self._new_ages() for node in nodes}
            for node in nodes:
                try:
                    await self._look_at(node)
                except Exception as error:  # noqa: BLE001  # the next look tries again
                    told, extra = self._hide(repr(error)), about("upkeep_failed", host=node.host)
                    log.debug(
                        "%s: could not check idle connections: %s", node.host, told, extra=extra
                    )
            await asyncio.sleep(self._every)

    async def _look_at(self, node: Node[PoolT, ConnT]) -> None:
        pool, ages = node.pool, self._ages[node]
        assert pool is not None  # noqa: S101  # the caller has checked it
        ages.track(keys := pool.destinations.keys())
        lent = self._lent_by(node, pool, ages)
        due = {key for key in keys - lent if ages.must_be_closed(key) or ages.must_be_tested(key)}
        aside: list[ConnT] = []
        try:
            for _ in range(pool.idle()):
                if not due or not self._has_room(node, pool):
                    break
                await self._check_one(node, pool, due, aside)
        finally:
            await self._put_back(node, pool, aside)

    def _lent_by(
        self, node: Node[PoolT, ConnT], pool: DriverPool[PoolT, ConnT], ages: ConnectionAges
    ) -> set[Hashable | None]:
        """Return the keys of the leased connections; mark those that are too old.

        A marked connection is closed when it is given back. Connections are marked here and not
        when they are lent, so that their age costs an acquire nothing. One that is given back while
        this runs may be missed, which is harmless: the next look finds it.
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
        """Tell whether a connection can be taken without making an acquire wait."""
        wanted = self._router.waiting > 0 or not node.in_routing
        return pool.idle() > 0 and node.free > 0 and not wanted

    async def _check_one(
        self,
        node: Node[PoolT, ConnT],
        pool: DriverPool[PoolT, ConnT],
        due: set[Hashable],
        aside: list[ConnT],
    ) -> None:
        """Take one idle connection, and do what is due; if nothing is, set it aside."""
        ages = self._ages[node]
        self._router.occupy_on(node)
        try:
            async with asyncio.timeout(_TAKE_TIMEOUT):
                connection = await self._calls.take(pool)
        except BaseException:
            self._router.vacate(node)
            raise
        key = pool.key(connection)
        if key not in due:
            aside.append(connection)  # keeps its place, so that the pool hands out another one next
            return
        due.discard(key)
        try:
            if ages.must_be_closed(key):
                pool.abort(connection)
                self.aged += 1
            elif await self._answers(node, pool, connection, aside):
                ages.note_alive(key)
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
            done, _ = await asyncio.wait({asking}, timeout=_ASIDE_TIMEOUT)
            if not done:
                await self._put_back(node, pool, aside)
                await asyncio.wait({asking}, timeout=_ANSWER_TIMEOUT)
        finally:
            if not asking.done():
                pool.abort(connection)  # which ends the query
                asking.cancel()
                await asyncio.wait({asking}, timeout=_ANSWER_TIMEOUT)
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
            if node.succession is not None:  # another pool has replaced this one
                pool.abort(connection)
            try:
                async with asyncio.timeout(_TAKE_TIMEOUT):
                    await self._calls.give_back(pool, connection)
            except Exception:  # noqa: BLE001  # after any error the connection is unusable
                self._abort(pool, connection)
                self.dead += alive
            except BaseException:
                self._abort(pool, connection)
                raise
            finally:
                self._router.vacate(node)

    def _abort(self, pool: DriverPool[PoolT, ConnT], connection: ConnT) -> None:
        with self._guard:
            # If a lease has it, giving it back had succeeded, and an acquire has taken it since.
            if self._book.find(connection) is None:
                pool.abort(connection)


def look_interval(limits: Collection[float | None]) -> float:
    """Return the seconds between two looks, by the shortest of the limits."""
    return max(0.02, min(30.0, min(limit for limit in limits if limit is not None) / 8))
