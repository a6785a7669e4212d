"""The application's own functions that run on connections, so that each can be ended."""

import asyncio
from collections.abc import Awaitable, Hashable

__all__ = ("Hooks",)


class Hooks:
    """What runs on the connections of one pool, and what breaking a connection need not end."""

    def __init__(self) -> None:
        self._running: dict[Hashable, tuple[asyncio.Timeout, float]] = {}

    async def run(self, connection: Hashable, hook: Awaitable[None]) -> None:
        """Wait for one. Raises ConnectionError when it is ended meanwhile."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._running[connection] = limit, asyncio.get_running_loop().time()
                await hook
        except TimeoutError:
            if limit.expired():
                raise ConnectionError("the connection was given up while a hook ran") from None
            raise
        finally:
            self._running.pop(connection, None)

    def end(self, connection: Hashable) -> None:
        """Cancel what runs on a connection, if anything does."""
        if connection in self._running:
            limit, _ = self._running.pop(connection)
            limit.reschedule(0.0)

    def end_those_before(self, began: float) -> None:
        """Cancel what has run since before a moment, by the time of the event loop."""
        for connection, (_, since) in tuple(self._running.items()):
            if since <= began:
                self.end(connection)
