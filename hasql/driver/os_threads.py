"""Threads of the operating system, and locks between them, also where gevent is at work.

gevent puts greenlets in the place of Python's threads, all in one thread of the operating system.
hasql watches the hosts in a thread that goes on while a greenlet computes, so it asks for the real
ones. https://www.gevent.org/api/gevent.monkey.html
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
    """Return what a module of Python's has by this name, whatever gevent has put in its place."""
    patching = sys.modules.get("gevent.monkey")
    if patching is None or not patching.is_module_patched("threading"):
        return getattr(import_module(module), name)
    return patching.get_original(module, name)


def new_guard() -> AbstractContextManager[object]:
    """Make a lock between threads of the operating system, for what never waits under it."""
    guard: AbstractContextManager[object] = original("_thread", "RLock")()
    return guard


def is_held(guard: Any) -> bool:
    """Tell whether the current thread is the one that holds a guard."""
    try:
        Condition(guard).notify()  # there is nobody who would hear it
    except RuntimeError:
        return False
    return True


class OsThread:
    """A daemon thread: the end of the program does not wait for it."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self._target = target
        self._name = name
        self._ident: int | None = None
        # Held until it has ended; where greenlets wait, gevent's own.
        self._running = _thread.allocate_lock()
        self._running.acquire()

    def start(self) -> None:
        """Start it."""
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
        """Whether this is called in it."""
        return bool(self._ident == original("_thread", "get_ident")())

    def join(self, seconds: float) -> None:
        """Wait until it has ended, for so many seconds at most."""
        if self._running.acquire(timeout=max(0.0, seconds)):
            self._running.release()  # others may wait, too
