"""Measuring: takes the snapshot of one pool manager that `metrics` shows."""

from collections.abc import Callable
from time import monotonic

from hasql._leasing.checkout import Checkout
from hasql._manager.supervisor import Supervisor
from hasql._routing.node import Node
from hasql.cluster.probe import Role
from hasql.cluster.state import NodeState, Rules
from hasql.driver import ConnT, PoolT
from hasql.metrics import Metrics, NodeMetrics

__all__ = ("measure",)


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
        role_changes=supervisor.notifier.role_changes,
        fencings=supervisor.notifier.fencings,
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
