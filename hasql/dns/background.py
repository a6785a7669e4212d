"""The process's one thread that looks names up, on request and in the background.

A look-up belongs to no caller. Whichever thread or event loop asks first, and even if it gives up,
all others that ask for the same name get the one answer.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TypeVarTuple

__all__ = ("LookupThread", "lookup_thread")

_Ts = TypeVarTuple("_Ts")


class LookupThread:
    """A daemon thread with an event loop, which runs while it has holders."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        #: In a forked child: the loops of its ancestors. They must not be collected, as that would
        #: close them, and remove the ancestor's sockets from the epoll set that both share.
        self._inherited: list[asyncio.AbstractEventLoop] = []

    def hold(self) -> None:
        """Keep the thread running until the matching `release`; the first call starts it."""
        with self._lock:
            # Counted first: the collector may run a finalizer in the middle of this method that
            # releases the thread.
            self._holders += 1
            if self._loop is None:
                self._loop = self._started()

    def release(self) -> None:
        """Let the thread end, if it has no other holder."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and self._loop is not None:
                # Calls that were scheduled before run first, and close their sockets.
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None

    def call(self, function: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Call a function in the thread soon. The thread must be held."""
        with self._lock:
            loop = self._loop
        assert loop is not None, "held"  # noqa: S101  # a mistake of ours
        loop.call_soon_threadsafe(function, *args)

    def call_for_collector(self, function: Callable[[], object]) -> None:
        """Call a function in the thread soon, or here if the thread is not running.

        The garbage collector may call this in any thread, with any lock held. A function that takes
        a lock must not run there: the holder of that lock may wait for a lock that this thread
        holds. The look-up thread may not be running in a forked child, for example.
        """
        with self._lock:
            loop = self._loop
            if loop is not None:
                loop.call_soon_threadsafe(function)
        if loop is None:
            function()

    @property
    def is_this(self) -> bool:
        """Whether the caller runs in the look-up thread, and that thread has not been stopped."""
        return asyncio.get_running_loop() is self._loop

    def after_fork(self) -> None:
        """Reset the state in a forked child, where there is no thread and no holder."""
        self._lock = threading.RLock()
        if self._loop is not None:
            self._inherited.append(self._loop)
            self._loop = None
        self._holders = 0

    def _started(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()
        try:
            threading.Thread(target=self._run, args=(loop,), name="hasql-dns", daemon=True).start()
        except RuntimeError:  # there are too many threads, or Python is shutting down
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
