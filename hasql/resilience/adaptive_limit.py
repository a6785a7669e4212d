"""The adaptive limit: how many leases at once the servers do well with, by the time leases take."""

from collections.abc import Callable
from math import exp, floor, log, sqrt
from typing import NamedTuple

__all__ = ("AdaptiveLimit",)

#: A window lasts for so many seconds at least, and has so many leases for each permit; but not
#: fewer, and no more than enough.
_SECONDS, _FOR_EACH, _FEWEST, _ENOUGH = 0.1, 4, 8, 40
#: What it begins with; and how many leases a window has for each permit while it doubles.
_FIRST, _FOR_EACH_DOUBLED = 4, 2
#: Seconds from one probe to the next: at first, doubling; and at most.
_FIRST_EPOCH, _LONGEST_EPOCH = 1.0, 30.0
#: What is left of the limit in a probe. It is made earlier if the limit has fallen by as much.
_PROBED = 0.5
#: By what part leases may take longer than alone before they count as slower.
_TOLERANCE = 0.1
#: How many standard errors are taken for chance: in a step, while it doubles, and in a probe.
_CHANCE, _CHANCE_DOUBLED, _CLEAR = 0.6, 1.0, 2.0
#: What part of the way to its aim the limit goes with a window; all of it if leases are far slower.
_SMOOTHING = 0.3
#: The least that one window leaves of the limit.
_LEAST_LEFT = 0.2
#: With how much weight a window counts for what leases take alone.
_WEIGHT = 0.2
_LOG_LEAST = -14.0
"""Of a lease that took less than a microsecond."""


class _Window(NamedTuple):
    #: The logarithm of the time that leases took, at the mean, and the square of its error.
    took: float
    error2: float
    leases: int
    most_in_use: int


class AdaptiveLimit:
    """Moves a limit between 1 and the highest by a gradient, window by window.

    The gradient is the time that leases take when they are not in each other's way ("alone") over
    what they take now. Where that is not less than 1, the limit grows by one, two, three, …; else
    it shrinks with it. It grows only where it is in the way, and shrinks only where half of it is
    in use: else what leases take says nothing of it. At first it doubles, until leases are slower.

    Times are compared by the mean of their logarithms. All leases that take a part longer move that
    by the same, and a long one among many short ones hardly does; how far chance moves it is known
    from the window, and does not count.

    What leases take alone is learnt while few are out, and by probes: a window with half of the
    limit. If leases are quicker in it, that is what they take. If they are slower than was known,
    and were as slow with the whole limit, the work has become longer; if they were slower still,
    it is an overload, and nothing is learnt.

    What it keeps is a handful of numbers; it has no timer and no thread.

    Args:
        highest: What the limit never exceeds.
        clock: The manager's.
        reserve: The share of the limit that is kept for `Priority.CRITICAL`.
    """

    def __init__(self, highest: int, clock: Callable[[], float], reserve: float = 0.0) -> None:
        self._highest = highest
        self._clock = clock
        self._reserve = reserve
        self._limit = float(min(highest, _FIRST))
        self._doubles = True
        #: Whether leases were slower in the last window while it doubled.
        self._in_doubt = False
        #: How many windows in a row the limit has grown.
        self._grown = 0
        #: The time that leases take alone, what it is from, and the square of its error.
        self._alone: float | None = None
        self._alone_leases, self._alone_error2 = 0, 0.0
        #: The time that they have taken of late, with at least half of the limit in use.
        self._of_late = 0.0
        #: The limit to go back to at the end of a probe, and what it was at the last.
        self._before_probe: float | None = None
        self._limit_probed = self._limit
        self._epoch = _FIRST_EPOCH
        self._epoch_ends = clock() + _FIRST_EPOCH
        #: How many leases are passed over, as they began under another limit.
        self._passed_over = 0
        self._leases, self._sum, self._squares, self._most_in_use = 0, 0.0, 0.0, 0
        self._begin_window(clock())

    @property
    def limit(self) -> int:
        """How many leases there may be at once now."""
        return max(1, int(self._limit))

    def note(self, seconds: float, in_use: int) -> bool:
        """Take note that a lease took so long, with so many in use; tell whether a window ended."""
        if self._passed_over:
            self._passed_over -= 1
            return False
        time = log(seconds) if seconds > 1e-6 else _LOG_LEAST  # noqa: PLR2004  # its exponent
        self._leases += 1
        self._sum += time
        self._squares += time * time
        if in_use > self._most_in_use:  # noqa: PLR1730  # quicker, and done on each release
            self._most_in_use = in_use
        if self._leases < self._needed or (now := self._clock()) < self._window_ends:
            return False
        mean = self._sum / self._leases
        error2 = max(0.0, self._squares / self._leases - mean * mean) / self._leases
        self._end_window(_Window(mean, error2, self._leases, self._most_in_use), now, in_use)
        self._begin_window(now)
        return True

    def _begin_window(self, now: float) -> None:
        self._window_ends = now + _SECONDS
        if self._before_probe is not None:
            self._needed = _ENOUGH
        elif self._doubles:
            self._needed = min(_ENOUGH, _FOR_EACH_DOUBLED * self.limit)
        else:
            self._needed = max(_FEWEST, min(_ENOUGH, _FOR_EACH * self.limit))
        self._leases, self._sum, self._squares, self._most_in_use = 0, 0.0, 0.0, 0

    def _end_window(self, window: _Window, now: float, in_use: int) -> None:
        if self._alone is None:
            self._alone, self._alone_error2 = window.took, window.error2
            self._of_late = window.took
        if self._before_probe is not None:
            self._end_probe(window, self._before_probe)
            self._passed_over = in_use
            return
        limit, difference = self.limit, window.took - self._alone
        if window.most_in_use < limit / 2 or limit == 1:  # nobody is in another's way
            self._alone += difference * _WEIGHT
            if window.most_in_use < limit / 2:
                return
        elif (quicker := difference + _CHANCE * sqrt(window.error2)) < 0:
            self._alone += quicker * _WEIGHT
        self._of_late += (window.took - self._of_late) / 2
        # A product such as 0.29 * 100 may be a little less than the whole number it is.
        full = window.most_in_use >= limit - floor(limit * self._reserve + 1e-9)
        due = now >= self._epoch_ends or self._limit < _PROBED * self._limit_probed
        if full and due and limit > 1:
            self._begin_probe(now)
            self._passed_over = in_use
        elif not (self._doubles and self._double(window, full)):
            self._step(window, full, in_use)

    def _begin_probe(self, now: float) -> None:
        if now >= self._epoch_ends:
            self._epoch = min(_LONGEST_EPOCH, 2 * self._epoch)
        self._epoch_ends = now + self._epoch
        self._before_probe = self._limit_probed = self._limit
        self._limit = max(1.0, self._limit * _PROBED)

    def _end_probe(self, window: _Window, before: float) -> None:
        assert self._alone is not None  # noqa: S101  # there was a window before
        difference = window.took - self._alone
        errors2 = window.error2 + self._alone_error2
        clear = difference**2 >= _CLEAR**2 * errors2
        share = 1.0 if clear else max(_SMOOTHING, self._alone_error2 / errors2)
        if difference > 0:
            # By what part of the difference in limits leases were slower before: with 1 of it they
            # shared what there is, with 0 they did not meet.
            met = max(0.0, self._of_late - window.took) / log(before / self._limit)
            share *= min(1.0, max(0.0, 1.5 - 2 * met))
        if clear and share and abs(difference) > log(1 + _TOLERANCE):  # there may be more of that
            self._epoch = _FIRST_EPOCH
        self._alone += difference * share
        self._alone_error2 = (1 - share) * self._alone_error2 + share * share * window.error2
        self._limit, self._before_probe = before, None

    def _double(self, window: _Window, full: bool) -> bool:  # noqa: FBT001  # of two
        """Double the limit unless leases are slower; tell whether they are not, twice in a row."""
        assert self._alone is not None  # noqa: S101  # this window has set it
        difference = window.took - self._alone
        chance = _CHANCE_DOUBLED * sqrt(window.error2 + self._alone_error2)
        if difference > chance + log(1 + _TOLERANCE):
            self._doubles = not self._in_doubt
            self._in_doubt = True
            return self._doubles
        self._in_doubt = False
        if full:
            self._alone_leases += window.leases
            share = window.leases / self._alone_leases
            self._alone += max(0.0, difference) * share
            self._alone_error2 = max(self._alone_error2 * (1 - share), window.error2 * share)
            self._limit = self._limit_probed = min(float(self._highest), 2 * self._limit)
        return True

    def _step(self, window: _Window, full: bool, in_use: int) -> None:  # noqa: FBT001  # of two
        """Move the limit by the gradient."""
        assert self._alone is not None  # noqa: S101  # this window has set it
        slower = window.took - self._alone - _CHANCE * sqrt(window.error2) - log(1 + _TOLERANCE)
        gradient = max(_LEAST_LEFT, exp(-max(0.0, slower)))
        if gradient < 1:
            self._grown = 0
        elif full:
            self._grown += 1
        else:
            return
        aim = self._limit * gradient + 1 + self._grown
        part = _SMOOTHING + (1 - _SMOOTHING) * (1 - gradient)
        moved = self._limit + (aim - self._limit) * part
        if moved < 0.8 * self._limit:  # those that are out are slower still
            self._passed_over = in_use
        self._limit = max(1.0, min(float(self._highest), moved))
