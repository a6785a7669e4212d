"""The time that an acquire in a thread has left until its deadline, and how it waits."""

from collections.abc import Callable
from math import inf
from typing import TypeVar

from hasql.driver.deadline import OutOfTimeError
from hasql.driver.thread_waiter import ThreadWaiter

__all__ = ("TimeLeft",)

_T = TypeVar("_T")


class TimeLeft:
    """The time that one acquire has left."""

    __slots__ = ("_args", "_clock", "_deadline", "_long_wait", "_on_long_wait", "interrupted")

    def __init__(
        self,
        deadline: float,
        clock: Callable[[], float],
        long_wait: float,
        on_long_wait: Callable[..., object],
        *args: object,
    ) -> None:
        self._deadline = deadline
        self._clock = clock
        #: Seconds after which `on_long_wait` is called with `args`, once.
        self._long_wait = long_wait
        self._on_long_wait = on_long_wait
        self._args = args
        #: Whether a signal handler has ended a wait. What the handler raised is the application's,
        #: whatever it says, and says nothing about the host.
        self.interrupted = False

    @property
    def seconds(self) -> float:
        """How many seconds are left; 0 once there are none."""
        return max(0.0, self._deadline - self._clock())

    def wait(self, awaited: ThreadWaiter[_T], limit: float = inf) -> _T:
        """Wait for what has been begun, and return its result or raise its error.

        Raises OutOfTimeError at the deadline, or after `limit` seconds if that is sooner, if it has
        not ended by then.
        """
        ends = min(self._deadline, self._clock() + limit)
        seconds = max(0.0, ends - self._clock())
        if self._long_wait < seconds:
            if self.ended_within(awaited, self._long_wait):
                return awaited.result()
            self._on_long_wait(*self._args)
            seconds = max(0.0, ends - self._clock())
        if self.ended_within(awaited, seconds):
            return awaited.result()
        raise OutOfTimeError

    def ended_within(self, awaited: ThreadWaiter[_T], seconds: float) -> bool:
        """Wait for at most so many seconds; return whether it has ended."""
        try:
            return awaited.ended_within(seconds)
        except BaseException:
            self.interrupted = True
            raise
