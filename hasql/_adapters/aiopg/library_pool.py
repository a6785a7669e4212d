"""aiopg's own pool, of either kind: opening, acquiring and releasing there."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import psycopg2

from hasql._adapters.aiopg.addresses import Addresses
from hasql._adapters.aiopg.connection import lost_while_opened
from hasql._adapters.aiopg.logins import PoolLogins
from hasql._adapters.aiopg.registry import ConnectionRegistry
from hasql.driver import Endpoint, PoolSizes, PoolT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    import aiopg

__all__ = ("LibraryPool",)


class LibraryPool(Generic[PoolT]):
    """A pool of aiopg or aiopg.sa. An object that the pool hands out is called a slot here.

    With a minimum, aiopg would make the first task that asks for a connection wait until that many
    have been opened, one after the other. So the minimum of aiopg's pool is 0, and the real minimum
    is kept here.
    """

    pool: PoolT
    #: All connections that the pool has opened.
    registry: ConnectionRegistry

    def __init__(
        self,
        sizes: PoolSizes,
        create_pool: Callable[..., Awaitable[PoolT]],
        inner_of: Callable[[Any], Any],
    ) -> None:
        self.sizes = sizes
        self._create_pool = create_pool
        self._inner_of = inner_of

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        on_loss: Callable[[aiopg.Connection], None],
    ) -> PoolT:
        """Create the pool and open its minimum of connections."""
        self._addresses = Addresses(endpoint)
        self._logins = PoolLogins(endpoint)
        self.registry = ConnectionRegistry(kwargs, self._addresses, self._logins, on_loss)
        ours = {**kwargs, **self.registry.hooks, "minsize": 0}
        self.pool = await self._create_pool(endpoint.dsn, **ours)  # does not pause
        taken: list[Any] = []
        try:
            while len(taken) < self.sizes.minimum:
                taken.append(await self.acquire_by_any_address())
            for slot in taken:
                self.release(slot)
        except BaseException:
            self.registry.abort_all()
            self.terminate(())
            raise
        return self.pool

    @property
    def _untyped(self) -> Any:
        """The pool, for the methods that its two kinds have in common."""
        return self.pool

    def inner_of(self, slot: Any) -> aiopg.Connection:
        """Return the connection in a slot."""
        connection: aiopg.Connection = self._inner_of(slot)
        return connection

    @property
    def idle(self) -> int:
        """How many connections the pool can hand out. Lost ones are counted as well."""
        count: int = self._untyped.freesize
        return count

    @property
    def missing(self) -> int:
        """How many connections the pool lacks to its minimum."""
        return self.sizes.minimum - self.registry.size

    async def acquire_by_any_address(self) -> Any:
        """Take a slot with an idle connection, or a new one to the first address that answers."""
        return await self._logins.connect(partial(self._addresses.try_each, self.acquire))

    async def acquire(self) -> Any:
        """Take a slot with an idle connection at once, or try to open one to a single address."""
        try:
            return await self._untyped.acquire()
        except BaseException as error:
            lost = self.registry.close_unfinished(asyncio.current_task())
            if lost and isinstance(error, psycopg2.InterfaceError):
                raise lost_while_opened() from error
            raise

    def release(self, slot: Any) -> None:
        """Give a slot back, with its connection idle or closed."""
        self._untyped.release(slot)

    async def close(self) -> None:
        """Close every connection; all slots are back."""
        self._untyped.close()
        await self._untyped.wait_closed()

    def terminate(self, leased: Iterable[Any]) -> None:
        """Give back the slots that are leased, and close; every connection has been aborted."""
        self._untyped.close()
        for slot in leased:
            with suppress(AssertionError, KeyError):  # the user gave it back to aiopg directly
                self.release(slot)
        # aiopg's own terminate() leaves the idle connections to wait_closed(). The first step of
        # that takes them out of the pool; its other steps would wait for tasks that have taken a
        # connection from the pool directly. So only the first step is run.
        closing = self._untyped.wait_closed()
        with suppress(StopIteration):
            closing.send(None)
        closing.close()
