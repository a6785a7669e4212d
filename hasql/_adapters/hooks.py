"""The application's own functions that run on connections, so that each can be ended."""

import asyncio
from collections.abc import Awaitable, Hashable
from time import monotonic
from typing import Any

__all__ = ("Hooks",)


class Hooks:
    """What runs on the connections of one pool, and what breaking a connection need not end."""

    def __init__(self) -> None:
        self._running: dict[Hashable, tuple[asyncio.Task[Any], float]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, connection: Hashable, hook: Awaitable[None]) -> None:
        """Wait for one, in the task that runs. Raises ConnectionError when it is ended."""
        # By hand what `asyncio.timeout` does, which is 2 us more, on each release. The loop is
        # kept, as asking for it is a system call up to Python 3.11.
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101  # a coroutine of ours has one
        before = task.cancelling()
        self._running[connection] = task, monotonic()
        try:
            await hook
        except asyncio.CancelledError:
            # `end` has taken it out and cancelled the task once; whoever else has counts as well.
            if connection in self._running or task.uncancel() > before:
                raise
            raise ConnectionError("the connection was given up while a hook ran") from None
        finally:
            self._running.pop(connection, None)

    def end(self, connection: Hashable) -> None:
        """Cancel what runs on a connection, if anything does."""
        running = self._running.pop(connection, None)
        if running is not None:
            running[0].cancel()

    def end_those_before(self, began: float) -> None:
        """Cancel what has run since before a moment, by time.monotonic()."""
        for connection, (_, since) in tuple(self._running.items()):
            if since <= began:
                self.end(connection)
