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
    #: One trial, which tells how it goes on.
    HALF_OPEN = "half-open"


#: The monitor is the breaker of its host, and the next probe is the trial.
_BREAKER_OF = {
    Health.STARTING: BreakerState.HALF_OPEN,
    Health.UP: BreakerState.CLOSED,
    Health.SUSPECT: BreakerState.HALF_OPEN,
    Health.DOWN: BreakerState.OPEN,
}


@dataclass(frozen=True, slots=True)
class NodeMetrics:
    """One node at the moment of the snapshot. Durations are seconds; nothing is negative."""

    host: HostSpec
    role: Role
    health: Health
    #: Why it does not serve although it answers; None if it may.
    exclusion: Exclusion | None
    #: For how long health, role and exclusion have been as they are, and the server the same:
    #: a restart or a new timeline counts. As a duration, since the clock of the wall may be set;
    #: `time.time() - unchanged_for` is the moment.
    unchanged_for: float
    #: The pool's bounds; the reserved connection is not counted anywhere here.
    pool_min: int
    pool_max: int
    #: Open connections nobody uses, and those in use, by the driver's count.
    pool_idle: int
    pool_used: int
    #: Leases out, being taken, or being given back, by hasql's count.
    in_flight: int
    #: Median round trip of the last probes; None before the first.
    response_time: float | None
    #: How far a replica is behind the master in bytes of WAL; None where not known.
    lag_bytes: int | None
    #: How old what a replica shows is at most, by its own clock; None where not known.
    lag_seconds: float | None
    timeline: int | None
    #: Whether it is fenced when a newer timeline replaces it: it tells its cluster and timeline.
    fencing: bool
    #: What the last failed probe, or connect for the pool, met, without passwords; kept after the
    #: host has recovered.
    last_error: str | None
    #: What its source calls it; None for a host of the DSN.
    label: str | None = None
    #: How many leases there were at once at most, by hasql's count: since the last report with
    #: `report_every`, else since the start.
    pool_peak: int = 0
    #: What the pool could do with, in words, by what was asked of it meanwhile; None: nothing.
    advice: str | None = None

    @property
    def breaker(self) -> BreakerState:
        """What its monitor is as a breaker of this host.

        Closed while the host is up. Open while it is down: nothing is sent to it, and each probe is
        a trial. Half-open before its first answer, and while it is suspect: it is avoided as long
        as others can serve.
        """
        return _BREAKER_OF[self.health]


@dataclass(frozen=True, slots=True)
class AdmissionMetrics:
    """Admission at the moment of the snapshot; the counters never go back."""

    #: How many leases there may be at once; it moves if it is adaptive.
    limit: int
    #: How many there are, those included that are being taken.
    in_use: int
    #: How many acquires wait for one of those to end.
    waiting: int
    #: Acquires that had to wait, whatever became of them.
    waits: int
    #: Acquires that were refused, or had to give way to others, as the queue was full.
    refusals: int
    #: Acquires that have waited until their deadlines.
    timeouts: int


@dataclass(frozen=True, slots=True)
class RateLimitMetrics:
    """The rate limit at the moment of the snapshot; the counters never go back."""

    #: Acquires that had to wait for a token, whatever became of them.
    waits: int
    #: Acquires that were refused.
    refusals: int
    #: How many wait now.
    waiting: int
    #: How many keys are kept in memory; 0 if they are kept elsewhere.
    keys: int
    #: Times that the storage failed, or did not answer in time.
    storage_errors: int


@dataclass(frozen=True, slots=True)
class BreakerMetrics:
    """The breaker of a cluster's masters; the counters never go back."""

    state: BreakerState
    #: Infrastructure errors in a row, up to now.
    failures: int
    #: Times it has opened, a trial that failed included.
    openings: int
    #: Acquires that were refused.
    refusals: int


@dataclass(frozen=True, slots=True)
class DiscoveryMetrics:
    """The source of hosts at the moment of the snapshot."""

    #: As `str()` has it; for the hosts of a DSN as they stand ``StaticDiscovery``.
    source: str
    #: The hosts of its last good answer; none before the first.
    hosts: tuple[HostSpec, ...]
    #: Seconds since that answer; None before the first.
    last_success: float | None
    #: Why it has failed since, without passwords; None when the last answer was good.
    last_error: str | None


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """The units of work that were given to `run`; the counters never go back."""

    #: How many have ended, with whatever outcome.
    count: int = 0
    #: How often one was tried again, by the category of the error.
    retries_infrastructure: int = 0
    retries_overload: int = 0
    retries_conflict: int = 0
    #: Commits whose answer was lost: those whose outcome was found out, and those of which nobody
    #: knows.
    commits_found: int = 0
    commits_unknown: int = 0


@dataclass(frozen=True, slots=True)
class Metrics:
    """One manager at the moment of the snapshot; the counters never go back."""

    #: In the order of the hosts, those that leave last; none before the manager has been started,
    #: the last that was known once it is closed.
    nodes: tuple[NodeMetrics, ...]
    #: Connections handed out so far, and the seconds that took in sum.
    acquires: int
    acquire_seconds: float
    #: Acquires that had to wait for a place or a host, whatever became of them.
    waits: int
    #: How many wait now; asking for a pool waits, too.
    waiting: int
    #: Times an acquire gave a candidate up that failed or had the wrong role.
    retries: int
    #: Times a host has answered in another role than in its last answer.
    role_changes: int
    #: Times a host was fenced.
    fencings: int
    #: Where the hosts come from.
    discovery: DiscoveryMetrics
    #: What is off is None.
    admission: AdmissionMetrics | None = None
    #: That of replicas, if they are counted apart.
    replica_admission: AdmissionMetrics | None = None
    rate_limit: RateLimitMetrics | None = None
    breaker: BreakerMetrics | None = None
    #: Units of work.
    runs: RunMetrics = RunMetrics()
    #: Leases that were out for longer than `leak_threshold`, and that the application has dropped
    #: without giving them back; 0 without `lifecycle`.
    leases_overdue: int = 0
    leases_dropped: int = 0
    #: Idle connections that hasql has closed for their age, and because they gave no sign of life,
    #: as `lifecycle` says. What the driver's pool closes by itself is not counted.
    connections_aged: int = 0
    connections_dead: int = 0
