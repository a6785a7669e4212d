"""A clock for managers on real servers that a test can hold."""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("HeldClock", "with_clock")

_T = TypeVar("_T")


class HeldClock:
    """Seconds that pass as ever, but not while it is held: nothing grows older meanwhile.

    So what is to happen well within a limit does so on a busy machine, too. Timers go on.
    """

    def __init__(self) -> None:
        self._behind = 0.0
        self._held_at: float | None = None

    def __call__(self) -> float:
        return (monotonic() if self._held_at is None else self._held_at) - self._behind

    def hold(self) -> None:
        """Let no time pass from now on."""
        self._held_at = monotonic()

    def go_on(self) -> None:
        """Let time pass again, from when it was held."""
        if self._held_at is not None:
            self._behind += monotonic() - self._held_at
            self._held_at = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no time pass within a block."""
        self.hold()
        try:
            yield
        finally:
            self.go_on()


def with_clock(of_driver: type[_T], clock: Callable[[], float]) -> type[_T]:
    """Return a class of pool managers that goes by a clock of the test's."""
    if clock is monotonic:
        return of_driver

    class Clocked(of_driver):  # type: ignore[valid-type, misc]  # whichever it is
        @staticmethod
        def _clock() -> Callable[[], float]:
            return clock

    return Clocked
