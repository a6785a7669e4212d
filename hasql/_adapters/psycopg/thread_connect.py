"""One connect of a pool for threads, and who waits for it."""

from __future__ import annotations

from concurrent.futures import Future
from math import inf
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING

from hasql.driver.address_race import ThreadedConnect
from hasql.driver.os_threads import OsThread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("PoolConnect", "start_connecting")

#: Seconds that a connect may still take once nobody waits for it any more.
_LIMIT_UNAWAITED = 2.0


class PoolConnect(ThreadedConnect):
    """A connect for the pool; made by the thread that waits for it, if one does."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = get_ident()
        #: Ends when that thread has a claim on a connection; False: it is to look again.
        self.claimed: Future[bool] = Future()
        self._until = inf

    @property
    def ended(self) -> bool:
        return super().ended or monotonic() > self._until

    def leave_alone(self) -> None:
        """Give it a little time more: nobody waits for it."""
        self._until = monotonic() + _LIMIT_UNAWAITED


def start_connecting(work: Callable[[], object]) -> None:
    """Have a thread connect; the end of the program does not wait for it."""
    OsThread(work, "hasql connect").start()
