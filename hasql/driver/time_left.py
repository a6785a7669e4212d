"""The time that an acquire in a thread has left: until its deadline, and how it is waited for."""

from collections.abc import Callable
from math import inf
from typing import Protocol, TypeVar

from hasql.driver.deadline import OutOfTimeError

__all__ = ("Awaited", "TimeLeft")

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Awaited(Protocol[_T_co]):
    """What a thread waits for, as `concurrent.futures.Future` is."""

    def done(self) -> bool:
        """Tell whether it has ended."""

    def result(self, timeout: float | None = None) -> _T_co:
        """Return or raise what it ends with. Raises TimeoutError after `timeout` seconds."""


class TimeLeft:
    """The time that one acquire has left."""

    __slots__ = ("_args", "_clock", "_deadline", "_long_wait", "_on_long_wait")

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

    @property
    def seconds(self) -> float:
        """How many are left; 0 once there are none."""
        return max(0.0, self._deadline - self._clock())

    def wait(self, awaited: Awaited[_T], limit: float = inf) -> _T:
        """Wait for what has been begun, and return or raise what it ends with.

        Raises OutOfTimeError at the deadline, or after `limit` seconds if that is sooner: nothing
        has become by then of what was begun.
        """
        ends = min(self._deadline, self._clock() + limit)
        seconds = max(0.0, ends - self._clock())
        if self._long_wait < seconds:
            try:
                return awaited.result(self._long_wait)
            except TimeoutError:
                if awaited.done():
                    raise
            self._on_long_wait(*self._args)
            seconds = max(0.0, ends - self._clock())
        try:
            return awaited.result(seconds)
        except TimeoutError:
            if awaited.done():
                raise
            raise OutOfTimeError from None
