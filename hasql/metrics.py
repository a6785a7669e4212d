"""Metrics: a frozen snapshot of one pool manager."""

from dataclasses import dataclass

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health

__all__ = ("DiscoveryMetrics", "Metrics", "NodeMetrics")


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
