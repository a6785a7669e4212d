"""The process's one thread that looks names up: for callers, who may wait, and before anyone asks.

A look-up belongs to no caller, so that whichever thread or event loop asks first, and whatever
becomes of it, all others who want to know the same get the one answer.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TypeVarTuple

__all__ = ("LookupThread", "lookup_thread")

_Ts = TypeVarTuple("_Ts")


class LookupThread:
    """A daemon thread with an event loop, which lives while somebody holds it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        #: In a forked child: the loops of its ancestors. They may not be collected: closing one
        #: would take the ancestor's sockets out of the epoll set that both have.
        self._inherited: list[asyncio.AbstractEventLoop] = []

    def hold(self) -> None:
        """Keep it running until the like `release`; it starts with the first."""
        with self._lock:
            # First of all: a finalizer that the collector runs in the midst of this may release it.
            self._holders += 1
            if self._loop is None:
                self._loop = self._started()

    def release(self) -> None:
        """Let it end, if nobody else holds it."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and self._loop is not None:
                # What was asked of it before comes first, and closes its sockets.
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None

    def call(self, function: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Call a function there soon. It must be held."""
        with self._lock:
            loop = self._loop
        assert loop is not None, "held"  # noqa: S101  # a mistake of ours
        loop.call_soon_threadsafe(function, *args)

    def call_for_collector(self, function: Callable[[], object]) -> None:
        """Call a function there soon; here if the thread is not running, as in a forked child.

        The collector may ask for it in any thread and with any lock held. A function that takes one
        would wait there for a thread which waits for ours.
        """
        with self._lock:
            loop = self._loop
            if loop is not None:
                loop.call_soon_threadsafe(function)
        if loop is None:
            function()

    @property
    def is_this(self) -> bool:
        """Whether it is asked in its own thread, and that one is to go on."""
        return asyncio.get_running_loop() is self._loop

    def after_fork(self) -> None:
        """In a child: there is no thread, and nobody holds it."""
        self._lock = threading.RLock()
        if self._loop is not None:
            self._inherited.append(self._loop)
            self._loop = None
        self._holders = 0

    def _started(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()
        try:
            threading.Thread(target=self._run, args=(loop,), name="hasql-dns", daemon=True).start()
        except RuntimeError:  # there are too many, or Python ends
            loop.close()
            self._holders -= 1
            raise
        return loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()


lookup_thread = LookupThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lookup_thread.after_fork)
