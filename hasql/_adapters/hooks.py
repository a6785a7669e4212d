"""The application's hooks that run on connections, tracked so that each can be ended."""

import asyncio
from collections.abc import Awaitable, Hashable
from time import monotonic
from typing import Any

from hasql.driver.stepping import begin

__all__ = ("RunningHooks",)


class RunningHooks:
    """The hooks that run on the connections of one pool.

    A hook may wait for something other than its connection. Aborting the connection does not end
    such a hook; `end` does.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, tuple[asyncio.Task[Any], float]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, connection: Hashable, hook: Awaitable[None]) -> None:
        """Wait for a hook, in the current task. Raises ConnectionError when the hook is ended."""
        # Most hooks finish without a pause. Until a hook pauses, nothing else can run to end it.
        rest = begin(hook)
        if rest is None:
            return
        # The code below does by hand what `asyncio.timeout` does, which would add 2 us to each
        # release. The loop is cached: up to Python 3.11 asking for it costs a system call.
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101  # this coroutine runs in a task
        before = task.cancelling()
        self._running[connection] = task, monotonic()
        try:
            await rest
        except asyncio.CancelledError:
            # `end` removes the entry and cancels the task once. If the entry is still here, or if
            # the task was cancelled more often than that, the cancellation came from elsewhere.
            if connection in self._running or task.uncancel() > before:
                raise
            raise ConnectionError("hasql gave up on the connection while a hook ran") from None
        finally:
            self._running.pop(connection, None)

    def end(self, connection: Hashable) -> None:
        """Cancel the hook that runs on a connection, if one does."""
        running = self._running.pop(connection, None)
        if running is not None:
            running[0].cancel()

    def end_begun_before(self, began: float) -> None:
        """Cancel every hook that began before a moment, in seconds of time.monotonic()."""
        for connection, (_, since) in tuple(self._running.items()):
            if since <= began:
                self.end(connection)
