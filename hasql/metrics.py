"""Metrics: a frozen snapshot of one pool manager."""

from dataclasses import dataclass
from enum import Enum

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health

__all__ = (
    "AdmissionMetrics",
    "BreakerMetrics",
    "BreakerState",
    "DiscoveryMetrics",
    "Metrics",
    "NodeMetrics",
    "RateLimitMetrics",
    "RunMetrics",
)


class BreakerState(Enum):
    """What a breaker lets through."""

    #: Everything.
    CLOSED = "closed"
    #: Nothing.
    OPEN = "open"
    #: One trial, whose outcome decides what follows.
    HALF_OPEN = "half-open"


#: A host's monitor acts as its breaker, and the next probe is the trial.
_BREAKER_OF = {
    Health.STARTING: BreakerState.HALF_OPEN,
    Health.UP: BreakerState.CLOSED,
    Health.SUSPECT: BreakerState.HALF_OPEN,
    Health.DOWN: BreakerState.OPEN,
}


@dataclass(frozen=True, slots=True)
class NodeMetrics:
    """One node at the moment of the snapshot. Durations are seconds; no value is negative."""

    host: HostSpec
    role: Role
    health: Health
    #: Why the host does not serve although it answers. None: it may serve.
    exclusion: Exclusion | None
    #: For how long health, role, exclusion and the server have been the same; a restart or a new
    #: timeline is another server. It is a duration because the wall clock may be set;
    #: `time.time() - unchanged_for` is the moment.
    unchanged_for: float
    #: The pool's bounds. The reserved connection is not counted in any of these numbers.
    pool_min: int
    pool_max: int
    #: Open connections that are idle, and those in use, by the driver's count.
    pool_idle: int
    pool_used: int
    #: Leases out, being taken, or being given back, by hasql's count.
    in_flight: int
    #: Median round trip of the last probes; None before the first probe.
    response_time: float | None
    #: How far a replica is behind the master, in bytes of WAL; None if not known.
    lag_bytes: int | None
    #: Greatest possible age of the data a replica shows, by its own clock; None if not known.
    lag_seconds: float | None
    timeline: int | None
    #: Whether the host can be fenced by a newer timeline: it reports its cluster and its timeline.
    fencing: bool
    #: The error of the last failed probe, or of the pool's last failed connect, without passwords.
    #: It is kept after the host has recovered.
    last_error: str | None
    #: The label that the source of hosts gives it; None for a host of the DSN.
    label: str | None = None
    #: The highest number of simultaneous leases, by hasql's count: since the last report if
    #: `report_every` is set, otherwise since the start.
    pool_peak: int = 0
    #: How the pool's settings could be better for the load so far, in words. None: no advice.
    advice: str | None = None

    @property
    def breaker(self) -> BreakerState:
        """The state of the host's monitor, seen as a breaker of this host.

        Closed while the host is up. Open while it is down: nothing is sent to it, and each probe is
        a trial. Half-open before its first answer, and while it is suspect: the host is avoided as
        long as others can serve.
        """
        return _BREAKER_OF[self.health]


@dataclass(frozen=True, slots=True)
class AdmissionMetrics:
    """Admission at the moment of the snapshot; the counters never decrease."""

    #: How many leases may be out at once; it changes if the limit is adaptive.
    limit: int
    #: How many leases are out, including those being acquired.
    in_use: int
    #: How many acquires wait for a lease to end.
    waiting: int
    #: Acquires that had to wait, whatever became of them.
    waits: int
    #: Acquires that were refused, or displaced by others, because the queue was full.
    refusals: int
    #: Acquires that waited until their deadline.
    timeouts: int


@dataclass(frozen=True, slots=True)
class RateLimitMetrics:
    """The rate limit at the moment of the snapshot; the counters never decrease."""

    #: Acquires that had to wait for a token, whatever became of them.
    waits: int
    #: Acquires that were refused.
    refusals: int
    #: How many wait now.
    waiting: int
    #: How many keys are kept in memory; 0 if a storage keeps them elsewhere.
    keys: int
    #: How often the storage failed, or did not answer in time.
    storage_errors: int


@dataclass(frozen=True, slots=True)
class BreakerMetrics:
    """The breaker of a cluster's masters; the counters never decrease."""

    state: BreakerState
    #: How many infrastructure errors there have been in a row, up to now.
    failures: int
    #: How often it has opened, including after a failed trial.
    openings: int
    #: Acquires that were refused.
    refusals: int


@dataclass(frozen=True, slots=True)
class DiscoveryMetrics:
    """The source of hosts at the moment of the snapshot."""

    #: The source as `str()` shows it; ``StaticDiscovery`` for the hosts that a DSN lists.
    source: str
    #: The hosts of its last good answer; empty before the first.
    hosts: tuple[HostSpec, ...]
    #: Seconds since that answer; None before the first.
    last_success: float | None
    #: Why it has failed since, without passwords; None if the last answer was good.
    last_error: str | None


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """The units of work that were given to `run`; the counters never decrease."""

    #: How many have ended, whatever the outcome.
    count: int = 0
    #: How often a unit of work was tried again, by the category of the error.
    retries_infrastructure: int = 0
    retries_overload: int = 0
    retries_conflict: int = 0
    #: Commits whose answer was lost: those whose outcome was found out, and those whose outcome
    #: nobody knows.
    commits_found: int = 0
    commits_unknown: int = 0


@dataclass(frozen=True, slots=True)
class Metrics:
    """One manager at the moment of the snapshot; the counters never decrease."""

    #: In the order of the hosts, those that are leaving last. Empty before the manager is started;
    #: after it is closed, the last known state.
    nodes: tuple[NodeMetrics, ...]
    #: Connections handed out so far, and the sum of the seconds that acquiring them took.
    acquires: int
    acquire_seconds: float
    #: Acquires that had to wait for a place or a host, whatever became of them.
    waits: int
    #: How many wait now; a call that asks for a pool counts as well.
    waiting: int
    #: How often an acquire gave up a candidate that failed or had the wrong role.
    retries: int
    #: How often a host has answered in another role than in its last answer.
    role_changes: int
    #: How often a host was fenced.
    fencings: int
    #: The source of the hosts.
    discovery: DiscoveryMetrics
    #: These are None if the feature is off.
    admission: AdmissionMetrics | None = None
    #: The admission of replicas, if they are counted separately.
    replica_admission: AdmissionMetrics | None = None
    rate_limit: RateLimitMetrics | None = None
    breaker: BreakerMetrics | None = None
    #: Units of work.
    runs: RunMetrics = RunMetrics()
    #: Leases that were out for longer than `leak_threshold`, and leases that the application
    #: dropped without giving them back; 0 without `lifecycle`.
    leases_overdue: int = 0
    leases_dropped: int = 0
    #: Idle connections that hasql closed, as `lifecycle` configures it: for their age, and because
    #: they gave no sign of life. Those that the driver's pool closes by itself are not counted.
    connections_aged: int = 0
    connections_dead: int = 0
