"""The connects of a pool: how those under way are ended, and how missing ones are opened again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

__all__ = ("PendingConnects", "Refill", "discard_if_cancelled", "leave_to_itself")

#: Seconds after which a connect that nothing waits for any more is cancelled.
_LIMIT_UNAWAITED = 1.0

_T = TypeVar("_T")


class PendingConnects:
    """The connects of a pool that are under way, so that a purge can end them.

    A driver itself limits a connect to a minute, or not at all.
    """

    def __init__(self) -> None:
        # They are ended in the order in which they began, so that a run can be replayed.
        self._attempts: dict[asyncio.Timeout, None] = {}

    async def run(
        self, connect: Awaitable[_T], discard: Callable[[_T], object] = lambda _: None
    ) -> _T:
        """Wait for one connect. Raises ConnectionError when `end` is called meanwhile.

        If the connect has succeeded by then but this task has not run since, `discard` is given the
        connection.
        """
        attempt = asyncio.timeout(None)
        try:
            async with attempt:
                self._attempts[attempt] = None
                opened = await connect
                if attempt in self._attempts:
                    return opened
                discard(opened)
        except TimeoutError:
            if attempt in self._attempts:
                raise
        finally:
            self._attempts.pop(attempt, None)
        # Raised outside of the handler: the error is kept, and would keep the handled one with it.
        raise ConnectionError("hasql gave up on the host while connecting to it")

    def end(self) -> None:
        """End every connect that is under way."""
        attempts, self._attempts = self._attempts, {}
        for attempt in attempts:
            if not attempt.expired():
                attempt.reschedule(0.0)


async def discard_if_cancelled(connect: Awaitable[_T], discard: Callable[[_T], None]) -> _T:
    """Wait for a connect. If this is cancelled, the connect goes on and its outcome is discarded.

    A connect that is cancelled at a bad moment may leave errors behind that nothing can retrieve
    (asyncpg: while it asks for TLS). Left alone, most connects end soon, because their server is
    gone. A connect that has not ended after a second waits for a silent host, and can then safely
    be cancelled.
    """
    task = asyncio.ensure_future(connect)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        leave_to_itself(task, discard)
        raise


def leave_to_itself(task: "asyncio.Future[_T]", discard: Callable[[_T], None]) -> None:
    """Let a connect that nothing waits for end by itself, as `discard_if_cancelled` does."""
    asyncio.get_running_loop().call_later(_LIMIT_UNAWAITED, task.cancel)
    task.add_done_callback(partial(_dispose, discard))


def _dispose(discard: Callable[[_T], None], task: "asyncio.Future[_T]") -> None:
    if not task.cancelled() and task.exception() is None:
        discard(task.result())


class Refill:
    """Refills a pool to its minimum, as soon as its host answers probes.

    A driver that is left to itself tries at longer and longer intervals, and logs each failure.
    """

    def __init__(self, fill: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._fill = fill
        self._due = False
        self._task: asyncio.Task[None] | None = None

    def postpone(self) -> None:
        """Take note that connections are missing, to be opened when the host answers."""
        self._due = True

    def host_answers(self) -> None:
        """Open the missing connections now, if any are known to be missing."""
        if self._due and (self._task is None or self._task.done()):
            self._due = False
            self._task = asyncio.get_running_loop().create_task(self._fill())

    def cancel(self) -> None:
        """Cancel the refill that is under way."""
        if self._task is not None:
            self._task.cancel()
