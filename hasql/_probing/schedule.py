"""The schedule: how soon after one probe of a node the next one is due."""

from collections.abc import Callable
from enum import Enum
from random import Random

from hasql.cluster.host import HostSpec

__all__ = ("Bursts", "Evidence", "ProbeSchedule")

#: Seconds between probes of a burst. A server needs 20 to 70 us for each (measured), and a thousand
#: clients send five thousand in a second; who reads learns of a promotion sooner, by the answers.
_BURST_DELAY = 0.2
#: Seconds that a burst lasts after a signal, and while there is no master until it slows down.
_BURST_LENGTH = 3.0
_SEARCH_LENGTH = 10.0
#: What it slows down to: then, and where the master has been found, on hosts that answer.
_BURST_SLOWEST = 0.5
#: Seconds after a burst that has taught nothing in which no hint begins another: at first, doubling
#: with each in a row, and at most. Evidence that comes more often than the last begins none.
_FIRST_QUIET = 0.5
_LONGEST_QUIET = 30.0
#: Seconds between two probes that hints at one host may cause beside the others.
_HINT_DELAY = 0.5

_NEVER = float("-inf")


class Evidence(Enum):
    """What a host itself shows of a change, or seems to."""

    #: Its reserved connection is gone.
    LOST = "lost"
    #: A replica's answer to a lease said that it is none.
    FLAG = "flag"
    #: It is up, suspect or down, unlike before.
    HEALTH = "health"
    #: A connection to it leads to another server than its reserved one.
    ELSEWHERE = "elsewhere"


class Bursts:
    """The bursts in which all hosts of a manager are probed often, and what may begin one.

    A signal may come hundreds of times a second and mean nothing: an idle timeout, a middle man
    that cuts connections, an administrator. The first is acted on at once and with all hosts; what
    follows in vain has all hosts probed more and more seldom.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = _NEVER
        #: Whether that has found a host in another role: what it was begun for, most likely.
        self.found = False
        #: Until when hints begin none, and for how long after the next burst.
        self._quiet_until = _NEVER
        self._quiet = _FIRST_QUIET
        #: When each host last gave evidence of a kind, of which nothing has come since.
        self._evidence: dict[tuple[HostSpec, Evidence], float] = {}

    @property
    def under_way(self) -> bool:
        """Whether all hosts are being probed often."""
        return self._clock() - self._began <= _BURST_LENGTH

    def begin(self) -> bool:
        """Begin a burst; False if one is under way, which just goes on."""
        if self.under_way:
            return False
        self._began = self._clock()
        self.found = False
        return True

    def begin_by_hint(self, *, urgent: bool) -> bool:
        """Begin a burst because of what a lease tells, unless that was in vain just before.

        While it is `urgent`, as there is no master, nothing has been in vain.
        """
        now = self._clock()
        if urgent or now - self._quiet_until > _LONGEST_QUIET:
            self._end_quiet()
        if now < self._quiet_until or not self.begin():
            return False
        self._quiet_until = now + _BURST_LENGTH + self._quiet
        self._quiet = min(2 * self._quiet, _LONGEST_QUIET)
        return True

    def begin_by_evidence(self, host: HostSpec, what: Evidence) -> bool:
        """Begin a burst, or take up the one under way, because of what a host itself has shown.

        False if it has shown the same just before and nothing has come of it: then its own probes
        will tell.
        """
        now = self._clock()
        last = self._evidence.get((host, what), _NEVER)
        self._evidence[host, what] = now
        if now - last <= _LONGEST_QUIET:
            return False
        self._end_quiet()
        self.begin()
        self.found = False
        return True

    def learned(self) -> None:
        """Take note that something has changed: no signal has been in vain."""
        self._end_quiet()
        self._evidence.clear()

    def forget(self, host: HostSpec) -> None:
        """Take note that this is no host any more."""
        for what in Evidence:
            self._evidence.pop((host, what), None)

    def _end_quiet(self) -> None:
        self._quiet_until, self._quiet = _NEVER, _FIRST_QUIET


class ProbeSchedule:
    """Steady while nothing happens, often in bursts and while something is urgent."""

    def __init__(
        self,
        refresh_delay: float,
        bursts: Bursts,
        is_urgent: Callable[[], bool],
        clock: Callable[[], float],
        chance: Random,
    ) -> None:
        self._refresh_delay = refresh_delay
        self._bursts = bursts
        self._is_urgent = is_urgent
        self._clock = clock
        self._jitter = chance.uniform
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

        `began` is when the last one began: it is no sooner than in a burst. With jitter, as one
        that keeps step with what ends its sessions is never answered.
        """
        delay = min(_BURST_DELAY, self._refresh_delay)
        return began + delay * self._jitter(0.75, 1.25)

    def delay(self, *, answers: bool = False) -> float:
        """Return the seconds from the beginning of one probe to that of the next.

        `answers` if the host has answered the last: nobody waits for it, once a master is found.
        """
        now = self._clock()
        if not self._is_urgent():
            self._urgent_since = None
        elif self._urgent_since is None:
            self._urgent_since = now
        if self._bursts.under_way:
            done = answers and self._bursts.found and self._urgent_since is None
            delay = _BURST_SLOWEST if done else _BURST_DELAY
        elif self._urgent_since is not None:
            over = max(0.0, now - self._urgent_since - _SEARCH_LENGTH)
            # Doubling each second; where it ends is reached long before the power overflows.
            delay = min(_BURST_DELAY * 2 ** min(over, 10.0), _BURST_SLOWEST)
        else:
            return self._refresh_delay * self._jitter(0.9, 1.1)
        return min(delay, self._refresh_delay) * self._jitter(0.75, 1.25)
