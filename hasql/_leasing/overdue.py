"""The timer that breaks what is being given back for too long."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic

from hasql._leasing.book import LeaseBook
from hasql.driver import ConnT, PoolT

__all__ = ("OverdueTimer",)


class OverdueTimer(Generic[PoolT, ConnT]):
    """One for all releases, because nearly every connection is back at once.

    It looks through the book once in release_timeout and is not set anew for each.
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
        #: Whether it is set, or is not to be set any more; asked on each release.
        self.is_set = False

    def set(self) -> None:
        """Look in `release_timeout` seconds, unless a look is to come already.

        A thread may have asked for one just before a look that has seen its lease, too: a second
        timer would go on beside the first, and call for more.
        """
        if self._timer is None:
            self._look_in(self._release_timeout)

    def cancel(self) -> None:
        """Leave no timer behind, also if something is given back later: it is broken already."""
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
