"""The threads in which connections are reset, so that no request waits for it."""

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
"""How many connections are reset at the same time at most.

A thread is made when none is idle: no more of them than connections come back at once. They are
the interpreter's own, so that under gevent they are greenlets.
"""


class BackgroundReturns:
    """Does what gives connections back, soon and in another thread."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Have no threads and no work yet, as in a child that was just forked."""
        self._lock = Lock()
        self._threads: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Have some work done, once. Where no thread can be made for it, it is done at once."""
        undone = [work]
        try:
            with self._lock:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(_THREADS, "hasql-reset")
                self._threads.submit(_run, undone)
        except RuntimeError:  # the process ends, or has as many threads as it may
            # It may be queued all the same: a thread that is busy now would come to it later, when
            # the connection is somebody else's.
            _run(undone)

    def stop(self) -> None:
        """Let what was submitted be done, and have no threads until there is more."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()


def _run(undone: list[Callable[[], None]]) -> None:
    """Do the work that is in a list, unless somebody has taken it out, which is one step."""
    try:
        work = undone.pop()
    except IndexError:
        return
    try:
        work()
    except Exception:
        log.exception("a connection was not given back", extra=about("not_given_back"))
