"""Calls of the application's log handlers and listeners, outside of a thread that must not wait.

A log handler may write to the database, and wait for the master that the event loop has to find. Or
it may wait for its own lock, while the thread that holds that lock waits for that master.
"""

import logging
import traceback
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from hasql.diagnostics import about, counted
from hasql.driver.os_threads import OsThread, new_guard, original
from hasql.errors import HasqlError

__all__ = ("OutsideCalls", "call_outside", "check_may_wait")

log = logging.getLogger("hasql")

#: How many calls may wait while one takes its time; calls beyond that are left out.
_MOST = 1000

#: In a thread that must not wait, `calls` is the `OutsideCalls` that serves it.
_thread: Any = original("_thread", "_local")()


class OutsideCalls:
    """Calls functions one after the other, in a thread that lives as long as there are any."""

    def __init__(self) -> None:
        self._lock = new_guard()
        self._waiting: deque[Callable[[], object]] = deque()
        self._left_out = 0
        self._thread: OsThread | None = None

    def serve_this_thread(self) -> None:
        """From now on do here what this thread logs, and what it calls by `call_outside`."""
        _thread.calls = self

    def __call__(self, function: Callable[..., object], /, *args: Any) -> None:
        """Call a function soon, in the context of the caller, without waiting for it."""
        with self._lock:
            if len(self._waiting) >= _MOST:
                self._left_out += 1
                return
            self._waiting.append(partial(copy_context().run, function, *args))
            if self._thread is not None:
                return
            thread = self._thread = OsThread(self._call_all, "hasql callbacks")
        try:
            thread.start()
        except RuntimeError:  # no thread can be started now: the next call tries again
            with self._lock:
                self._thread = None

    def _call_all(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except Exception:  # noqa: BLE001  # a filter of the application's, for example
                traceback.print_exc()

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if left_out := self._left_out:
                self._left_out = 0
                return partial(_say_what_was_left_out, left_out)
            self._thread = None
            return None

    def catch_up(self) -> None:
        """Make here the calls for which no thread could be started, as when Python shuts down."""
        with self._lock:
            left = self._thread is None and bool(self._waiting)
        if left:
            self._call_all()

    def finish(self, seconds: float) -> None:
        """Wait until all calls are made, for at most so many seconds; not if this is one of them.

        Calls for which no thread could be started are made here.
        """
        thread = self._thread
        if thread is None:
            self._call_all()
        elif not thread.is_current:
            thread.join(seconds)


def call_outside(function: Callable[..., object], /, *args: Any) -> None:
    """Call a function of the application: outside of this thread if it must not wait, else here."""
    calls: OutsideCalls | None = getattr(_thread, "calls", None)
    (function if calls is None else partial(calls, function))(*args)


def check_may_wait() -> None:
    """Raise HasqlError in a thread that must not wait."""
    if getattr(_thread, "calls", None) is not None:
        raise HasqlError(
            "code that runs in hasql's own thread, such as a source of hosts, would wait for "
            "work that this thread itself has to do; wait in another thread"
        )


class _RecordsOutside(logging.Filter):
    """Emits the records of a thread that must not wait outside of that thread."""

    def filter(self, record: logging.LogRecord) -> bool:
        calls: OutsideCalls | None = getattr(_thread, "calls", None)
        if calls is None:
            return True
        calls(log.handle, record)
        return False


def _say_what_was_left_out(count: int) -> None:
    told, extra = counted(count, "message"), about("messages_left_out")
    log.warning("%s dropped: a log handler or a listener was too slow", told, extra=extra)


log.addFilter(_RecordsOutside())  # after the filter of `diagnostics`
