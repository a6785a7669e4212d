"""The tasks of a psycopg pool, and their end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hasql.driver.stepping import Begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from psycopg_pool import AsyncConnectionPool

__all__ = ("Workers", "despite_cancellation", "first_step")

#: Turns of the loop after which a task that was cancelled is not going to end by that.
_TURNS = 5


def first_step(work: Coroutine[Any, Any, object]) -> None:
    """Do what comes before the first pause, and leave it at that."""
    try:
        paused_on = work.send(None)
        # As when a task is cancelled, so that nothing is left that waits for an outcome.
        if paused_on is not None:
            paused_on.cancel()
        work.throw(asyncio.CancelledError())
    except (StopIteration, asyncio.CancelledError):
        return
    work.close()


async def despite_cancellation(putting: Awaitable[None]) -> None:
    """Put a connection back, which may wait for the pool's lock but for no server.

    The pool loses the place of one that is cancelled there.
    """
    steps = putting.__await__()
    try:
        paused_on = next(steps)
    except StopIteration:
        return
    await asyncio.shield(Begun(steps, paused_on))


class Workers:
    """The tasks of a pool. It opens them here, so that they can be told to end at any time."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Open the pool, which goes on to connect in the background."""
        others = asyncio.all_tasks()
        await self._pool.open()  # without a pause
        self._tasks = asyncio.all_tasks() - others

    def stop(self) -> None:
        """Close the pool without waiting for its tasks, which are told to end."""
        if any(task.done() or task.cancelling() for task in self._tasks):
            # The loop is coming to its end and has cancelled all. The pool would wait for what
            # became of each, and asyncio would tell of that.
            self._stop_unless_done(_TURNS)
        else:
            first_step(self._pool.close())

    def _stop_unless_done(self, turns: int) -> None:
        if all(task.done() for task in self._tasks):
            return
        loop = asyncio.get_running_loop()
        if turns:
            loop.call_soon(self._stop_unless_done, turns - 1)
        else:
            # One was cancelled while it connected, which psycopg_pool takes for a failure. A task
            # of one step, as asyncio's time limits are for tasks only.
            self._tasks.add(loop.create_task(self._stop()))

    async def _stop(self) -> None:
        first_step(self._pool.close())
