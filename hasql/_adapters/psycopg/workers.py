"""The tasks of a psycopg pool, and how they end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hasql.driver.stepping import Begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from psycopg_pool import AsyncConnectionPool

__all__ = ("Workers", "first_step", "put_despite_cancellation")

#: Turns of the event loop in which a cancelled task ends, if the cancellation ends it at all.
_TURNS_TO_END = 5


def first_step(work: Coroutine[Any, Any, object]) -> None:
    """Do what some work does before its first pause, and nothing after that."""
    try:
        paused_on = work.send(None)
        # It ends as a task that is cancelled does, so that nothing is left that waits for it.
        if paused_on is not None:
            paused_on.cancel()
        work.throw(asyncio.CancelledError())
    except (StopIteration, asyncio.CancelledError):
        return
    work.close()


async def put_despite_cancellation(putting: Awaitable[None]) -> None:
    """Put a connection back, which may wait for the pool's lock but for no server.

    If `putconn` were cancelled while it waits for the lock, the pool would lose a place.
    """
    steps = putting.__await__()
    try:
        paused_on = next(steps)
    except StopIteration:
        return
    await asyncio.shield(Begun(steps, paused_on))


class Workers:
    """The tasks of a pool.

    The pool is opened here, so that its tasks are known and can be told to end at any time.
    """

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Open the pool, which goes on to connect in the background."""
        others = asyncio.all_tasks()
        await self._pool.open()  # does not pause, so that no task of others begins meanwhile
        self._tasks = asyncio.all_tasks() - others

    def stop(self) -> None:
        """Close the pool without waiting for its tasks, which are told to end."""
        if any(task.done() or task.cancelling() for task in self._tasks):
            # The event loop is about to end and has cancelled every task. Closed now, the pool
            # would collect the result of each of its tasks, and asyncio would log that as an error.
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
            # One was cancelled while it connected, and psycopg_pool took that for a failed connect.
            self._stop_in_task()

    def _stop_in_task(self) -> None:
        """Have a task close the pool, if only for one step: the pool uses asyncio's time limits.

        Since Python 3.12 those are refused where there is none.
        """
        self._tasks.add(asyncio.get_running_loop().create_task(self._stop()))

    async def _stop(self) -> None:
        first_step(self._pool.close())
