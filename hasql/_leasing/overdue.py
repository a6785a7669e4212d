"""The timer that breaks connections whose release takes too long."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic

from hasql._leasing.book import LeaseBook
from hasql.driver import ConnT, PoolT

__all__ = ("OverdueTimer",)


class OverdueTimer(Generic[PoolT, ConnT]):
    """One timer for all releases, because nearly every connection is back at once.

    It looks through the book once per `release_timeout`, and is not set anew for each release.
    """

    def __init__(
        self,
        book: LeaseBook[PoolT, ConnT],
        release_timeout: float,
        clock: Callable[[], float],
        guard: AbstractContextManager[object],
    ) -> None:
        self._book = book
        self._guard = guard
        self._clock = clock
        self._release_timeout = release_timeout
        self._timer: asyncio.TimerHandle | None = None
        #: Whether the timer is set, or must not be set any more; each release looks at this.
        self.is_set = False

    def set(self) -> None:
        """Schedule a look in `release_timeout` seconds, unless a look is scheduled already.

        One may be: a thread asks for a look, another look comes first, sees the lease of that
        thread, too, and schedules the next. A second timer would then go on beside the first.
        """
        if self._timer is None:
            self._look_in(self._release_timeout)

    def cancel(self) -> None:
        """End the timer for good; a connection that is given back later is broken already."""
        self.is_set = True
        if self._timer is not None:
            self._timer.cancel()

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)
        self.is_set = True

    def _look(self) -> None:
        self._timer, self.is_set = None, False
        now = self._clock()
        with self._guard:
            due = self._book.abort_overdue(now)
        if due is not None:
            self._look_in(due - now)
