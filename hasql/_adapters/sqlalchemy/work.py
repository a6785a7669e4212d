"""Work of SQLAlchemy's that must not be cancelled while it waits for a server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from hasql.driver.stepping import Begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Hashable

__all__ = ("Work",)

_T = TypeVar("_T")

#: Seconds that what was broken off may take to end until it is cancelled as well.
_LINGER = 1.0
_A_MOMENT = 0.1


class Work:
    """The work of one engine.

    Cancelled, psycopg would wait for its own cancellation, and SQLAlchemy for a polite goodbye. So
    such work is ended by breaking its connection, and what it may still have made is discarded.
    """

    def __init__(self, discard: Callable[[Any], Awaitable[None]]) -> None:
        self._discard = discard
        #: Keeps those that end what was given up from being garbage.
        self._endings: set[asyncio.Task[None]] = set()
        #: What is under way, by what it is done for.
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._ended: WeakSet[asyncio.Task[Any]] = WeakSet()

    async def run(
        self,
        work: Awaitable[_T],
        give_up: Callable[[asyncio.Task[_T]], object],
        whose: Hashable | None = None,
    ) -> _T:
        """Do some work; `give_up` breaks its connection if it is cancelled or fails.

        What needs no I/O needs no task. See `end` for whose it is.
        """
        steps = work.__await__()
        try:
            paused_on = next(steps)
        except StopIteration as done:
            result: _T = done.value
            return result
        loop = asyncio.get_running_loop()
        task = loop.create_task(_rest(steps, paused_on))
        if whose is not None:
            self._tasks[whose] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task in self._ended:
                give_up(task)
                raise ConnectionError("the connection was given up while an event ran") from None
            # In a task that begins after the first has: one that is cancelled before it begins
            # leaves SQLAlchemy in the midst of its work, with a place that nobody gives back.
            ending = loop.create_task(self._end(task, give_up))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            await asyncio.shield(ending)
            raise
        except Exception:
            give_up(task)
            raise
        finally:
            self._tasks.pop(whose, None)

    def end(self, whose: Hashable) -> None:
        """End the work for a connection that was broken.

        It ends by that, unless an event of the application's waits for something else.
        """
        task = self._tasks.get(whose)
        if task is not None:
            asyncio.get_running_loop().call_later(_A_MOMENT, self._cancel, task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if task.cancel():
            self._ended.add(task)

    async def _end(
        self, task: asyncio.Task[Any], give_up: Callable[[asyncio.Task[Any]], object]
    ) -> None:
        """Give work up, wait until it has ended, and discard what it may have ended with."""
        give_up(task)
        done, _ = await asyncio.wait({task}, timeout=_LINGER)
        if not done:
            task.cancel()
            await asyncio.wait({task})
        outcome = None if task.cancelled() or task.exception() else task.result()
        if outcome is not None:
            await self._discard(outcome)


async def _rest(steps: Generator[Any, Any, _T], paused_on: object) -> _T:
    return await Begun(steps, paused_on)
