"""Operations of SQLAlchemy's that must not be cancelled while they wait for a server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from hasql.driver.stepping import Begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Hashable

__all__ = ("ShieldedOperations",)

_T = TypeVar("_T")

#: Seconds after which an operation is cancelled if aborting its connection has not ended it: after
#: it was given up, and after `end`.
_LIMIT_GIVEN_UP = 1.0
_LIMIT_ABORTED = 0.1
#: Seconds that a task which is cancelled again still waits, even if a listener ignores being
#: cancelled.
_LIMIT_CANCELLED_AGAIN = 2 * _LIMIT_GIVEN_UP


class ShieldedOperations:
    """The acquires and releases of one engine that are under way.

    A cancelled operation would wait for the server: psycopg for its own cancel request, SQLAlchemy
    until the connection is closed in agreement with the server. So the task of an operation is not
    cancelled. Its connection is aborted instead, which ends the operation, and a connection that it
    may still return is discarded.
    """

    def __init__(self, discard: Callable[[Any], Awaitable[None]]) -> None:
        self._discard = discard
        #: The tasks that end operations that were given up: asyncio keeps no reference to them.
        self._endings: set[asyncio.Task[None]] = set()
        #: The operations that are under way, by the connection that each is for.
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._ended: WeakSet[asyncio.Task[Any]] = WeakSet()

    async def run(
        self,
        work: Awaitable[_T],
        give_up: Callable[[asyncio.Task[_T]], object],
        connection: Hashable | None = None,
    ) -> _T:
        """Do some work. It gets a task of its own only if it pauses.

        Args:
            work: The work.
            give_up: Aborts the connection of the work; called if this is cancelled or fails.
            connection: For `end`: the connection that the work is for, if that is known.
        """
        steps = work.__await__()
        try:
            paused_on = next(steps)
        except StopIteration as done:
            result: _T = done.value
            return result
        loop = asyncio.get_running_loop()
        task = loop.create_task(_rest(steps, paused_on))
        if connection is not None:
            self._tasks[connection] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task in self._ended:
                give_up(task)
                raise ConnectionError(
                    "hasql gave up on the connection while an event listener ran"
                ) from None
            # Give up in a new task, because that begins only after `task` has begun. If `task` were
            # cancelled before it begins, SQLAlchemy would stay in the middle of its work, and its
            # place in the pool would never be given back.
            ending = loop.create_task(self._end(task, give_up))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            await _until_ended(ending)
            raise
        except Exception:
            give_up(task)
            raise
        finally:
            self._tasks.pop(connection, None)

    def end(self, connection: Hashable) -> None:
        """End the work for a connection that was aborted.

        The abort itself ends it, unless a listener of the application's waits for something else.
        """
        task = self._tasks.get(connection)
        if task is not None:
            # `call_soon` puts the cancellation after the turn of the loop in which the task begins:
            # uvloop runs timers first in a turn, and a task that is cancelled before it begins
            # would leave the work unfinished.
            loop = asyncio.get_running_loop()
            loop.call_later(_LIMIT_ABORTED, loop.call_soon, self._cancel, task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if task.cancel():
            self._ended.add(task)

    async def _end(
        self, task: asyncio.Task[Any], give_up: Callable[[asyncio.Task[Any]], object]
    ) -> None:
        """Give work up, wait until it has ended, and discard the connection it may return."""
        give_up(task)
        done, _ = await asyncio.wait({task}, timeout=_LIMIT_GIVEN_UP)
        if not done:
            task.cancel()
            await asyncio.wait({task})
        outcome = None if task.cancelled() or task.exception() else task.result()
        if outcome is not None:
            await self._discard(outcome)


async def _until_ended(ending: asyncio.Task[None]) -> None:
    """Wait for the end of work that was given up, even if this is cancelled again meanwhile.

    Until then the work has a place in SQLAlchemy's pool. If hasql lent that place to another
    acquire before, that acquire would wait in the pool, and SQLAlchemy wakes no waiter when a place
    becomes free without a connection.
    """
    loop = asyncio.get_running_loop()
    latest = loop.time() + _LIMIT_CANCELLED_AGAIN
    while True:
        try:
            return await asyncio.shield(ending)
        except asyncio.CancelledError:
            if ending.done() or loop.time() >= latest:
                raise


async def _rest(steps: Generator[Any, Any, _T], paused_on: object) -> _T:
    return await Begun(steps, paused_on)
