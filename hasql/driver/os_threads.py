"""Threads of the operating system, and locks between them, also under gevent.

gevent replaces Python's threads by greenlets, all in one thread of the operating system. hasql
watches the hosts in a thread that has to go on while a greenlet computes, so it uses real ones.
https://www.gevent.org/api/gevent.monkey.html
"""

import _thread
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from threading import Condition, Thread
from typing import Any

__all__ = ("OsThread", "is_held", "new_guard", "original")


def original(module: str, name: str) -> Any:
    """Return what a module of Python has under this name, even if gevent has replaced it."""
    patching = sys.modules.get("gevent.monkey")
    if patching is None or not patching.is_module_patched("threading"):
        return getattr(import_module(module), name)
    return patching.get_original(module, name)


def new_guard() -> AbstractContextManager[object]:
    """Make a lock between threads of the operating system, under which nothing ever waits."""
    guard: AbstractContextManager[object] = original("_thread", "RLock")()
    return guard


def is_held(guard: Any) -> bool:
    """Tell whether the current thread is the one that holds a guard."""
    try:
        Condition(guard).notify()  # nothing waits to be notified; it raises if not held
    except RuntimeError:
        return False
    return True


class OsThread:
    """A daemon thread: the end of the program does not wait for it."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self._target = target
        self._name = name
        self._ident: int | None = None
        # Held until the thread has ended. Where greenlets wait, it is gevent's own lock.
        self._running = _thread.allocate_lock()
        self._running.acquire()

    def start(self) -> None:
        """Start the thread."""
        if original("threading", "Thread") is Thread:
            Thread(target=self._run, name=self._name, daemon=True).start()
        else:
            original("_thread", "start_new_thread")(self._run, ())

    def _run(self) -> None:
        self._ident = original("_thread", "get_ident")()
        try:
            self._target()
        finally:
            self._running.release()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread."""
        return bool(self._ident == original("_thread", "get_ident")())

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, for at most so many seconds."""
        if self._running.acquire(timeout=max(0.0, seconds)):
            self._running.release()  # others may wait as well
