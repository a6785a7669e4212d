"""The stall timer: limits the wait for a silent host; stalls of this process do not count."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

__all__ = ("StallTimer",)

#: The most steps in which the time is counted, and their least length in seconds.
_STEPS = 10
_LEAST_STEP = 0.02


class StallTimer:
    """Ends a wait for a host after so many seconds in which the event loop ran.

    While an application blocks the loop, nothing reads an answer that may have come, and when the
    loop goes on, its timers run first. So the time is counted in steps. Each step counts as one,
    however long it takes, and the last has to come in time.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], seconds: float
    ) -> None:
        #: Whether the time is over.
        self.ended = False
        self._loop = loop
        self._clock = clock
        self._steps = min(_STEPS, max(1, round(seconds / _LEAST_STEP)))
        self._step = seconds / self._steps
        self._repeated = False
        self._ends: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        self._wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end` when the time is over within this block, or if it has been before."""
        if self.ended:
            end()
        self._ends.append(end)
        try:
            yield
        finally:
            self._ends.remove(end)

    def _wait(self) -> None:
        due = self._clock() + self._step
        self._timer = self._loop.call_later(self._step, self._waited, due)

    def _waited(self, due: float) -> None:
        self._steps -= 1
        if self._steps <= 0 and not self._repeated and self._clock() - due > self._step:
            self._repeated = True  # once only, because a loop may always be late
            self._steps = 1
        if self._steps > 0:
            self._wait()
            return
        self.ended = True
        for end in tuple(self._ends):
            end()
