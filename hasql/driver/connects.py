"""The connects of a pool: how those under way are ended, and how missing ones are made up for."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

__all__ = ("PendingConnects", "Refill", "left_to_end")

#: Seconds that a connect nobody waits for any more may take until it is cancelled.
_LINGER = 1.0

_T = TypeVar("_T")


class PendingConnects:
    """The connects of a pool that are under way, so that a purge can end them.

    The driver's own time limit for one is a matter of a minute or of none.
    """

    def __init__(self) -> None:
        self._attempts: set[asyncio.Timeout] = set()

    async def run(self, connect: Awaitable[_T]) -> _T:
        """Wait for one connect. Raises ConnectionError when `end` is called meanwhile."""
        attempt = asyncio.timeout(None)
        try:
            async with attempt:
                self._attempts.add(attempt)
                return await connect
        except TimeoutError:
            if attempt not in self._attempts:
                raise ConnectionError("the host was given up while connecting to it") from None
            raise
        finally:
            self._attempts.discard(attempt)

    def end(self) -> None:
        """End all that are under way."""
        attempts, self._attempts = self._attempts, set()
        for attempt in attempts:
            if not attempt.expired():
                attempt.reschedule(0.0)


async def left_to_end(connect: Awaitable[_T], discard: Callable[[_T], None]) -> _T:
    """Wait for a connect, and when cancelled leave it to end by itself, its outcome discarded.

    A connect that is cancelled at a bad moment may leave errors behind that nobody can take note
    of (asyncpg: while it asks for TLS). Most end soon by themselves, as their server is gone; one
    that does not is waiting for a silent host after a second, and can then be cancelled safely.
    """
    task = asyncio.ensure_future(connect)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        asyncio.get_running_loop().call_later(_LINGER, task.cancel)
        task.add_done_callback(partial(_dispose, discard))
        raise


def _dispose(discard: Callable[[_T], None], task: "asyncio.Future[_T]") -> None:
    if not task.cancelled() and task.exception() is None:
        discard(task.result())


class Refill:
    """Has a pool filled again to what it keeps at least, as soon as its host answers probes.

    A driver left to itself tries later and later and logs each failure.
    """

    def __init__(self, fill: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._fill = fill
        self._due = False
        self._task: asyncio.Task[None] | None = None

    def postpone(self) -> None:
        """Take note that filling failed for now."""
        self._due = True

    def host_answers(self) -> None:
        """Fill now what was postponed."""
        if self._due and (self._task is None or self._task.done()):
            self._due = False
            self._task = asyncio.get_running_loop().create_task(self._fill())

    def cancel(self) -> None:
        """Fill no more."""
        if self._task is not None:
            self._task.cancel()
