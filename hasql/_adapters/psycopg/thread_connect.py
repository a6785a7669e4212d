"""One connect of a pool for threads, and the thread that waits for it."""

from __future__ import annotations

from math import inf
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING

from hasql.driver.address_race import ThreadedConnect
from hasql.driver.os_threads import OsThread
from hasql.driver.thread_waiter import ThreadWaiter

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("PoolConnect", "WaitingThread", "start_connecting")

#: Seconds that a connect may still take once the thread that it was begun for has found another
#: connection, and in which other threads rely on it instead of beginning one each.
_LIMIT_LEFT = 2.0
#: Seconds that have to be left of these for a thread to rely on it.
_WORTHWHILE = 0.1


class WaitingThread:
    """A thread of the application's that waits for a connection; made by that thread."""

    def __init__(self) -> None:
        self.thread = get_ident()
        #: Ends when that thread has a claim on a connection; False: it is to look again.
        self.claimed: ThreadWaiter[bool] = ThreadWaiter()


class PoolConnect(ThreadedConnect):
    """A connect for the pool. Who waits for it changes under the lock of those who wait.

    Args:
        waiter: The thread that it is begun for; None: it is for whoever needs a connection next.
    """

    def __init__(self, waiter: WaitingThread | None = None) -> None:
        super().__init__()
        self._begun_for = self._waiter = waiter
        self._until = inf
        #: Until when a thread relies on it for which it was not begun.
        self._reliable_until = 0.0 if waiter else monotonic() + _LIMIT_LEFT
        #: Whether a thread is at it, so that it has an outcome some time.
        self.begun = False
        self._done = False

    @property
    def waiter(self) -> WaitingThread | None:
        """The thread that waits for it, unless that has a claim already."""
        waiter = self._waiter
        return None if waiter is None or waiter.claimed.done() else waiter

    @property
    def ended(self) -> bool:
        return super().ended or monotonic() > self._until

    def take_over(self, waiter: WaitingThread) -> bool:
        """Have a thread rely on it, for which it was not begun; return False if it should not."""
        may = self.begun and not self._done and self.waiter is None and not self.ended
        if may and (may := self.reliable_for > _WORTHWHILE):
            self._waiter = waiter
        return may

    @property
    def reliable_for(self) -> float:
        """Seconds for which a thread relies on it that has taken it over."""
        return self._reliable_until - monotonic()

    def be_left_by(self, waiter: WaitingThread) -> None:
        """Take note that a thread waits for it no more."""
        if self._begun_for is waiter:
            self._until = self._reliable_until = monotonic() + _LIMIT_LEFT
        if self._waiter is waiter:
            self._waiter = None

    def be_done(self) -> WaitingThread | None:
        """Let nobody wait for it any more; return who does."""
        self._done = True
        return self.waiter

    def fail(self, error: BaseException) -> None:
        """Tell who waits what it has met; one for whom it was not begun had better try as well."""
        waiter = self.be_done()
        if waiter is not None and waiter is not self._begun_for:
            waiter.claimed.set_result(False)
        elif waiter is not None:
            waiter.claimed.set_exception(error)

    def give_up(self, error: BaseException) -> None:
        """End it, and tell that to whoever waits."""
        self.end()
        if (waiter := self.be_done()) is not None:
            waiter.claimed.set_exception(error)


def start_connecting(work: Callable[[], object]) -> None:
    """Have a thread connect; the end of the program does not wait for it."""
    OsThread(work, "hasql connect").start()
