"""The closing of one manager, once, however often it is asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic

from hasql._manager.lifetime import Lifetime
from hasql.driver import ConnT, PoolT

__all__ = ("Closing",)


class Closing(Generic[PoolT, ConnT]):
    """Closes a manager that has started, in its event loop."""

    def __init__(
        self,
        lifetime: Lifetime[PoolT, ConnT],
        close_returns: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._lifetime = lifetime
        self._close_returns = close_returns
        self._clock = clock
        #: Ends with the first closing; None: it has not begun.
        self._over: asyncio.Future[None] | None = None

    async def close(self, seconds: float) -> None:
        """Refuse new acquires, let the leases end for so many seconds, then close the pools."""
        if self._over is not None:
            await asyncio.shield(self._over)
            return
        lifetime, clock = self._lifetime, self._clock
        if not lifetime.started:  # its start was interrupted
            lifetime.close_unstarted()
            return
        self._over = lifetime.loop.create_future()
        deadline = clock() + seconds
        try:
            lifetime.refuse()
            try:
                await lifetime.drain(seconds)
            except asyncio.CancelledError:
                deadline = clock()
                raise
            finally:
                await lifetime.stop(deadline - clock())
                await self._close_returns()
        finally:
            self._over.set_result(None)

    async def terminate(self) -> None:
        """Close without waiting for leases or servers: every connection is broken now."""
        self._lifetime.refuse()
        self._lifetime.break_all()
        await self.close(0.0)
