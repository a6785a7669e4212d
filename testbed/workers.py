"""Workers: who does the work of a load, tasks of the event loop or threads of their own.

A load is written once, in coroutines. With a pool manager for threads, in the words of one for
tasks (`testbed.kits.in_threads`), these never pause: a thread runs each from its beginning to its
end, and waits where it waits.
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
    """Those of one load. All but `rest` is called in the event loop."""

    #: What they run on, for a report.
    @property
    def kind(self) -> str: ...

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Have one more of them do this work."""

    async def rest(self, seconds: float) -> None:
        """Do nothing for so long; called within their work."""

    async def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Have some work done as they do theirs, and wait for it."""
        ...

    async def stuck_after(self, seconds: float) -> int:
        """Wait until all have ended, for so long at most; return how many have not."""
        ...

    async def end(self) -> None:
        """End those that can be made to."""

    async def wait(self) -> None:
        """Wait for those whose connections have been broken."""


class TaskWorkers:
    """Tasks of the event loop."""

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
        pass  # nobody is left


class ThreadWorkers:
    """Threads, which nobody can end from outside: their connections have to be broken."""

    kind = "threads"

    def __init__(self) -> None:
        self._threads: list[Thread] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        # Daemons, so that one which hangs is a failure and not the end of the program.
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
"""Seconds in which a thread ends whose connection was broken."""


def run_to_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Run in this thread, without an event loop, what never pauses."""
    try:
        work.send(None)
    except StopIteration as end:
        value: _T = end.value
        return value
    work.close()
    raise RuntimeError(f"{work!r} waits for an event loop")
