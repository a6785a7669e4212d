"""Work that an event loop does for a thread, which waits for it."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import Any, Generic, TypeVar

from hasql.driver.thread_waiter import ThreadWaiter

__all__ = ("LoopWork",)

_T = TypeVar("_T")


class LoopWork(Generic[_T]):
    """Work that a loop does in a task, and its outcome for the thread that waits.

    asyncio's own way uses a future of Python's. A thread that is interrupted while it waits for one
    may keep the future's lock, and then the loop waits for that lock for ever: see `ThreadWaiter`.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        #: None once the work has begun or is cancelled: it may keep its manager alive.
        self._work: Callable[[], Coroutine[Any, Any, _T]] | None = work
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[_T] | None = None
        #: Cancelled once the loop has ended, or the work in it was cancelled.
        self.done: ThreadWaiter[_T] = ThreadWaiter()

    def begin_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a loop begin it soon. Raises RuntimeError if the loop is closed: it never begins."""
        self._loop = loop
        loop.call_soon_threadsafe(self._begin)

    def cancel(self) -> None:
        """Tell the loop not to do it any more, without waiting for that."""
        self._work = None
        if self.done.cancel() and self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._cancel)

    def _begin(self) -> None:
        work, self._work = self._work, None
        if work is None or self.done.done():
            return
        assert self._loop is not None  # noqa: S101  # the loop calls this
        self._task = self._loop.create_task(work())
        _under_way.add(self)
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: "asyncio.Task[_T]") -> None:
        _under_way.discard(self)
        with suppress(InvalidStateError):  # nothing waits for it any more
            if task.cancelled():
                self.done.cancel()
            elif (error := task.exception()) is not None:
                self.done.set_exception(error)
            else:
                self.done.set_result(task.result())


#: A loop holds its tasks only weakly.
_under_way: set[LoopWork[Any]] = set()
