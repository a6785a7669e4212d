"""Connects that nobody waits for any more: the next to need a connection gets one of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from hasql._adapters.sqlalchemy.library import DbapiLibrary

__all__ = ("UnclaimedConnects",)


class UnclaimedConnects:
    """The connects of one engine whose waiters have found another connection, or were cancelled."""

    def __init__(self, library: DbapiLibrary) -> None:
        self._library = library
        self._connects: deque[asyncio.Task[Any]] = deque()

    def put(self, connect: asyncio.Task[Any]) -> None:
        """Keep a connect that is under way."""
        self._connects.append(connect)
        connect.add_done_callback(lambda done: done.cancelled() or done.exception())

    def take(self) -> asyncio.Task[Any] | None:
        """Return a connect that is under way or has succeeded; None if there is none."""
        # Whoever needs a connection takes one from here first, so that there are never more of
        # these than the pool has places.
        while self._connects:
            connect = self._connects.popleft()
            if not connect.done() or self._has_succeeded(connect):
                return connect
        return None

    def idle(self) -> int:
        """Return how many have succeeded."""
        return sum(each.done() and self._has_succeeded(each) for each in self._connects)

    def _has_succeeded(self, connect: asyncio.Task[Any]) -> bool:
        if connect.cancelled() or connect.exception() is not None:
            return False
        return not self._library.is_dead(connect.result())
