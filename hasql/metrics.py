"""Metrics: a frozen snapshot of one pool manager."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from hasql.checkout import Checkout
from hasql.cluster.dsn import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health, NodeState, Rules
from hasql.driver import ConnT, PoolT
from hasql.node import Node
from hasql.supervisor import Supervisor

__all__ = ("Metrics", "NodeMetrics", "measure")


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


@dataclass(frozen=True, slots=True)
class Metrics:
    """One manager at the moment of the snapshot; the counters never go back."""

    #: In the order of the hosts; none before the manager has been started, the last that was
    #: known once it is closed.
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


def measure(supervisor: Supervisor[PoolT, ConnT], checkout: Checkout[PoolT, ConnT]) -> Metrics:
    """Take the snapshot."""
    topology, hide = supervisor.topology, supervisor.options.dsn.hide
    written = {
        state.system_id: state.reading.wal_position
        for state in topology.masters
        if state.reading is not None
    }
    return Metrics(
        nodes=tuple(
            _measure_node(
                state,
                supervisor.nodes[state.host],
                written.get(state.system_id),
                topology.rules,
                hide,
            )
            for state in topology.nodes
        ),
        acquires=checkout.acquires,
        acquire_seconds=checkout.acquire_seconds,
        waits=checkout.waits,
        waiting=supervisor.router.waiting,
        retries=checkout.retries,
        role_changes=supervisor.announcer.role_changes,
        fencings=supervisor.announcer.fencings,
    )


def _measure_node(
    state: NodeState,
    node: Node[PoolT, ConnT],
    written: int | None,
    rules: Rules,
    hide: Callable[[str], str],
) -> NodeMetrics:
    error = node.last_error
    idle = node.pool.idle() if node.pool is not None else 0
    size = node.pool.size if node.pool is not None else 0
    lag_bytes, lag_seconds = _lag(state, written)
    return NodeMetrics(
        host=state.host,
        role=state.role,
        health=state.health,
        exclusion=state.exclusion,
        unchanged_for=max(0.0, monotonic() - state.since),
        pool_min=node.sizes.minimum,
        pool_max=node.sizes.maximum,
        pool_idle=idle,
        pool_used=max(0, size - idle),
        in_flight=node.in_flight,
        response_time=node.response_time,
        lag_bytes=lag_bytes,
        lag_seconds=lag_seconds,
        timeline=state.timeline,
        fencing=rules.fencing
        and state.system_id is not None
        and (state.role is not Role.MASTER or state.timeline is not None),
        last_error=None if error is None else hide(f"{type(error).__name__}: {error}"),
    )


def _lag(state: NodeState, written: int | None) -> tuple[int | None, float | None]:
    """Say how far a replica is behind, as of its and the master's last full probes."""
    reading = state.reading
    if reading is None or state.role is not Role.REPLICA:
        return None, None
    replayed, age = reading.wal_position, reading.replay_age
    if age is not None:
        age = max(0.0, age)  # the master's clock, which dated the commit, may be ahead
    if replayed is None or written is None:
        return None, age
    lag = max(0, written - replayed)
    # A replica that has replayed everything is not behind, however long ago the last commit was.
    return lag, age if lag else 0.0
