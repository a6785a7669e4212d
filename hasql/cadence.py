"""The cadence: how soon after one probe of a node the next one is due."""

from collections.abc import Callable
from random import uniform
from time import monotonic

from hasql.cluster.dsn import HostSpec

__all__ = ("Bursts", "Cadence")

#: Seconds between probes of a burst. A server needs 20 to 70 us for each (measured), so that a
#: thousand clients cost it half a core; who reads learns of a promotion sooner, by the answers.
_BURST_DELAY = 0.2
#: Seconds that a burst lasts after a signal, and while there is no master until it slows down.
_BURST_LENGTH = 3.0
_SEARCH_LENGTH = 10.0
#: What it slows down to.
_BURST_SLOWEST = 0.5
#: Seconds without another burst for the same reason after one that has taught nothing: at first,
#: doubling with each in a row, and at most.
_FIRST_QUIET = 0.5
_LONGEST_QUIET = 30.0
#: Seconds between two probes that hints at one host may cause beside the others.
_HINT_DELAY = 0.5

_NEVER = float("-inf")


class _QuietTime:
    """The time after a burst in which the same reason begins no other, unless it has taught."""

    def __init__(self) -> None:
        self._over_at = _NEVER
        self._length = _FIRST_QUIET

    def is_over(self, now: float) -> bool:
        return now >= self._over_at

    def is_first(self, now: float) -> bool:
        """Tell whether no burst for this reason has been in vain of late."""
        return self._length == _FIRST_QUIET or now - self._over_at >= _LONGEST_QUIET

    def follow_burst(self, now: float) -> None:
        """Take note that a burst begins, after which it lasts longer than the last time."""
        if self.is_first(now):
            self._length = _FIRST_QUIET
        self._over_at = now + _BURST_LENGTH + self._length
        self._length = min(2 * self._length, _LONGEST_QUIET)

    def end(self) -> None:
        """Begin anew: something was learnt."""
        self._over_at = _NEVER
        self._length = _FIRST_QUIET


class Bursts:
    """The bursts in which all hosts of a manager are probed often, and what may begin one.

    A signal may come hundreds of times a second and mean nothing: an idle timeout, a middle man
    that cuts connections, an administrator. The first of its kind is acted on at once and with all
    hosts; those that follow in vain cause a burst more and more seldom.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._began = _NEVER
        #: What leases tell is a hint at any host; what a host itself shows is about that host.
        self._hints = _QuietTime()
        self._evidence: dict[HostSpec, _QuietTime] = {}

    @property
    def under_way(self) -> bool:
        """Whether all hosts are being probed often."""
        return self._clock() - self._began <= _BURST_LENGTH

    def begin_by_hint(self, *, urgent: bool) -> bool:
        """Begin a burst because of a lease, unless one is under way or was in vain just before.

        While it is `urgent`, as there is no master, nothing has been in vain.
        """
        now = self._clock()
        if self.under_way or not (urgent or self._hints.is_over(now)):
            return False
        if urgent:
            self._hints.end()
        self._hints.follow_burst(now)
        self._began = now
        return True

    def begin_by_evidence(self, host: HostSpec) -> bool:
        """Begin a burst, or take up the one under way, because of what a host has shown.

        Its reserved connection is gone, say. False if the same was in vain just before.
        """
        now = self._clock()
        quiet = self._evidence.setdefault(host, _QuietTime())
        if not quiet.is_over(now):
            return False
        if quiet.is_first(now):
            self._hints.end()
        quiet.follow_burst(now)
        self.begin()
        return True

    def begin(self) -> bool:
        """Begin a burst; False if one is under way, which just goes on."""
        if self.under_way:
            return False
        self._began = self._clock()
        return True

    def learned(self) -> None:
        """Take note that something has changed: no signal has been in vain."""
        self._hints.end()
        self._evidence.clear()

    def forget(self, host: HostSpec) -> None:
        """Take note that this is no host any more."""
        self._evidence.pop(host, None)


class Cadence:
    """Steady while nothing happens, often in bursts and while something is urgent."""

    def __init__(
        self,
        refresh_delay: float,
        bursts: Bursts,
        is_urgent: Callable[[], bool],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._refresh_delay = refresh_delay
        self._bursts = bursts
        self._is_urgent = is_urgent
        self._clock = clock
        #: Since when it has been urgent.
        self._urgent_since: float | None = None
        #: When the last probe was due, or the next one is, that a hint has caused.
        self._hint_due = _NEVER

    @property
    def hurries(self) -> bool:
        """Whether probes are many, and should be cheap."""
        return self._bursts.under_way or self._is_urgent()

    def hint_due(self) -> float:
        """Return when the probe is due that a hint at this host causes: at once, or a little later.

        Hints that come meanwhile cause none of their own.
        """
        now = self._clock()
        if self._hint_due <= now:
            self._hint_due = max(now, self._hint_due + _HINT_DELAY)
        return self._hint_due

    def evidence_due(self, began: float) -> float:
        """Return when the probe is due that evidence causes which has been in vain just before.

        `began` is when the last one began: it is no sooner than in a burst.
        """
        return began + min(_BURST_DELAY, self._refresh_delay)

    def delay(self) -> float:
        """Return the seconds from the beginning of one probe to that of the next."""
        now = self._clock()
        if not self._is_urgent():
            self._urgent_since = None
        elif self._urgent_since is None:
            self._urgent_since = now
        if self._bursts.under_way:
            delay = _BURST_DELAY
        elif self._urgent_since is not None:
            over = max(0.0, now - self._urgent_since - _SEARCH_LENGTH)
            # Doubling each second; where it ends is reached long before the power overflows.
            delay = min(_BURST_DELAY * 2 ** min(over, 10.0), _BURST_SLOWEST)
        else:
            return self._refresh_delay * uniform(0.9, 1.1)  # noqa: S311  # no secret
        return min(delay, self._refresh_delay) * uniform(0.75, 1.25)  # noqa: S311  # no secret
