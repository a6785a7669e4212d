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

#: Seconds in which an operation ends after its connection was aborted: otherwise it is cancelled.
_LIMIT_GIVEN_UP = 1.0
_LIMIT_ABORTED = 0.1
#: Seconds for which who is cancelled again waits on, even if an event goes on when it is cancelled.
_LIMIT_CANCELLED_AGAIN = 2 * _LIMIT_GIVEN_UP


class ShieldedOperations:
    """The acquires and releases of one engine that are under way.

    When an operation is cancelled, psycopg waits for its own cancel request, and SQLAlchemy until
    the connection has been closed in agreement with the server. So the task of an operation is not
    cancelled: its connection is aborted, which ends it, and what it may still have made is
    discarded.
    """

    def __init__(self, discard: Callable[[Any], Awaitable[None]]) -> None:
        self._discard = discard
        #: The tasks that end what was given up: asyncio itself keeps no reference to them.
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
            work: What to do.
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
                raise ConnectionError("the connection was given up while an event ran") from None
            # In a task, which begins after the first one has begun. A task that is cancelled before
            # it begins would leave SQLAlchemy in the middle of its work, with a place that nobody
            # gives back.
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

        The abort ends it, unless an event of the application's waits for something else.
        """
        task = self._tasks.get(connection)
        if task is not None:
            # After the turn in which it begins: uvloop's timers come first in each, and one that is
            # cancelled before it begins leaves the work as it is.
            loop = asyncio.get_running_loop()
            loop.call_later(_LIMIT_ABORTED, loop.call_soon, self._cancel, task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if task.cancel():
            self._ended.add(task)

    async def _end(
        self, task: asyncio.Task[Any], give_up: Callable[[asyncio.Task[Any]], object]
    ) -> None:
        """Give work up, wait until it has ended, and discard what it may have returned."""
        give_up(task)
        done, _ = await asyncio.wait({task}, timeout=_LIMIT_GIVEN_UP)
        if not done:
            task.cancel()
            await asyncio.wait({task})
        outcome = None if task.cancelled() or task.exception() else task.result()
        if outcome is not None:
            await self._discard(outcome)


async def _until_ended(ending: asyncio.Task[None]) -> None:
    """Wait for the end of what was given up, also if this is cancelled again meanwhile.

    Until then it has a place in SQLAlchemy's pool. Whoever was lent that place before would wait
    there, and SQLAlchemy wakes nobody when a place is free without a connection.
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
