"""The schedule: how soon after one probe of a node the next one is due."""

from collections.abc import Callable
from enum import Enum
from random import Random

from hasql.cluster.host import HostSpec

__all__ = ("Bursts", "Evidence", "ProbeSchedule")

#: Seconds between probes of a burst. A server needs 20 to 70 us for each (measured), and a thousand
#: clients send five thousand in a second. Tasks and threads that read learn of a promotion sooner,
#: from the answers to their own queries.
_BURST_DELAY = 0.2
#: Seconds that a burst lasts after a signal; and seconds without a master until a burst slows down.
_BURST_LENGTH = 3.0
_SEARCH_LENGTH = 10.0
#: Seconds between probes once a burst has slowed down. On hosts that answer it also does so once
#: the master has been found.
_BURST_SLOWEST = 0.5
#: Seconds after a burst that has taught nothing, in which no hint begins another: at first, and at
#: most; they double with each such burst in a row. Evidence of a host that comes again within the
#: longest of these times begins no burst either.
_FIRST_QUIET = 0.5
_LONGEST_QUIET = 30.0
#: Seconds between two probes that hints at one host may cause in addition to the others.
_HINT_DELAY = 0.5

_NEVER = float("-inf")


class Evidence(Enum):
    """What a host itself shows, or seems to show, of a change."""

    #: Its reserved connection is gone.
    LOST = "lost"
    #: A replica's answer to a lease said that it is not a replica.
    FLAG = "flag"
    #: Its health has changed: it is up, suspect or down now.
    HEALTH = "health"
    #: A connection to it leads to another server than its reserved one.
    ELSEWHERE = "elsewhere"


class Bursts:
    """The bursts in which all hosts of a manager are probed often, and what may begin one.

    A signal may come hundreds of times a second and mean nothing: an idle timeout, a middlebox that
    cuts connections, an administrator. After the first signal all hosts are probed at once. If the
    signals that follow lead to nothing, they cause bursts more and more seldom.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = _NEVER
        #: Whether the last burst has found a host in another role: that is most likely what it was
        #: begun for.
        self.found = False
        #: Until when hints begin no burst, and for how long they begin none after the next burst.
        self._quiet_until = _NEVER
        self._quiet = _FIRST_QUIET
        #: When each host last gave evidence of each kind, if nothing has come of it since.
        self._evidence: dict[tuple[HostSpec, Evidence], float] = {}

    @property
    def under_way(self) -> bool:
        """Whether all hosts are being probed often."""
        return self._clock() - self._began <= _BURST_LENGTH

    def begin(self) -> bool:
        """Begin a burst; return False if one is under way, which just goes on."""
        if self.under_way:
            return False
        self._began = self._clock()
        self.found = False
        return True

    def begin_by_hint(self, *, urgent: bool) -> bool:
        """Begin a burst because of a hint from a lease; return whether one was begun.

        Shortly after hints have begun a burst for nothing, none is begun, unless it is `urgent`
        because there is no master.
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

        Returns False if the host has shown the same shortly before and nothing has come of it: then
        its own probes have to tell.
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
        """Take note that something has changed, so that no signal counts as in vain."""
        self._end_quiet()
        self._evidence.clear()

    def forget(self, host: HostSpec) -> None:
        """Take note that this is not a host any more."""
        for what in Evidence:
            self._evidence.pop((host, what), None)

    def _end_quiet(self) -> None:
        self._quiet_until, self._quiet = _NEVER, _FIRST_QUIET


class ProbeSchedule:
    """When to probe a host: steadily in general, often in bursts and while it is urgent."""

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
        #: Since when it has been urgent, by the clock; None: it is not.
        self._urgent_since: float | None = None
        #: When the last probe that a hint has caused was due, or the next one is.
        self._hint_due = _NEVER

    @property
    def hurries(self) -> bool:
        """Whether probes are frequent, and should be cheap."""
        return self._bursts.under_way or self._is_urgent()

    def hint_due(self) -> float:
        """Return when the probe that a hint at this host causes is due: at once, or a little later.

        Hints that come before it cause no probe of their own.
        """
        now = self._clock()
        if self._hint_due <= now:
            self._hint_due = max(now, self._hint_due + _HINT_DELAY)
        return self._hint_due

    def evidence_due(self, began: float) -> float:
        """Return when to probe because of evidence that has led to nothing shortly before.

        `began` is when the last probe began; the next comes no sooner after it than in a burst. The
        delay has jitter, because a probe that keeps step with whatever ends its sessions would
        never be answered.
        """
        delay = min(_BURST_DELAY, self._refresh_delay)
        return began + delay * self._jitter(0.75, 1.25)

    def delay(self, *, answers: bool = False) -> float:
        """Return the seconds from the beginning of one probe to that of the next.

        `answers`: whether the host has answered the last probe. Once a master is found, no acquire
        waits for such a host.
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
            # The delay doubles each second, and reaches its limit long before the power overflows.
            delay = min(_BURST_DELAY * 2 ** min(over, 10.0), _BURST_SLOWEST)
        else:
            return self._refresh_delay * self._jitter(0.9, 1.1)
        return min(delay, self._refresh_delay) * self._jitter(0.75, 1.25)
