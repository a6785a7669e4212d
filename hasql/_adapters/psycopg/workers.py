"""The background tasks of a psycopg pool, and how they are ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hasql.driver.stepping import Begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from psycopg_pool import AsyncConnectionPool

__all__ = ("Workers", "first_step", "put_despite_cancellation")

#: Turns of the event loop within which a cancelled task ends, if the cancellation ends it at all.
_TURNS_TO_END = 5


def first_step(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine until its first pause, and end it there."""
    try:
        paused_on = work.send(None)
        # End it like the coroutine of a cancelled task, so that nothing it waits for is left over.
        if paused_on is not None:
            paused_on.cancel()
        work.throw(asyncio.CancelledError())
    except (StopIteration, asyncio.CancelledError):
        return
    work.close()


async def put_despite_cancellation(putting: Awaitable[None]) -> None:
    """Run `putconn` to its end even if this is cancelled.

    `putconn` may wait for the pool's lock, but not for a server. If it were cancelled while it
    waits for the lock, the pool would lose a place.
    """
    steps = putting.__await__()
    try:
        paused_on = next(steps)
    except StopIteration:
        return
    await asyncio.shield(Begun(steps, paused_on))


class Workers:
    """The background tasks of a pool.

    This class opens the pool, and so it knows the pool's tasks and can end them at any time.
    """

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Open the pool, which then connects in the background."""
        others = asyncio.all_tasks()
        await self._pool.open()  # does not pause, so no other tasks begin meanwhile
        self._tasks = asyncio.all_tasks() - others

    def stop(self) -> None:
        """Close the pool, telling its tasks to end, without waiting for them."""
        if any(task.done() or task.cancelling() for task in self._tasks):
            # The event loop is about to end and has cancelled every task. If the pool were closed
            # now, it would collect the result of each of its tasks, and asyncio would log that as
            # an error.
            self._stop_unless_done(_TURNS_TO_END)
        elif asyncio.current_task() is None:
            self._stop_in_task()
        else:
            first_step(self._pool.close())

    def _stop_unless_done(self, turns: int) -> None:
        if all(task.done() for task in self._tasks):
            return
        if turns:
            asyncio.get_running_loop().call_soon(self._stop_unless_done, turns - 1)
        else:
            # A task still runs: it was cancelled while it connected, and psycopg_pool took that for
            # a failed connect.
            self._stop_in_task()

    def _stop_in_task(self) -> None:
        """Close the pool in a task, even though only for one step: it uses asyncio's time limits.

        Since Python 3.12 asyncio refuses time limits outside a task.
        """
        self._tasks.add(asyncio.get_running_loop().create_task(self._stop()))

    async def _stop(self) -> None:
        first_step(self._pool.close())
