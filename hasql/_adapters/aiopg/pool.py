"""A pool of aiopg's with all that the core needs of one."""

# long: lending, giving back and breaking share who holds which slot

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self

from psycopg2 import extensions  # type: ignore[import-untyped]

from hasql._adapters.aiopg.connection import (
    break_off,
    count_rows,
    in_hot_standby,
    in_transaction,
)
from hasql._adapters.aiopg.growth import Growth
from hasql._adapters.aiopg.supply import Supply
from hasql._adapters.aiopg.unfinished import end_session
from hasql._adapters.hooks import Hooks
from hasql.driver import ConnT, PoolSizes, PoolT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    import aiopg

    from hasql._adapters.aiopg.unfinished import Beside

__all__ = ("AiopgPool",)


def _take_no(kwargs: Mapping[str, Any], method: str) -> None:
    if kwargs:
        raise TypeError(f"aiopg's {method} takes no arguments, but got {', '.join(kwargs)}")


async def _shielded(work: Coroutine[Any, Any, None]) -> None:
    """Do some work in a task of its own, which a cancellation of this one does not reach.

    Nobody is told how it ends then: breaking its connection, which is what ends it, must not be an
    error that asyncio reports, or reports of a program that ends.
    """
    error = await asyncio.shield(asyncio.create_task(_outcome(work)))
    if error is not None:
        try:
            raise error
        finally:
            del error  # it has this frame, which has it


async def _outcome(work: Coroutine[Any, Any, None]) -> Exception | None:
    try:
        await work
    except Exception as error:  # noqa: BLE001  # for whoever waits
        return error
    return None


class AiopgPool(Generic[PoolT, ConnT]):
    """One pool of aiopg's: its supply, its growth, and what is lent.

    What aiopg hands out, a slot, is what the user gets, unless a subclass makes something else.
    """

    pool: PoolT
    released = None

    def __init__(self, sizes: PoolSizes, create_pool: Callable[..., Awaitable[PoolT]]) -> None:
        self.sizes = sizes
        self._supply = Supply(sizes, create_pool, self.behind)
        self._growth = Growth(self._supply)
        #: All that are lent, open or not, with what aiopg's pool wants to have back.
        self._slots: dict[aiopg.Connection, Any] = {}
        #: What the user has got for each.
        self._handed_out: dict[aiopg.Connection, ConnT] = {}
        self._ended = False
        #: What ends the statements of those that aiopg has closed.
        self._ending = Hooks()

    async def open(self, dsn: str, kwargs: Mapping[str, Any], beside: Beside) -> Self:
        """Create the pool and open what it keeps at least."""
        self._beside = beside
        self.pool = await self._supply.open(dsn, kwargs, self._growth.note_loss)
        self._roster = self._supply.roster
        self.destinations = self._roster.destinations
        return self

    # What the user gets for a slot

    def behind(self, connection: Any) -> Any:
        """Return aiopg's connection behind what was handed out, or behind a slot.

        None: the user has closed what was handed out.
        """
        return connection

    def _lend(self, slot: Any) -> ConnT:
        return slot  # type: ignore[no-any-return]

    async def _roll_back(self, connection: ConnT, inner: aiopg.Connection) -> None:
        """Roll back what is open."""
        del connection
        async with inner.cursor(cursor_factory=extensions.cursor) as cursor:
            await cursor.execute("ROLLBACK")

    async def _let_go(self, connection: ConnT) -> None:
        self.take_back(connection)

    # Lending

    @property
    def size(self) -> int:
        return self._roster.size

    def idle(self) -> int:
        # aiopg counts lost ones as well, and we do not know which were taken directly.
        return max(0, min(self._roster.at_rest, self._supply.idle + self._growth.shelved))

    async def acquire(self, **kwargs: Any) -> ConnT:
        _take_no(kwargs, "acquire")
        if self._growth.under_way or not self.idle():
            slot = await self._growth.get()
        else:
            slot = await self._supply.ask()
        inner = self.behind(slot)
        if inner.closed:
            self._growth.pass_on(slot)
            raise ConnectionError("the connection was lost before it could be used")
        self._slots[inner] = slot
        self._roster.lend(inner)
        if inner.raw.held_before is not None:
            inner.raw.hold()
        lent = self._handed_out[inner] = self._lend(slot)
        return lent

    def leave_block(self, *_: object) -> None:
        """What is open is rolled back by `release`."""

    async def release(self, connection: ConnT, **kwargs: Any) -> None:
        inner = self.behind(connection)
        if inner is None or self._is_anothers(connection, inner):
            return
        try:
            _take_no(kwargs, "release")
            if not inner.closed and in_transaction(inner):
                # In a task of its own: aiopg's time limit belongs to one, and ours may change.
                await _shielded(self._roll_back(connection, inner))
            elif inner.raw.left_running is not None:
                work = end_session(self._beside, *inner.raw.left_running)
                await _shielded(self._ending.run(inner, work))
        except BaseException:
            break_off(inner)
            raise
        finally:
            await self._let_go(connection)

    def _is_anothers(self, connection: ConnT, inner: aiopg.Connection) -> bool:
        """Tell whether the user has given it to aiopg's pool directly, and we have lent it again.

        Where a slot is lent as it is, this cannot be told here: it is the same object again.
        """
        return self._handed_out.get(inner, connection) is not connection

    def take_back(self, connection: ConnT) -> None:
        """Take back what is not used any more."""
        inner = self.behind(connection)
        if self._is_anothers(connection, inner):
            return
        self._roster.take_back(inner)
        self._handed_out.pop(inner, None)
        slot = self._slots.pop(inner, None)
        if not self._ended:
            # Without a slot it was taken from aiopg's pool directly.
            self._growth.pass_on(connection if slot is None else slot)

    def host_answers(self) -> None:
        self._growth.host_answers()

    # Breaking

    def key(self, connection: ConnT) -> Any:
        return None if self.is_closed(connection) else self.behind(connection).raw

    async def count_rows(self, connection: ConnT, sql: str) -> int:
        return await count_rows(self.behind(connection), sql)

    def in_hot_standby(self, connection: ConnT) -> bool | None:
        inner = self.behind(connection)
        return None if inner is None else in_hot_standby(inner)

    def hold(self, connection: ConnT) -> None:
        inner = self.behind(connection)
        if inner is not None:
            inner.raw.hold()

    def is_anothers(self, connection: Any) -> bool:
        # What a subclass makes of a slot is of one lease alone.
        inner = self.behind(connection)
        return inner is connection and bool(inner.raw.is_anothers())

    def note_release(self, connection: Any) -> None:
        inner = self.behind(connection)
        if inner is connection:
            inner.raw.note_release()

    def is_closed(self, connection: ConnT) -> bool:
        inner = self.behind(connection)
        return inner is None or bool(inner.closed)

    def abort(self, connection: ConnT) -> None:
        inner = self.behind(connection)
        if inner is not None and not self._is_anothers(connection, inner):
            break_off(inner)
            self._ending.end(inner)

    def end_connects(self) -> None:
        self._roster.break_connects()
        self._growth.end()

    def purge(self, lent: Iterable[ConnT]) -> None:
        self._roster.break_all(but={self.behind(connection) for connection in lent})
        self._growth.end()

    async def close(self) -> None:
        self._roster.break_connects()
        if ended := self._growth.end(for_good=True):
            await asyncio.wait(ended)
        await self._supply.close()

    def terminate(self) -> None:
        self._ended = True
        self._roster.break_all()
        self._growth.end(for_good=True)
        self._supply.terminate(self._slots.values())
        self._slots.clear()
        self._handed_out.clear()
