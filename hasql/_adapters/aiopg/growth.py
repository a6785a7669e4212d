"""The growth of a pool: who waits for a connection, and the tasks that open them.

Waiting and choosing are done here, beside aiopg's pool, because that has a lock which is held as
long as one of its connections is being opened: whoever asks for one meanwhile has to wait, also if
another is idle. So there are tasks that open connections, and no acquire waits for anything but
a connection, wherever it comes from.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hasql._adapters.aiopg.connection import break_off, in_transaction
from hasql.driver.connects import Refill

if TYPE_CHECKING:
    from hasql._adapters.aiopg.supply import Supply

__all__ = ("Growth",)

#: Seconds that a connect may have taken when nobody needs it any more, so as not to be given up:
#: after an acquire that has waited in vain, and at other times.
_VAIN, _LINGER = 0.1, 1.0


def _given_up() -> ConnectionError:
    return ConnectionError("the host was given up while connecting to it")


class Growth:
    """The way to a connection for all who cannot have an idle one at once, first come first served.

    There are never more who wait than tasks that get a connection for them.
    """

    def __init__(self, supply: Supply[Any]) -> None:
        self._supply = supply
        self._loop = asyncio.get_running_loop()
        #: Both in the order they began in.
        self._waiters: dict[asyncio.Future[Any], None] = {}
        self._growers: dict[asyncio.Task[Any], float] = {}
        #: Idle ones, as long as aiopg's pool can take none back that others could get.
        self._shelf: list[Any] = []
        self._refill = Refill(self._fill)

    @property
    def under_way(self) -> bool:
        """Whether connections are being opened, so that aiopg's pool must not be asked for one."""
        return bool(self._growers)

    @property
    def shelved(self) -> int:
        """How many idle connections are here instead of in aiopg's pool."""
        return len(self._shelf)

    async def get(self) -> Any:
        """Get a slot: from the shelf, given back, or new."""
        return self._off_the_shelf() or await self._wait()

    def _off_the_shelf(self) -> Any:
        while self._shelf:
            slot = self._shelf.pop()
            if not self._supply.behind(slot).closed:
                return slot
            self._put(slot)
        return None

    async def _wait(self) -> Any:
        self._give_up(_LINGER)
        waiter: asyncio.Future[Any] = self._loop.create_future()
        self._waiters[waiter] = None
        if len(self._growers) < len(self._waiters):
            self._start()
        try:
            return await waiter
        except BaseException:
            if waiter in self._waiters:
                del self._waiters[waiter]
                self._give_up(_VAIN)
                if len(self._growers) > len(self._waiters):
                    # That has only begun, and may hang in a hook of the application's.
                    self._loop.call_later(_LINGER, self._give_up, _VAIN)
            elif not waiter.cancelled() and waiter.exception() is None:
                self.pass_on(waiter.result())
            raise

    def pass_on(self, slot: Any) -> None:
        """Give a slot that is not used any more to who waits for it, or back to aiopg's pool."""
        inner = self._supply.behind(slot)
        if not inner.closed and in_transaction(inner):
            break_off(inner)  # aiopg would as well, but not without a warning
        if not inner.closed and (waiter := self._next_waiter()):
            waiter.set_result(slot)
        elif not inner.closed and self._growers:
            self._shelf.append(slot)
        else:
            self._put(slot)

    def _next_waiter(self) -> asyncio.Future[Any] | None:
        while self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            if not waiter.done():  # done: cancelled, but its task has not run since
                return waiter
        return None

    def _put(self, slot: Any) -> None:
        closed = self._supply.behind(slot).closed
        self._supply.put(slot)
        if closed:
            self._ask_anew()

    def _ask_anew(self) -> None:
        """Have those ask again that wait for a place: aiopg tells them of idle ones alone."""
        connects, current = self._supply.roster.is_connecting, asyncio.current_task()
        for grower in tuple(self._growers):
            if grower is not current and not connects(grower):
                del self._growers[grower]
                grower.cancel()
                self._start()

    def _start(self) -> None:
        self._growers[self._loop.create_task(self._grow())] = self._loop.time()

    async def _grow(self, *, fill: bool = False) -> None:
        """Get one connection from aiopg's pool, or as many as are missing, for who needs them."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # for the type checker
        error: Exception
        try:
            while True:
                self._growers[task] = self._loop.time()
                slot = await self._supply.take()
                if task not in self._growers:  # given up, but done before it could be cancelled
                    break_off(self._supply.behind(slot))
                lost = self._supply.behind(slot).closed
                self.pass_on(slot)
                if lost or not fill or len(self._growers) > self._supply.missing:
                    break
        except asyncio.CancelledError:
            error = _given_up()
        except Exception as failed:  # noqa: BLE001  # its waiter's
            error = failed
        else:
            error = ConnectionError("the connection was lost before it could be used")
        self._growers.pop(task, None)
        self._settle(error)

    def _settle(self, error: Exception) -> None:
        """Let no waiter wait for nothing, and nothing idle be out of reach of aiopg's pool."""
        while len(self._waiters) > len(self._growers):
            if waiter := self._next_waiter():
                waiter.set_exception(error)
        if not self._growers:
            shelf, self._shelf = self._shelf, []
            for slot in shelf:
                self.pass_on(slot)

    def _give_up(self, after: float) -> None:
        """Cancel connects that nobody needs and that take long: others would wait behind them."""
        for grower, began in tuple(self._growers.items()):
            if len(self._growers) > len(self._waiters) and self._loop.time() - began > after:
                del self._growers[grower]
                grower.cancel()

    def note_loss(self) -> None:
        """Take note that there is one less."""
        if self._supply.missing > 0:
            self._refill.postpone()

    def host_answers(self) -> None:
        """Open now what is missing."""
        self._refill.host_answers()

    async def _fill(self) -> None:
        if self._supply.missing > 0:
            await self._grow(fill=True)
        self.note_loss()

    def end(self, *, for_good: bool = False) -> tuple[asyncio.Task[Any], ...]:
        """Cancel what is under way, and return it; who waits for it gets a ConnectionError."""
        if for_good:
            self._refill.cancel()
        growers, self._growers = self._growers, {}
        for grower in growers:
            grower.cancel()
        self._settle(_given_up())
        return tuple(growers)
