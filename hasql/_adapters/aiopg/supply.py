"""The supply of connections: aiopg's pool itself, and what is opened, taken and put back there."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic

from hasql._adapters.aiopg.addresses import Addresses
from hasql._adapters.aiopg.roster import Roster
from hasql.driver import PoolSizes, PoolT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    import aiopg

__all__ = ("Supply",)


class Supply(Generic[PoolT]):
    """A pool of aiopg's of either kind, which hands out slots.

    The pool is opened with a minimum of 0, which is kept here instead: aiopg has whoever comes
    first wait until all that are missing have been opened, one after the other.
    """

    pool: PoolT
    #: All connections that the pool has opened.
    roster: Roster

    def __init__(
        self,
        sizes: PoolSizes,
        create_pool: Callable[..., Awaitable[PoolT]],
        behind: Callable[[Any], Any],
    ) -> None:
        self.sizes = sizes
        self._create_pool = create_pool
        self._behind = behind

    async def open(self, dsn: str, kwargs: Mapping[str, Any], on_loss: Callable[[], None]) -> PoolT:
        """Create the pool and open what it keeps at least."""
        self._addresses = Addresses(dsn)
        self.roster = Roster(kwargs, self._addresses, on_loss)
        ours = {**kwargs, **self.roster.hooks, "minsize": 0}
        self.pool = await self._create_pool(dsn, **ours)  # without a pause
        taken: list[Any] = []
        try:
            while len(taken) < self.sizes.minimum:
                taken.append(await self.take())
            for slot in taken:
                self.put(slot)
        except BaseException:
            self.roster.break_all()
            self.terminate(())
            raise
        return self.pool

    @property
    def _library(self) -> Any:
        """The pool, where its methods are what the two kinds of it have in common."""
        return self.pool

    def behind(self, slot: Any) -> aiopg.Connection:
        """Return the connection behind a slot."""
        connection: aiopg.Connection = self._behind(slot)
        return connection

    @property
    def idle(self) -> int:
        """How many the pool has to hand out; lost ones are counted as well."""
        count: int = self._library.freesize
        return count

    @property
    def missing(self) -> int:
        """How many are to be opened until there are as many as are kept at least."""
        return self.sizes.minimum - self.roster.size

    async def take(self) -> Any:
        """Take a slot, with an idle connection or a new one."""
        return await self._addresses.try_each(self.ask)

    async def ask(self) -> Any:
        """Take a slot like `take`, but try one address only; one that is idle without a pause."""
        try:
            return await self._library.acquire()
        except BaseException:
            self.roster.drop(asyncio.current_task())
            raise

    def put(self, slot: Any) -> None:
        """Give a slot back, its connection idle or closed."""
        self._library.release(slot)

    async def close(self) -> None:
        """Close all; they are back."""
        self._library.close()
        await self._library.wait_closed()

    def terminate(self, lent: Iterable[Any]) -> None:
        """Have the slots back that are lent, and close; all connections are broken."""
        self._library.close()
        for slot in lent:
            with suppress(AssertionError, KeyError):  # given back to aiopg's pool directly
                self.put(slot)
        # aiopg's own terminate() leaves the idle ones to this; it begins with taking them out of
        # the pool, before it waits for those who have taken one directly.
        closing = self._library.wait_closed()
        with suppress(StopIteration):
            closing.send(None)
        closing.close()
