"""An aiopg pool, with everything that the core needs of a pool."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from psycopg2 import extensions

from hasql._adapters.aiopg.acquire_queue import AcquireQueue
from hasql._adapters.aiopg.cancelled_statement import end_statement
from hasql._adapters.aiopg.connection import abort_connection, in_transaction
from hasql._adapters.aiopg.inner_connections import InnerConnections
from hasql._adapters.aiopg.library_pool import LibraryPool
from hasql._adapters.aiopg.slot_leases import SlotLeases
from hasql._adapters.aiopg.watched_connection import SlotLendingMixin
from hasql._adapters.hooks import RunningHooks
from hasql._adapters.libpq import ended_by_limit
from hasql.driver import ConnT, Endpoint, PoolSizes, PoolT
from hasql.driver.arguments import refuse_all
from hasql.driver.failure import SessionLimitError
from hasql.driver.own_task import in_own_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    import aiopg

    from hasql._adapters.aiopg.cancelled_statement import OpenSession

__all__ = ("AiopgPool",)


class AiopgPool(SlotLendingMixin, InnerConnections[PoolT, ConnT]):
    """One aiopg pool, with the queue for its connections and with its leases.

    An object that aiopg's pool hands out is called a slot here.
    """

    def __init__(self, sizes: PoolSizes, create_pool: Callable[..., Awaitable[PoolT]]) -> None:
        self.sizes = sizes
        self._library_pool = LibraryPool(sizes, create_pool, self.inner_of)
        self._queue = AcquireQueue(self._library_pool)
        self._leases: SlotLeases[ConnT] = SlotLeases()
        self._terminated = False
        #: The coroutines that end the statements of connections that aiopg has closed.
        self._ending = RunningHooks()
        self.host_answers: Any = self._queue.host_answers

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        open_session: OpenSession,
        report: Callable[[ConnT, BaseException], None],
    ) -> Self:
        """Create the pool and open its minimum of connections."""
        self._open_session, self._report = open_session, report
        self.pool = await self._library_pool.open(endpoint, kwargs, self._note_loss)
        self._registry = self._library_pool.registry
        self.destinations = self._registry.destinations
        return self

    def _note_loss(self, inner: aiopg.Connection) -> None:
        self._queue.note_loss()
        lent = self._leases.handed_out(inner)
        if lent is not None and ended_by_limit(inner.raw.notices):
            self._report(lent, SessionLimitError())

    async def _roll_back(self, connection: ConnT, inner: aiopg.Connection) -> None:
        """Roll an open transaction back."""
        del connection
        async with inner.cursor(cursor_factory=extensions.cursor) as cursor:
            await cursor.execute("ROLLBACK")

    async def _give_back(self, connection: ConnT) -> None:
        self.take_back(connection)

    # Acquiring and releasing

    @property
    def size(self) -> int:
        return self._registry.size

    def idle(self) -> int:
        # aiopg counts lost connections as well, and the registry counts those that the user has
        # taken from aiopg's pool directly. No more are really idle than the lower of both counts.
        counted = self._library_pool.idle + self._queue.held_back
        return max(0, min(self._registry.idle, counted))

    async def acquire(self, **kwargs: Any) -> ConnT:
        refuse_all(kwargs, "aiopg's acquire")
        if self._queue.under_way or not self.idle():
            slot = await self._queue.get()
        else:
            slot = await self._library_pool.acquire()
        inner = self.inner_of(slot)
        if inner.closed:
            self._queue.pass_on(slot)
            raise ConnectionError("the connection was lost before it could be used")
        self._registry.note_lease(inner)
        if inner.raw.held_before is not None:
            inner.raw.hold()
        return self._leases.add(inner, slot, self._hand_out(slot))

    async def release(self, connection: ConnT, **kwargs: Any) -> None:
        inner = self.inner_of(connection)
        if inner is None or self._is_of_another_lease(connection, inner):
            return
        try:
            refuse_all(kwargs, "aiopg's release")
            if not inner.closed and in_transaction(inner):
                # In a task of its own: aiopg uses a time limit, which belongs to one task, whereas
                # the core may let another task finish the release.
                await in_own_task(partial(self._roll_back, connection, inner))
            elif inner.raw.left_running is not None:
                await in_own_task(partial(self._end_left_running, inner, *inner.raw.left_running))
        except BaseException:
            abort_connection(inner)
            raise
        finally:
            await self._give_back(connection)

    async def _end_left_running(self, inner: aiopg.Connection, pid: int, port: int) -> None:
        await self._ending.run(inner, end_statement(self._open_session, pid, port))

    def _is_of_another_lease(self, connection: ConnT, inner: aiopg.Connection) -> bool:
        return self._leases.is_of_another(inner, connection)

    def take_back(self, connection: ConnT) -> None:
        """Take back an object that was handed out and is no longer used."""
        inner = self.inner_of(connection)
        if self._is_of_another_lease(connection, inner):
            return
        self._registry.note_release(inner)
        slot = self._leases.remove(inner)
        if not self._terminated:
            self._queue.pass_on(connection if slot is None else slot)

    async def roll_back(self, connection: ConnT) -> None:
        inner = self.inner_of(connection)
        if in_transaction(inner):
            await self._roll_back(connection, inner)

    def abort(self, connection: ConnT) -> None:
        inner = self.inner_of(connection)
        if inner is not None and not self._is_of_another_lease(connection, inner):
            abort_connection(inner)
            self._ending.end(inner)

    async def keep(self, sizes: PoolSizes) -> None:
        self.sizes = self._library_pool.sizes = sizes
        self._queue.note_loss()
        self.host_answers()

    def end_connects(self) -> None:
        self._registry.abort_connects()
        self._queue.end()

    def purge(self, leased: Iterable[ConnT]) -> None:
        self.drain(leased, lambda _: True)

    def drain(self, leased: Iterable[ConnT], has_left: Callable[[str | None], bool]) -> None:
        self._registry.abort_all({self.inner_of(connection) for connection in leased}, has_left)
        self._queue.end()

    async def close(self) -> None:
        self._registry.abort_connects()
        if ended := self._queue.end(for_good=True):
            await asyncio.wait(ended)
        await self._library_pool.close()

    def terminate(self) -> None:
        self._terminated = True
        self._registry.abort_all()
        self._queue.end(for_good=True)
        self._library_pool.terminate(self._leases.remove_all())
