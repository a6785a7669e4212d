"""Measuring: takes the snapshot of one pool manager that `metrics` shows."""

from collections.abc import Callable

from hasql._leasing.checkout_rules import CheckoutRules
from hasql._manager.options import Options
from hasql._manager.routing_state import RoutingState
from hasql._routing.node import Node
from hasql._routing.router import Router
from hasql.cluster.lag import lag_of, written_by_masters
from hasql.cluster.probe import Role
from hasql.cluster.state import NodeState, Rules
from hasql.driver import ConnT, PoolT
from hasql.metrics import DiscoveryMetrics, Metrics, NodeMetrics, RunMetrics
from hasql.resilience.lease_watch import LeaseWatch
from hasql.resilience.load_control import LoadMetrics

__all__ = ("measure",)


def measure(  # noqa: PLR0913  # all that one is made of
    routing: RoutingState[PoolT, ConnT],
    router: Router[PoolT, ConnT],
    checkout: CheckoutRules[PoolT, ConnT],
    options: Options,
    discovery: DiscoveryMetrics,
    load: LoadMetrics,
    runs: RunMetrics,
    lease_watch: LeaseWatch | None,
) -> Metrics:
    """Take the snapshot."""
    upkeep = None if lease_watch is None else lease_watch.upkeep
    topology, hide, now = routing.topology, options.hide, options.clock()
    written = written_by_masters(topology)
    return Metrics(
        nodes=tuple(
            _measure_node(
                state,
                routing.nodes[state.host],
                written.get(state.system_id),
                topology.rules,
                hide,
                now,
            )
            for state in topology.nodes
        ),
        acquires=checkout.acquires,
        acquire_seconds=checkout.acquire_seconds,
        waits=checkout.waits,
        waiting=router.waiting,
        retries=checkout.retries,
        role_changes=routing.notifier.role_changes,
        fencings=routing.notifier.fencings,
        discovery=discovery,
        admission=load.admission,
        replica_admission=load.replica_admission,
        rate_limit=load.rate_limit,
        breaker=load.breaker,
        runs=runs,
        leases_overdue=0 if lease_watch is None else lease_watch.overdue,
        leases_dropped=0 if lease_watch is None else lease_watch.dropped,
        connections_aged=0 if upkeep is None else upkeep.aged,
        connections_dead=0 if upkeep is None else upkeep.dead,
    )


def _measure_node(  # noqa: PLR0913  # all that one is made of
    state: NodeState,
    node: Node[PoolT, ConnT],
    written: int | None,
    rules: Rules,
    hide: Callable[[str], str],
    now: float,
) -> NodeMetrics:
    error = node.last_error
    idle = node.pool.idle() if node.pool is not None else 0
    size = node.pool.size if node.pool is not None else 0
    lag_bytes, lag_seconds = lag_of(state, written)
    return NodeMetrics(
        host=state.host,
        role=state.role,
        health=state.health,
        exclusion=state.exclusion,
        unchanged_for=max(0.0, now - state.since),
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
        label=node.label,
    )
