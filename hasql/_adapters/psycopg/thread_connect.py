"""One connect of a pool for threads, and the application's thread that waits for it."""

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
#: connection. During these seconds other threads rely on it instead of beginning one each.
_LIMIT_LEFT = 2.0
#: Seconds that must be left of these for another thread to begin to rely on it.
_WORTHWHILE = 0.1


class WaitingThread:
    """A thread of the application's that waits for a connection. That thread itself makes this."""

    def __init__(self) -> None:
        self.thread = get_ident()
        #: True once the thread has a claim on a connection; False: the thread must look again.
        self.claimed: ThreadWaiter[bool] = ThreadWaiter()


class PoolConnect(ThreadedConnect):
    """A connect for the pool. The thread that waits for it changes under `IdleConnections.lock`.

    Args:
        waiter: The thread that it is begun for; None: it is for the next thread that needs a
            connection.
    """

    def __init__(self, waiter: WaitingThread | None = None) -> None:
        super().__init__()
        self._first_waiter = self._waiter = waiter
        self._until = inf
        #: Until when a thread that it was not begun for may rely on it.
        self._reliable_until = 0.0 if waiter else monotonic() + _LIMIT_LEFT
        #: Whether its own thread has begun to run, so that it is going to have an outcome.
        self.begun = False
        self._finished = False

    @property
    def waiter(self) -> WaitingThread | None:
        """The thread that waits for it; None if there is none, or if that already has a claim."""
        waiter = self._waiter
        return None if waiter is None or waiter.claimed.done() else waiter

    @property
    def ended(self) -> bool:
        return super().ended or monotonic() > self._until

    def accept_waiter(self, waiter: WaitingThread) -> bool:
        """Let a thread that it was not begun for rely on it; return False if that is no use."""
        accepted = self.begun and not self._finished and self.waiter is None and not self.ended
        if accepted and (accepted := self.reliable_for > _WORTHWHILE):
            self._waiter = waiter
        return accepted

    @property
    def reliable_for(self) -> float:
        """Seconds for which a thread that has taken it over may rely on it."""
        return self._reliable_until - monotonic()

    def remove_waiter(self, waiter: WaitingThread) -> None:
        """Take note that a thread no longer waits for it."""
        if self._first_waiter is waiter:
            self._until = self._reliable_until = monotonic() + _LIMIT_LEFT
        if self._waiter is waiter:
            self._waiter = None

    def finish(self) -> WaitingThread | None:
        """Allow no further thread to wait for it; return the one that does."""
        self._finished = True
        return self.waiter

    def fail(self, error: BaseException) -> None:
        """Tell the waiting thread that it failed.

        The thread that it was begun for gets the error; a thread that took it over looks again.
        """
        waiter = self.finish()
        if waiter is not None and waiter is not self._first_waiter:
            waiter.claimed.set_result(False)
        elif waiter is not None:
            waiter.claimed.set_exception(error)

    def give_up(self, error: BaseException) -> None:
        """End it; the waiting thread gets the error."""
        self.end()
        if (waiter := self.finish()) is not None:
            waiter.claimed.set_exception(error)


def start_connecting(work: Callable[[], object]) -> None:
    """Start a thread that connects; the end of the program does not wait for it."""
    OsThread(work, "hasql connect").start()
