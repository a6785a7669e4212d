"""Connects that nothing waits for any more: the next acquire that needs a connection gets one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from hasql.driver.connects import leave_to_itself
from hasql.driver.own_task import note_failure

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ("UnclaimedConnects",)

_T = TypeVar("_T")


class UnclaimedConnects(Generic[_T]):
    """The connects of one pool whose waiters have found another connection, or were cancelled.

    If they were lost, no acquire would ever be served where a login takes longer than an acquire
    has time, and each acquire would cost the server a login.

    Args:
        is_usable: Tells whether the connection that a connect has ended with can be used.
    """

    def __init__(self, is_usable: Callable[[_T], bool]) -> None:
        self._is_usable = is_usable
        self._connects: deque[asyncio.Task[_T]] = deque()

    def put(self, connect: asyncio.Task[_T]) -> None:
        """Keep a connect that is under way, or has just succeeded."""
        self._connects.append(connect)
        connect.add_done_callback(note_failure)

    def take(self) -> asyncio.Task[_T] | None:
        """Return a connect that is under way or has succeeded; None if there is none."""
        # Every acquire that needs a connection takes one from here first, so that there are never
        # more of these than the pool has places.
        while self._connects:
            connect = self._connects.popleft()
            if not connect.done() or self._has_succeeded(connect):
                return connect
        return None

    def idle(self) -> int:
        """Return how many have ended with a usable connection."""
        return sum(each.done() and self._has_succeeded(each) for each in self._connects)

    def drop(self, connect: asyncio.Task[_T], discard: Callable[[_T], None]) -> None:
        """Stop keeping a connect, if it is still here."""
        if connect in self._connects:
            self._connects.remove(connect)
            leave_to_itself(connect, discard)

    def end(self, discard: Callable[[_T], None]) -> None:
        """Stop keeping any of them."""
        while self._connects:
            leave_to_itself(self._connects.popleft(), discard)

    def _has_succeeded(self, connect: asyncio.Task[_T]) -> bool:
        if connect.cancelled() or connect.exception() is not None:
            return False
        return self._is_usable(connect.result())
