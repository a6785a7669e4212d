"""Workers: they run the work of a load, in tasks of the event loop or in threads.

A load is written only once, in coroutines. With a pool manager for threads behind the interface of
one for tasks (`testbed.kits.in_threads`), the coroutines never suspend: a thread runs each of them
from beginning to end, and blocks where the pool manager blocks.
"""

from __future__ import annotations

import asyncio
import time
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ("TaskWorkers", "ThreadWorkers", "Workers", "run_to_end")

_T = TypeVar("_T")


class Workers(Protocol):
    """The workers of one load. All methods except `rest` are called in the event loop."""

    #: What the workers are, for a report.
    @property
    def kind(self) -> str: ...

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start another worker with this work."""

    async def rest(self, seconds: float) -> None:
        """Do nothing for `seconds`; called within the work."""

    async def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run some work in the way the workers run theirs, and wait for it."""
        ...

    async def stuck_after(self, seconds: float) -> int:
        """Wait up to `seconds` until all workers have ended; return how many have not."""
        ...

    async def end(self) -> None:
        """End the workers that can be ended from outside."""

    async def wait(self) -> None:
        """Wait for the workers whose connections have been broken."""


class TaskWorkers:
    """Workers that are tasks of the event loop."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def kind(self) -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return await work

    async def stuck_after(self, seconds: float) -> int:
        if not self._tasks:
            return 0
        _, stuck = await asyncio.wait(self._tasks, timeout=seconds)
        return len(stuck)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self) -> None:
        pass  # no worker is left


class ThreadWorkers:
    """Threads; they cannot be ended from outside, so their connections have to be broken."""

    kind = "threads"

    def __init__(self) -> None:
        self._threads: list[Thread] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        # Daemon threads, so that a hanging one is a failure but does not block the program's end.
        thread = Thread(target=run_to_end, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    async def rest(self, seconds: float) -> None:
        time.sleep(seconds)

    async def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.to_thread(run_to_end, work)

    async def stuck_after(self, seconds: float) -> int:
        return await asyncio.to_thread(self._join, seconds)

    async def end(self) -> None:
        pass

    async def wait(self) -> None:
        assert not await asyncio.to_thread(self._join, _LAST_WORDS), "threads do not end"

    def _join(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)


_LAST_WORDS = 5.0
"""Seconds that a thread may take to end after its connection was broken."""


def run_to_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends, in this thread and without an event loop."""
    try:
        work.send(None)
    except StopIteration as end:
        value: _T = end.value
        return value
    work.close()
    raise RuntimeError(f"{work!r} waits for an event loop")
