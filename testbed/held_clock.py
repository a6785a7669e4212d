"""A clock that a test can hold, for pool managers on real servers."""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("HeldClock", "with_clock")

_T = TypeVar("_T")


class HeldClock:
    """A monotonic clock that can be stopped: while it is held, nothing grows older.

    Something that must happen well within a time limit then does so even on a busy machine. Timers
    are not held.
    """

    def __init__(self) -> None:
        self._behind = 0.0
        self._held_at: float | None = None

    def __call__(self) -> float:
        return (monotonic() if self._held_at is None else self._held_at) - self._behind

    def hold(self) -> None:
        """Stop the clock."""
        self._held_at = monotonic()

    def go_on(self) -> None:
        """Let the clock go on from where it was stopped."""
        if self._held_at is not None:
            self._behind += monotonic() - self._held_at
            self._held_at = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stop the clock within a block."""
        self.hold()
        try:
            yield
        finally:
            self.go_on()


def with_clock(of_driver: type[_T], clock: Callable[[], float]) -> type[_T]:
    """Return a class of pool managers that uses the given clock."""
    if clock is monotonic:
        return of_driver

    class Clocked(of_driver):  # type: ignore[valid-type, misc]  # any class
        @staticmethod
        def _clock() -> Callable[[], float]:
            return clock

    return Clocked
