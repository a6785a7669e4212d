"""The adaptive limit: how many leases at once the servers do well with, by the time leases take."""

from collections.abc import Callable
from math import exp, floor, log, sqrt
from typing import NamedTuple

__all__ = ("AdaptiveLimit", "open_to_all")

#: A window lasts for so many seconds at least, and has so many leases for each permit; but not
#: fewer, and no more than enough.
_SECONDS, _FOR_EACH, _FEWEST, _ENOUGH = 0.1, 4, 8, 40
#: What it begins with; by what it grows at first; how many leases for each permit a window has
#: then; and how many times the limit what is critical may have meanwhile.
_FIRST, _GROWTH, _FOR_EACH_GROWN, _AHEAD = 4, 1.5, 2, 2
#: How exact a window is in a probe, if so many leases do, and while it grows.
_EXACT, _MOST, _ROUGH = 0.08, 120, 0.2
#: Seconds from one probe to the next: at first, doubling; and at most.
_FIRST_EPOCH, _LONGEST_EPOCH = 1.0, 30.0
#: What is left of the limit in a probe. It is made earlier if the limit has fallen by as much.
_PROBED = 0.6
#: How many times as long as a probe it is to the next at least.
_APART = 8
#: For how many seconds at most leases are passed over because one has taken so long.
_LONGEST_SETTLED = 1.0
#: What is left of that with each window.
_LONGEST_LEFT = 0.9
#: By what part fewer leases must be out in a probe, at the logarithm: else it tells nothing.
_LOWER = 0.14
#: By what part leases may take longer than alone before they count as slower.
_TOLERANCE = log(1.1)
#: How many standard errors are taken for chance: in a step; while it grows, and to stop at once
#: then; and where what leases take alone is concerned.
_CHANCE, _CHANCE_GROWN, _SURE, _CLEAR = 0.6, 1.5, 3.0, 2.0
#: What part of the way to its aim the limit goes with a window; all of it if leases are far slower.
_SMOOTHING = 0.3
#: The least that one window leaves of the limit.
_LEAST_LEFT = 0.2
#: With how much weight a window counts for what leases take alone.
_WEIGHT = 0.2
_LOG_LEAST = -14.0
"""Of a lease that took less than a microsecond."""


def open_to_all(limit: int, reserve: float) -> int:
    """Return how many permits of a limit are not kept for `Priority.CRITICAL`."""
    # A product such as 0.29 * 100 may be a little less than the whole number it is.
    return limit - floor(limit * reserve + 1e-9)


class _Window(NamedTuple):
    #: The logarithm of the time that leases took, at the mean, and the square of its error.
    took: float
    error2: float
    leases: int
    #: How many leases were out, at the most and at the mean.
    most_in_use: int
    in_use: float


class AdaptiveLimit:
    """Moves a limit between 1 and the highest by a gradient, window by window.

    The gradient is the time that leases take when they are not in each other's way ("alone") over
    what they take now. Where that is not less than 1, the limit grows by one, two, three, …; else
    it shrinks with it. It grows only where it is in the way, and shrinks only where half of it is
    in use: else what leases take says nothing of it. At first it grows by half each time, until
    leases are slower; then it goes back to where they were not.

    Times are compared by the mean of their logarithms. All leases that take a part longer move that
    by the same, and a long one among many short ones hardly does; how far chance moves it is known
    from the window, and does not count. The more times differ, the more leases a probe has.

    What leases take alone is learnt while few are out, and by probes: a window with a part of the
    limit. If leases are quicker in it, that is what they take. If they are slower than was known,
    and were as slow with the whole limit, the work has become longer; if they were slower still,
    it is an overload, and nothing is learnt. What is critical does not wait for a probe, unless
    there is so much of it that the probe would tell nothing.

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
        #: Whether it grows as at first, and the last limit with which leases were not slower.
        self._grows = True
        self._good = self._limit
        #: The variance of the logarithms of late.
        self._spread2 = 0.0
        #: How many windows in a row the limit has grown since.
        self._grown = 0
        #: The time that leases take alone, what it is from, and the square of its error.
        self._alone: float | None = None
        self._alone_leases, self._alone_error2 = 0, 0.0
        #: What it was of late, with at least half of the limit in use.
        self._of_late = _Window(0.0, 0.0, 0, 1, 1.0)
        #: What is left of the limit in a probe, and whether for what is critical too; and what the
        #: limit was at the last.
        self._probe: float | None = None
        self._probes_all = False
        self._limit_probed = self._limit
        self._probe_began = 0.0
        self._epoch = _FIRST_EPOCH
        self._epoch_ends = clock() + _FIRST_EPOCH
        #: Whether leases are passed over, as they began under another limit: how many, and until
        #: when. Of those that begin together the short ones end first, and tell nothing of others.
        self._settles = True
        self._passed_over, self._passed_until = _AHEAD * _FIRST, 0.0
        #: How long the longest lease of late has taken.
        self._longest = 0.0
        self._leases, self._sum, self._squares = 0, 0.0, 0.0
        self._most_in_use, self._in_use = 0, 0
        self._begin_window(clock())

    @property
    def limit(self) -> int:
        """How many leases there may be at once now, if what is beyond `open_limit` is critical."""
        if self._probe is not None and self._probes_all:
            return max(1, int(self._probe))
        if self._grows:
            return min(self._highest, int(_AHEAD * self._limit))
        return max(1, int(self._limit))

    @property
    def open_limit(self) -> int:
        """How many leases of any priority there may be at once now."""
        limit = open_to_all(max(1, int(self._limit)), self._reserve)
        return limit if self._probe is None else min(limit, max(1, int(self._probe)))

    def note(self, seconds: float, in_use: int) -> bool:
        """Take note that a lease took so long, with so many in use; tell whether a window ended."""
        if self._settles:
            self._pass_over()
            return False
        time = log(seconds) if seconds > 1e-6 else _LOG_LEAST  # noqa: PLR2004  # its exponent
        self._leases += 1
        self._sum += time
        self._squares += time * time
        self._in_use += in_use
        if seconds > self._longest:  # noqa: PLR1730  # quicker, and done on each release
            self._longest = seconds
        if in_use > self._most_in_use:  # noqa: PLR1730  # as above
            self._most_in_use = in_use
        if self._leases < self._needed or (now := self._clock()) < self._window_ends:
            return False
        leases = self._leases
        mean = self._sum / leases
        # A few alike say nothing yet where others have differed.
        spread2 = max(0.0, self._squares / leases - mean * mean)
        error2 = max(spread2, self._spread2) / leases
        if leases < self._most and self._needs_more(mean, error2):
            self._needed += _FEWEST
            return False
        self._spread2 += (spread2 - self._spread2) * _WEIGHT
        window = _Window(mean, error2, leases, self._most_in_use, self._in_use / leases)
        self._end_window(window, now, in_use)
        self._begin_window(now)
        return True

    def _settle(self, now: float, in_use: int) -> None:
        """Pass over those that are out, for as long as one of late has taken."""
        self._settles = True
        self._passed_over, self._passed_until = in_use, now + min(_LONGEST_SETTLED, self._longest)

    def _pass_over(self) -> None:
        self._passed_over -= 1
        if self._passed_over <= 0 and (now := self._clock()) >= self._passed_until:
            self._settles = False
            self._begin_window(now)

    def _begin_window(self, now: float) -> None:
        limit = max(1, int(self._limit if self._probe is None else self._probe))
        self._needed = self._most = max(_FEWEST, min(_ENOUGH, _FOR_EACH * limit))
        self._window_ends = now + _SECONDS
        if self._probe is not None:
            self._most = _MOST
        elif self._grows:
            self._needed, self._most = _FEWEST, _ENOUGH
        self._leases, self._sum, self._squares = 0, 0.0, 0.0
        self._most_in_use, self._in_use = 0, 0
        self._longest *= _LONGEST_LEFT

    def _needs_more(self, mean: float, error2: float) -> bool:
        """Tell whether a window, in a probe or while it grows, does not tell enough yet."""
        if self._probe is not None:
            return error2 > _EXACT**2
        if self._alone is not None:
            chance = _SURE * sqrt(error2 + self._alone_error2)
            if mean - self._alone > chance + _TOLERANCE:  # slower: no more of it
                return False
        return self._leases < _FOR_EACH_GROWN * self._limit or error2 > _ROUGH**2

    def _end_window(self, window: _Window, now: float, in_use: int) -> None:
        if self._alone is None:
            self._alone, self._alone_error2 = window.took, window.error2
            self._of_late = window
        if self._probe is not None:
            self._settle(now, in_use)
            self._end_probe(window, self._probe)
            self._epoch_ends = max(now + self._epoch, now + _APART * (now - self._probe_began))
            return
        limit, difference = max(1, int(self._limit)), window.took - self._alone
        if window.most_in_use < limit / 2 or limit == 1:  # nobody is in another's way
            self._learn(window, _WEIGHT)
            if window.most_in_use < limit / 2:
                return
        elif difference + _CLEAR * sqrt(window.error2 + self._alone_error2) < 0:
            self._learn(window, _SMOOTHING)
        full = window.most_in_use >= open_to_all(limit, self._reserve)
        if self._grows:
            self._of_late = window
            self._grow(window, full, now, in_use)
            return
        late = self._of_late
        self._of_late = window._replace(
            took=(late.took + window.took) / 2,
            error2=(late.error2 + window.error2) / 4,
            in_use=(late.in_use + window.in_use) / 2,
        )
        due = now >= self._epoch_ends or self._limit < _PROBED * self._limit_probed
        if full and due and limit > 1:
            if now >= self._epoch_ends:
                self._epoch = min(_LONGEST_EPOCH, 2 * self._epoch)
            self._limit_probed = self._limit
            self._begin_probe(self._limit * _PROBED, now, in_use)
        else:
            self._step(window, full, now, in_use)

    def _learn(self, window: _Window, share: float) -> None:
        """Take a window for what leases take alone, by a share."""
        assert self._alone is not None  # noqa: S101  # there was a window before
        self._alone += (window.took - self._alone) * share
        self._alone_error2 = (1 - share) ** 2 * self._alone_error2 + share * share * window.error2

    def _begin_probe(self, probe: float, now: float, in_use: int) -> None:
        self._probe, self._probe_began = max(1.0, probe), now
        self._settle(now, in_use)

    def _end_probe(self, window: _Window, probe: float) -> None:
        assert self._alone is not None  # noqa: S101  # there was a window before
        lower = log(self._of_late.in_use / window.in_use)
        if lower < _LOWER and not self._probes_all:
            self._probes_all = True  # what is critical is all there is: once more, with it
            return
        self._probe, self._probes_all = None, False
        difference = window.took - self._alone
        errors2 = window.error2 + self._alone_error2
        clear = difference**2 >= _CLEAR**2 * errors2
        share = 1.0 if clear else max(_SMOOTHING, self._alone_error2 / errors2)
        if difference > 0:
            # By what part of the difference in use leases were slower before: with 1 of it they
            # shared what there is, with 0 they did not meet.
            met = max(0.0, self._of_late.took - window.took) / max(lower, _LOWER)
            share *= min(1.0, max(0.0, 1.5 - 2 * met))
        if clear and share and abs(difference) > _TOLERANCE:  # there may be more of that
            self._epoch = _FIRST_EPOCH
        self._learn(window, share)
        if self._grows and self._is_slower(self._of_late):
            self._grows = False
            self._limit = self._limit_probed = probe

    def _is_slower(self, window: _Window) -> bool:
        """Tell whether leases were slower than alone, and not by chance."""
        assert self._alone is not None  # noqa: S101  # there was a window before
        chance = _CHANCE_GROWN * sqrt(window.error2 + self._alone_error2)
        return window.took - self._alone > chance + _TOLERANCE

    def _grow(self, window: _Window, full: bool, now: float, in_use: int) -> None:  # noqa: FBT001
        """Grow by half; or make sure that leases are slower, with the limit before."""
        assert self._alone is not None  # noqa: S101  # this window has set it
        if self._is_slower(window):
            if self._good < self._limit:
                self._begin_probe(self._good, now, in_use)
            else:
                self._grows = False
        elif full:
            self._alone_leases += window.leases
            share = window.leases / self._alone_leases
            self._alone += max(0.0, window.took - self._alone) * share
            self._alone_error2 = max(self._alone_error2 * (1 - share), window.error2 * share)
            self._good = self._limit
            self._settle(now, in_use)
            self._limit = self._limit_probed = min(float(self._highest), _GROWTH * self._limit)
            self._grows = self._good < self._limit

    def _step(self, window: _Window, full: bool, now: float, in_use: int) -> None:  # noqa: FBT001
        """Move the limit by the gradient."""
        assert self._alone is not None  # noqa: S101  # this window has set it
        slower = window.took - self._alone - _CHANCE * sqrt(window.error2) - _TOLERANCE
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
            self._settle(now, in_use)
        self._limit = max(1.0, min(float(self._highest), moved))
