"""The threads in which connections are reset, so that no request has to wait for that."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

from hasql.diagnostics import about

__all__ = ("BackgroundReturns",)

log = logging.getLogger("hasql")

_THREADS: Final = 32
"""The most connections that are reset at the same time.

A thread is started only if none is idle, so there are at most as many threads as connections that
came back at the same time. They are ordinary Python threads, so under gevent they are greenlets.
"""


class BackgroundReturns:
    """Runs the work that gives connections back, soon and in another thread."""

    def __init__(self) -> None:
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Start without threads and work, initially and in a child that was just forked."""
        self._lock = Lock()
        self._threads: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Run some work once, in another thread, or right here if no thread can be started."""
        undone = [work]
        try:
            with self._lock:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(_THREADS, "hasql-reset")
                self._threads.submit(_run, undone)
        except RuntimeError:  # the process is ending, or has reached its limit of threads
            # The work may have been queued all the same. If it stayed in the list, a busy thread
            # would run it again later, when the connection may have another lease. So `_run` takes
            # it out of the list.
            _run(undone)

    def stop(self) -> None:
        """Wait until all submitted work is done, and end the threads until there is more work."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()


def _run(undone: list[Callable[[], None]]) -> None:
    """Run the work in a list, unless another thread has taken it out; taking it out is atomic."""
    try:
        work = undone.pop()
    except IndexError:
        return
    try:
        work()
    except Exception:
        log.exception("a connection was not given back", extra=about("not_given_back"))
