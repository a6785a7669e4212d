"""The adaptive limit: how many leases at once the servers do well with, by the time leases take."""

from collections.abc import Callable
from math import inf, sqrt

__all__ = ("AdaptiveLimit",)

#: A window has this many leases at least, and lasts so many seconds at least.
_LEASES, _SECONDS = 40, 0.1
#: For so many seconds the shortest time that was seen counts; then it is measured anew.
_EPOCH = 30.0
#: The least that it begins with.
_FIRST = 4
#: By how much leases may take longer than the shortest before the limit goes down.
_TOLERANCE = 1.25
#: What part of the way to its new value the limit goes with each window.
_SMOOTHING = 0.3
#: What is left of the limit while the shortest time is measured anew, and what it begins with.
_PROBED_SHARE, _FIRST_SHARE = 0.5, 1 / 16


class AdaptiveLimit:
    """Moves a limit between 1 and the highest by a gradient, window by window.

    The gradient is the time that leases took at the best, in this epoch or the last, over what they
    take now. While it is 1 the limit grows by a part of its square root; below it shrinks by that.
    Where fewer than half of the permits are in use, what a lease takes says nothing of the limit.

    It begins with a sixteenth of the highest, so that it learns what a lease takes at the best also
    if there is too much to do from the beginning, and doubles until leases take longer. Each epoch
    begins with one window at half of the limit: if leases are quicker then, they were in each
    other's way, else the work has become longer.

    What it keeps is a handful of numbers; it has no timer and no thread.
    """

    def __init__(self, highest: int, clock: Callable[[], float]) -> None:
        self._highest = highest
        self._clock = clock
        self._limit = max(float(min(highest, _FIRST)), highest * _FIRST_SHARE)
        self._doubles = True
        #: The limit to go back to once the shortest time has been measured anew.
        self._before_probe: float | None = None
        self._shortest = self._shortest_before = inf
        self._epoch_ends = clock() + _EPOCH
        self._window_ends = clock() + _SECONDS
        #: How many leases this window needs: fewer as long as the limit doubles.
        self._needed = min(_LEASES, self.limit)
        self._leases, self._sum, self._most_in_use = 0, 0.0, 0

    @property
    def limit(self) -> int:
        """How many leases there may be at once now."""
        return max(1, int(self._limit))

    def note(self, seconds: float, in_use: int) -> bool:
        """Take note that a lease took so long, with so many in use; tell whether a window ended."""
        self._leases += 1
        self._sum += seconds
        if in_use > self._most_in_use:  # noqa: PLR1730  # quicker, and done on each release
            self._most_in_use = in_use
        if self._leases < self._needed or (now := self._clock()) < self._window_ends:
            return False
        self._end_window(self._sum / self._leases, now)
        self._window_ends = now + _SECONDS
        self._needed = min(_LEASES, self.limit) if self._doubles else _LEASES
        self._leases, self._sum, self._most_in_use = 0, 0.0, 0
        return True

    def _end_window(self, seconds: float, now: float) -> None:
        self._shortest = min(self._shortest, seconds)
        if self._before_probe is not None:
            self._limit, self._before_probe = self._before_probe, None
            return
        if now >= self._epoch_ends:
            self._epoch_ends = now + _EPOCH
            self._shortest_before, self._shortest = self._shortest, seconds
            if self._limit > 1 and self._most_in_use >= self._limit / 2:
                self._before_probe = self._limit
                self._shortest = inf
                self._limit = max(1.0, self._limit * _PROBED_SHARE)
            return
        if self._most_in_use < self._limit / 2:
            return
        shortest = min(self._shortest, self._shortest_before)
        gradient = max(0.5, min(1.0, _TOLERANCE * shortest / seconds)) if seconds else 1.0
        self._doubles = self._doubles and gradient == 1
        if self._doubles:
            self._limit = min(float(self._highest), 2 * self._limit)
            return
        aim = self._limit * gradient + sqrt(self._limit)
        moved = self._limit + (aim - self._limit) * _SMOOTHING
        self._limit = max(1.0, min(float(self._highest), moved))
