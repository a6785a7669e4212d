"""The adaptive limit: how many leases at once the servers can serve, judged by lease durations."""

from collections.abc import Callable
from math import exp, floor, log, sqrt
from typing import NamedTuple

__all__ = ("AdaptiveLimit", "open_to_all")

#: A window: its least duration in seconds, its leases for each permit, and the bounds (fewest and
#: enough) of the number of leases that it needs.
_SECONDS, _FOR_EACH, _FEWEST, _ENOUGH = 0.1, 4, 8, 40
#: The first phase of growth: the limit it begins with, the factor of each growth, the leases for
#: each permit in a window, and how many times the limit critical leases may use meanwhile.
_FIRST, _GROWTH, _FOR_EACH_GROWN, _AHEAD = 4, 1.5, 2, 2
#: The standard error that a window should reach in a test; the most leases of a test; and the
#: standard error that a window should reach during the first growth.
_EXACT, _MOST, _ROUGH = 0.08, 120, 0.2
#: Seconds from one test to the next: at first, then doubling; and at most.
_FIRST_EPOCH, _LONGEST_EPOCH = 1.0, 30.0
#: The share of the limit that a test leaves. A limit that has fallen below this share of what it
#: was at the last test causes a test before its time.
_TEST_SHARE = 0.6
#: The next test comes after at least so many times the duration of this one.
_TEST_SPACING = 8
#: Leases are passed over for as long as the longest recent one took, but at most so many seconds.
_LONGEST_SKIP = 1.0
#: The share of that longest duration that is kept from one window to the next.
_LONGEST_LEFT = 0.9
#: How many fewer leases must be out in a test, as a logarithm: else the test tells nothing.
_LEAST_REDUCTION = 0.14
#: How much longer than alone leases may take, as a logarithm, before they count as slower.
_TOLERANCE = log(1.1)
#: How many standard errors are taken for chance: in a step; during the first growth, and to end a
#: window early then; and when learning how long leases take alone.
_CHANCE, _CHANCE_GROWN, _SURE, _CLEAR = 0.6, 1.5, 3.0, 2.0
#: The part of the way to its aim that the limit goes in one step; more, the slower leases are.
_SMOOTHING = 0.3
#: The smallest gradient that a step uses.
_LEAST_LEFT = 0.2
#: The weight of one window when learning how long leases take alone, and how much they vary.
_WEIGHT = 0.2
_LOG_LEAST = -14.0
"""Stands for the logarithm of the duration of a lease that took less than a microsecond."""


def open_to_all(limit: int, reserve: float) -> int:
    """Return how many permits of a limit are not kept for `Priority.CRITICAL`."""
    # A product such as 0.29 * 100 may come out slightly below the whole number that it should be.
    return limit - floor(limit * reserve + 1e-9)


class _Window(NamedTuple):
    #: The mean logarithm of the time that leases took, and the square of its standard error.
    took: float
    error2: float
    leases: int
    #: The highest and the mean number of leases that were out.
    most_in_use: int
    in_use: float


class AdaptiveLimit:
    """Moves a limit between 1 and the highest by a gradient, window by window.

    The gradient is the time that leases take when they do not slow each other down ("alone"),
    divided by the time they take now. If it is not less than 1, the limit grows by one, two,
    three, …; else the limit shrinks accordingly. The limit grows only when it is reached, and
    shrinks only when at least half of it is in use: otherwise lease durations say nothing about
    it. In its first phase the limit grows by half each time, until leases become slower, and then
    goes back to the last value at which they were not.

    Durations are compared by the mean of their logarithms. If all leases take longer by the same
    factor, that mean moves by the same amount whatever their lengths, and one long lease among
    many short ones hardly moves it. The window tells how far chance may move the mean; that much
    is ignored. The more durations differ, the more leases a test covers.

    The time that leases take alone is learnt while few leases are out, and by tests: windows with
    only a part of the limit. If leases are quicker in a test, that is their time alone. If they
    are slower than was known, and were as slow with the whole limit, the work itself has become
    longer. If they were slower still with the whole limit, there is an overload, and nothing is
    learnt. Critical acquires do not wait for a test, unless they are so many that the test would
    tell nothing.

    The state is a handful of numbers; there is no timer and no thread.

    Args:
        highest: The limit never exceeds this.
        clock: The manager's clock.
        reserve: The share of the limit that is kept for `Priority.CRITICAL`.
    """

    def __init__(self, highest: int, clock: Callable[[], float], reserve: float = 0.0) -> None:
        self._highest = highest
        self._clock = clock
        self._reserve = reserve
        self._limit = float(min(highest, _FIRST))
        #: Whether this is the first growth, and the last limit at which leases were not slower.
        self._grows = True
        self._good = self._limit
        #: The recent variance of the logarithms.
        self._spread2 = 0.0
        #: For how many windows in a row the limit has grown after its first growth.
        self._grown = 0
        #: The time that leases take alone (its logarithm), the number of leases it was learnt from
        #: in the first growth, and the square of its standard error.
        self._alone: float | None = None
        self._alone_leases, self._alone_error2 = 0, 0.0
        #: The recent windows, combined, in which at least half of the limit was in use.
        self._recent = _Window(0.0, 0.0, 0, 1, 1.0)
        #: The limit during a test, and whether it holds for critical leases, too; and the limit at
        #: the time of the last test.
        self._test_limit: float | None = None
        self._test_binds_all = False
        self._limit_at_test = self._limit
        self._test_began = 0.0
        self._epoch = _FIRST_EPOCH
        self._epoch_ends = clock() + _FIRST_EPOCH
        #: Whether leases are passed over because they began under another limit: how many more, and
        #: until when. The time matters, too: of leases that begin together the short ones end
        #: first, and say nothing about the others.
        self._skips = True
        self._left_to_skip, self._skip_until = _AHEAD * _FIRST, 0.0
        #: How long the longest recent lease took, in seconds.
        self._longest = 0.0
        self._leases, self._sum, self._squares = 0, 0.0, 0.0
        self._most_in_use, self._in_use = 0, 0
        self._begin_window(clock())

    @property
    def limit(self) -> int:
        """How many leases may be out now, if those beyond `open_limit` are critical."""
        if self._test_limit is not None and self._test_binds_all:
            return max(1, int(self._test_limit))
        if self._grows:
            return min(self._highest, int(_AHEAD * self._limit))
        return max(1, int(self._limit))

    @property
    def open_limit(self) -> int:
        """How many leases of any priority may be out now."""
        limit = open_to_all(max(1, int(self._limit)), self._reserve)
        return limit if self._test_limit is None else min(limit, max(1, int(self._test_limit)))

    def note(self, seconds: float, in_use: int) -> bool:
        """Note how long a lease took, with how many in use; tell whether a window has ended."""
        if self._skips:
            self._skip_one()
            return False
        time = log(seconds) if seconds > 1e-6 else _LOG_LEAST  # noqa: PLR2004  # see `_LOG_LEAST`
        self._leases += 1
        self._sum += time
        self._squares += time * time
        self._in_use += in_use
        if seconds > self._longest:  # noqa: PLR1730  # quicker than max(), and on each release
            self._longest = seconds
        if in_use > self._most_in_use:  # noqa: PLR1730  # as above
            self._most_in_use = in_use
        if self._leases < self._needed or (now := self._clock()) < self._window_ends:
            return False
        leases = self._leases
        mean = self._sum / leases
        # A few similar durations may be chance, if durations differed in earlier windows.
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

    def _skip_leases(self, now: float, in_use: int) -> None:
        """Pass over the leases that are out, for as long as the longest recent one took."""
        self._skips = True
        self._left_to_skip, self._skip_until = in_use, now + min(_LONGEST_SKIP, self._longest)

    def _skip_one(self) -> None:
        self._left_to_skip -= 1
        if self._left_to_skip <= 0 and (now := self._clock()) >= self._skip_until:
            self._skips = False
            self._begin_window(now)

    def _begin_window(self, now: float) -> None:
        limit = max(1, int(self._limit if self._test_limit is None else self._test_limit))
        self._needed = self._most = max(_FEWEST, min(_ENOUGH, _FOR_EACH * limit))
        self._window_ends = now + _SECONDS
        if self._test_limit is not None:
            self._most = _MOST
        elif self._grows:
            self._needed, self._most = _FEWEST, _ENOUGH
        self._leases, self._sum, self._squares = 0, 0.0, 0.0
        self._most_in_use, self._in_use = 0, 0
        self._longest *= _LONGEST_LEFT

    def _needs_more(self, mean: float, error2: float) -> bool:
        """Tell whether a window needs more leases, in a test or during the first growth."""
        if self._test_limit is not None:
            return error2 > _EXACT**2
        if self._alone is not None:
            chance = _SURE * sqrt(error2 + self._alone_error2)
            if mean - self._alone > chance + _TOLERANCE:  # certainly slower: end the window
                return False
        return self._leases < _FOR_EACH_GROWN * self._limit or error2 > _ROUGH**2

    def _end_window(self, window: _Window, now: float, in_use: int) -> None:
        if self._alone is None:
            self._alone, self._alone_error2 = window.took, window.error2
            self._recent = window
        if self._test_limit is not None:
            self._skip_leases(now, in_use)
            self._end_test(window, self._test_limit)
            spacing = _TEST_SPACING * (now - self._test_began)
            self._epoch_ends = now + max(self._epoch, spacing)
            return
        limit, difference = max(1, int(self._limit)), window.took - self._alone
        if window.most_in_use < limit / 2 or limit == 1:  # leases do not slow each other down
            self._learn(window, _WEIGHT)
            if window.most_in_use < limit / 2:
                return
        elif difference + _CLEAR * sqrt(window.error2 + self._alone_error2) < 0:
            self._learn(window, _SMOOTHING)
        full = window.most_in_use >= open_to_all(limit, self._reserve)
        if self._grows:
            self._recent = window
            self._grow(window, full, now, in_use)
            return
        recent = self._recent
        self._recent = window._replace(
            took=(recent.took + window.took) / 2,
            error2=(recent.error2 + window.error2) / 4,
            in_use=(recent.in_use + window.in_use) / 2,
        )
        due = now >= self._epoch_ends or self._limit < _TEST_SHARE * self._limit_at_test
        if full and due and limit > 1:
            if now >= self._epoch_ends:
                self._epoch = min(_LONGEST_EPOCH, 2 * self._epoch)
            self._limit_at_test = self._limit
            self._begin_test(self._limit * _TEST_SHARE, now, in_use)
        else:
            self._step(window, full, now, in_use)

    def _learn(self, window: _Window, share: float) -> None:
        """Move the time that leases take alone towards that of a window, by a share of the way."""
        assert self._alone is not None  # noqa: S101  # there was a window before
        self._alone += (window.took - self._alone) * share
        self._alone_error2 = (1 - share) ** 2 * self._alone_error2 + share * share * window.error2

    def _begin_test(self, test_limit: float, now: float, in_use: int) -> None:
        self._test_limit, self._test_began = max(1.0, test_limit), now
        self._skip_leases(now, in_use)

    def _end_test(self, window: _Window, test_limit: float) -> None:
        assert self._alone is not None  # noqa: S101  # there was a window before
        lower = log(self._recent.in_use / window.in_use)
        if lower < _LEAST_REDUCTION and not self._test_binds_all:
            self._test_binds_all = True  # critical ones keep the number up: limit them, test again
            return
        self._test_limit, self._test_binds_all = None, False
        difference = window.took - self._alone
        errors2 = window.error2 + self._alone_error2
        clear = difference**2 >= _CLEAR**2 * errors2
        share = 1.0 if clear else max(_SMOOTHING, self._alone_error2 / errors2)
        if difference > 0:
            # How much slower leases were before the test, relative to how many more were out: 1
            # means that they shared one resource, 0 that they did not affect each other.
            sharing = max(0.0, self._recent.took - window.took) / max(lower, _LEAST_REDUCTION)
            share *= min(1.0, max(0.0, 1.5 - 2 * sharing))
        # The time alone has clearly changed and may change further: test again soon.
        if clear and share and abs(difference) > _TOLERANCE:
            self._epoch = _FIRST_EPOCH
        self._learn(window, share)
        if self._grows and self._is_slower(self._recent):
            self._grows = False
            self._limit = self._limit_at_test = test_limit

    def _is_slower(self, window: _Window) -> bool:
        """Tell whether leases were slower than alone by more than chance explains."""
        assert self._alone is not None  # noqa: S101  # there was a window before
        chance = _CHANCE_GROWN * sqrt(window.error2 + self._alone_error2)
        return window.took - self._alone > chance + _TOLERANCE

    def _grow(self, window: _Window, full: bool, now: float, in_use: int) -> None:  # noqa: FBT001
        """Grow by half; or, if leases seem slower, check that by a test with the limit before."""
        assert self._alone is not None  # noqa: S101  # this window has set it
        if self._is_slower(window):
            if self._good < self._limit:
                self._begin_test(self._good, now, in_use)
            else:
                self._grows = False
        elif full:
            self._alone_leases += window.leases
            share = window.leases / self._alone_leases
            self._alone += max(0.0, window.took - self._alone) * share
            self._alone_error2 = max(self._alone_error2 * (1 - share), window.error2 * share)
            self._good = self._limit
            self._skip_leases(now, in_use)
            self._limit = self._limit_at_test = min(float(self._highest), _GROWTH * self._limit)
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
        if moved < 0.8 * self._limit:  # leases that are out began under the old limit: skip them
            self._skip_leases(now, in_use)
        self._limit = max(1.0, min(float(self._highest), moved))
