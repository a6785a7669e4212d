"""The acquires that wait for a connection, and the tasks that open connections for them.

aiopg's pool holds a lock while it opens a connection. A task that asks the pool for a connection
meanwhile waits for that one, even if another is idle. So hasql itself waits and chooses, beside
aiopg's pool: separate tasks open connections, and an acquire waits only for a connection, whether
that is new or has been given back.
"""

# long: the waiters and the tasks that open connections for them settle one another.

from __future__ import annotations

import asyncio
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from hasql._adapters.aiopg.connection import abort_connection, in_transaction
from hasql.driver.connects import Refill

if TYPE_CHECKING:
    from hasql._adapters.aiopg.library_pool import LibraryPool

__all__ = ("AcquireQueue",)

#: Seconds after which a connect that no acquire needs any more is cancelled, because others would
#: wait behind it. Until then it goes on for the next acquire: otherwise a login that takes longer
#: than the time of an acquire would never serve one.
_UNNEEDED = 2.0


def _given_up() -> ConnectionError:
    return ConnectionError("hasql gave up on the host while connecting to it")


class AcquireQueue:
    """The queue of the acquires that find no idle connection at once: first in, first out.

    There are never more waiters than tasks that open a connection for them.
    """

    def __init__(self, library_pool: LibraryPool[Any]) -> None:
        self._library_pool = library_pool
        self._loop = asyncio.get_running_loop()
        #: The waiters; and the tasks that open connections, with the time when each connect began.
        #: Both are in the order in which they began.
        self._waiters: dict[asyncio.Future[Any], None] = {}
        self._openers: dict[asyncio.Task[Any], float] = {}
        #: Slots with idle connections. They are held back here while connections are being opened:
        #: a task that asked aiopg's pool for one of them would have to wait for the pool's lock.
        self._held_back: list[Any] = []
        self._refill = Refill(self._fill)

    @property
    def under_way(self) -> bool:
        """Whether connections are being opened. If so, an acquire must not ask aiopg's pool."""
        return bool(self._openers)

    @property
    def held_back(self) -> int:
        """How many idle connections are held back here instead of being in aiopg's pool."""
        return len(self._held_back)

    async def get(self) -> Any:
        """Get a slot: one that is held back, one that is given back, or a new one."""
        return self._take_held_back() or await self._wait()

    def _take_held_back(self) -> Any:
        while self._held_back:
            slot = self._held_back.pop()
            if not self._library_pool.inner_of(slot).closed:
                return slot
            self._put(slot)
        return None

    async def _wait(self) -> Any:
        self._cancel_unneeded()
        waiter: asyncio.Future[Any] = self._loop.create_future()
        self._waiters[waiter] = None
        if len(self._openers) < len(self._waiters):
            self._start_opener()
        try:
            return await waiter
        except BaseException:
            if waiter in self._waiters:
                del self._waiters[waiter]
                if (left := len(self._openers) - len(self._waiters)) > 0:
                    # The next waiter relies on the connect that this one leaves behind, but only
                    # for a while: the connect or a hook of the application's may hang. The connects
                    # that other waiters have left behind began earlier.
                    opener, began = sorted(self._openers.items(), key=itemgetter(1))[left - 1]
                    self._loop.call_later(_UNNEEDED, self._replace, opener, began)
            elif not waiter.cancelled() and waiter.exception() is None:
                # The waiter was given a slot just before its task was cancelled.
                self.pass_on(waiter.result())
            raise

    def pass_on(self, slot: Any) -> None:
        """Give a slot that is no longer used to the first waiter, or back to aiopg's pool."""
        inner = self._library_pool.inner_of(slot)
        if not inner.closed and in_transaction(inner):
            abort_connection(inner)  # aiopg would close it, too, but with a warning
        if not inner.closed and (waiter := self._next_waiter()):
            waiter.set_result(slot)
        elif not inner.closed and self._openers:
            self._held_back.append(slot)
        else:
            self._put(slot)

    def _next_waiter(self) -> asyncio.Future[Any] | None:
        while self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            if not waiter.done():  # done: it was cancelled, and its task has not run since
                return waiter
        return None

    def _put(self, slot: Any) -> None:
        closed = self._library_pool.inner_of(slot).closed
        self._library_pool.release(slot)
        if closed:
            self._restart_waiting_openers()

    def _restart_waiting_openers(self) -> None:
        """Restart the tasks that wait for a place in aiopg's pool, now that one is free.

        aiopg wakes them only for an idle connection, not when a closed one is given back.
        """
        connects, current = self._library_pool.registry.is_connecting, asyncio.current_task()
        for opener in tuple(self._openers):
            if opener is not current and not connects(opener):
                del self._openers[opener]
                opener.cancel()
                self._start_opener()

    def _start_opener(self) -> None:
        task = self._loop.create_task(self._open())
        if not task.done():  # an eager task may be done already, and its waiter served
            self._openers[task] = self._loop.time()

    async def _open(self, *, fill: bool = False) -> None:
        """Get a connection from aiopg's pool for a waiter; with `fill`, as many as are missing."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # for the type checker
        error: Exception
        try:
            while True:
                self._openers[task] = self._loop.time()
                slot = await self._library_pool.acquire_by_any_address()
                if task not in self._openers:
                    # This task was cancelled, but got its connection before the cancellation came.
                    abort_connection(self._library_pool.inner_of(slot))
                lost = self._library_pool.inner_of(slot).closed
                self.pass_on(slot)
                if lost or not fill or len(self._openers) > self._library_pool.missing:
                    break
        except asyncio.CancelledError:
            error = _given_up()
        except Exception as failed:  # noqa: BLE001  # a waiter gets it
            error = failed
        else:
            error = ConnectionError("the connection was lost before it could be used")
        self._openers.pop(task, None)
        self._settle(error)

    def _settle(self, error: Exception) -> None:
        """Fail the waiters that have no task left; if there are no tasks at all, free all slots."""
        while len(self._waiters) > len(self._openers):
            if waiter := self._next_waiter():
                waiter.set_exception(error)
        if not self._openers:
            held_back, self._held_back = self._held_back, []
            for slot in held_back:
                self.pass_on(slot)

    def _cancel_unneeded(self) -> None:
        """Cancel connects that no waiter needs and that take too long."""
        for opener, began in tuple(self._openers.items()):
            if len(self._openers) > len(self._waiters) and self._loop.time() - began >= _UNNEEDED:
                del self._openers[opener]
                opener.cancel()

    def _replace(self, opener: asyncio.Task[Any], began: float) -> None:
        """Cancel a connect that still goes on, and begin another one if a waiter needs it."""
        if self._openers.get(opener) != began:
            return
        del self._openers[opener]
        opener.cancel()
        if len(self._openers) < len(self._waiters):
            self._start_opener()

    def note_loss(self) -> None:
        """Take note that an open connection has ended."""
        if self._library_pool.missing > 0:
            self._refill.postpone()

    def host_answers(self) -> None:
        """Open the missing connections now."""
        self._refill.host_answers()

    async def _fill(self) -> None:
        if self._library_pool.missing > 0:
            await self._open(fill=True)
        self.note_loss()

    def end(self, *, for_good: bool = False) -> tuple[asyncio.Task[Any], ...]:
        """Cancel the tasks that open connections and return them; waiters get a ConnectionError."""
        if for_good:
            self._refill.cancel()
        openers, self._openers = self._openers, {}
        for opener in openers:
            opener.cancel()
        self._settle(_given_up())
        return tuple(openers)
