"""Virtual time: a clock that jumps to the next timer, and an event loop that uses it."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ("NothingLeftError", "VirtualClock", "new_loop", "run")

_T = TypeVar("_T")

#: The most turns of the loop within one moment; more are taken for an endless loop.
_MOST_TURNS = 20_000


class NothingLeftError(Exception):
    """All tasks wait for events that will never come, or run endlessly within one moment."""


class VirtualClock:
    """A clock that advances only while all tasks wait."""

    def __init__(self) -> None:
        self.now = 0.0
        #: Seconds for which the event loop was blocked, in total.
        self.stalled = 0.0

    def __call__(self) -> float:
        return self.now

    def stall(self, seconds: float) -> None:
        """Let time pass while nothing else runs, like an application that blocks the loop."""
        self.now += seconds
        self.stalled += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Moves the clock to the time when waiting would end, instead of waiting."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise NothingLeftError("everybody waits, and for nothing that could happen")
        if timeout > 0:
            self._clock.now += timeout
            self._turns = 0
        self._turns += 1
        if self._turns > _MOST_TURNS:
            raise NothingLeftError("the event loop goes round and round, and no time passes")
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        self._virtual = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        return self._virtual.now


def new_loop(clock: VirtualClock) -> asyncio.AbstractEventLoop:
    """Make an event loop that uses a virtual clock."""
    return _VirtualLoop(clock)


def run(work: Coroutine[Any, Any, _T], clock: VirtualClock) -> _T:
    """Run a coroutine in a new event loop that uses a virtual clock."""
    with asyncio.Runner(loop_factory=lambda: new_loop(clock)) as runner:
        return runner.run(work)
