"""Binds a manager to the event loop, and with it to the process, of its first use."""

import asyncio
import os
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from hasql.errors import WrongEventLoopError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("BoundLoop", "LoopBinding")


class LoopBinding:
    """The one event loop that a manager serves; there is none until the first use."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        #: Tells whether the loop runs. This is the loop's own method, to save the hot path a call.
        self.serves: Callable[[], bool] = _never
        #: The thread in which the loop was last seen. Together with `loop.is_running()` that tells
        #: as much as asyncio.get_running_loop(), which is a system call up to Python 3.11.
        self.thread = 0
        #: Whether this is a forked child, so that the loop and all that is open belong to its
        #: parent. The two share the sockets and the epoll set: closing or watching a socket in the
        #: child does so in the parent, too.
        self.inherited = False

    def bind(self) -> asyncio.AbstractEventLoop:
        """Bind to the running loop. Raises WrongEventLoopError if none runs."""
        self.loop = _loop_here()
        self.thread, self.serves = get_ident(), self.loop.is_running
        _bound.add(self)
        return self.loop

    def check(self) -> None:
        """Raise WrongEventLoopError in another loop, another thread, or a forked child."""
        loop = self.loop
        if loop is None or (self.thread == get_ident() and loop.is_running()):
            return
        self.check_process()
        if _running() is not loop:
            raise WrongEventLoopError(
                "this pool manager was started in another event loop; make one manager for each "
                "loop, and from another thread use asyncio.run_coroutine_threadsafe()"
            )
        self.thread = get_ident()

    def current_task(self) -> "asyncio.Task[Any] | None":
        """Return the current task, of whichever loop runs; in the bound one without a system call.

        Raises WrongEventLoopError if no loop runs.
        """
        here = self.thread == get_ident() and self.serves()
        return asyncio.current_task(self.loop if here else _loop_here())

    def check_process(self) -> None:
        """Raise WrongEventLoopError in a child that was forked after the start."""
        if self.inherited:
            raise WrongEventLoopError(
                "this pool manager was started before a fork, and its connections belong to the "
                "parent process; make a manager in each process"
            )


class BoundLoop:
    """Schedules calls in the loop that a manager is bound to, from any thread."""

    def __init__(self, binding: LoopBinding) -> None:
        self._binding = binding

    def __call__(self, function: "Callable[..., object]", /, *args: Any) -> None:
        loop = self._binding.loop
        if loop is not None and not self._binding.inherited:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(function, *args)

    def call_later(self, seconds: float, function: "Callable[..., object]", /, *args: Any) -> None:
        """Have a function called after so many seconds; to be called in the loop only."""
        if self._binding.loop is not None:
            self._binding.loop.call_later(seconds, function, *args)


def _never() -> bool:
    return False


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _loop_here() -> asyncio.AbstractEventLoop:
    loop = _running()
    if loop is None:
        raise WrongEventLoopError(
            "no event loop is running here; a pool manager must be used in one"
        )
    return loop


_bound: WeakSet[LoopBinding] = WeakSet()


def _mark_inherited() -> None:
    for binding in tuple(_bound):
        binding.inherited = True
        binding.thread = 0  # so that the next use does the whole check
    _bound.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_inherited)
