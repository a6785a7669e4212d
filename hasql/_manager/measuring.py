"""Measuring: takes the snapshot of one pool manager that `metrics` shows."""

from collections.abc import Callable
from typing import Generic

from hasql._manager.assembly import Parts
from hasql._manager.options import Options
from hasql._manager.reporting import sizing_advice
from hasql._routing.node import Node
from hasql.cluster.lag import lag_of, written_by_masters
from hasql.cluster.probe import Role
from hasql.cluster.state import NodeState, Rules
from hasql.driver import ConnT, PoolT
from hasql.metrics import DiscoveryMetrics, Metrics, NodeMetrics, RunMetrics
from hasql.resilience.load_control import LoadMetrics

__all__ = ("Measuring",)


class Measuring(Generic[PoolT, ConnT]):
    """Takes snapshots of one manager, made of these parts."""

    def __init__(self, parts: Parts[PoolT, ConnT], options: Options) -> None:
        self._parts = parts
        self._options = options

    def take(self) -> Metrics:
        """Take a snapshot."""
        parts = self._parts
        discovery, load, runs = (
            parts.discovering.measure(),
            parts.load.measure(),
            parts.runs.measure(),
        )
        with parts.routing.guard:
            return self._take(discovery, load, runs)

    def _take(self, discovery: DiscoveryMetrics, load: LoadMetrics, runs: RunMetrics) -> Metrics:
        parts, routing, watch = self._parts, self._parts.routing, self._parts.lease_watch
        upkeep = None if watch is None else watch.upkeep
        return Metrics(
            nodes=self._nodes(),
            acquires=parts.checkout.acquires,
            acquire_seconds=parts.checkout.acquire_seconds,
            waits=parts.checkout.waits,
            waiting=parts.router.waiting,
            retries=parts.checkout.retries,
            role_changes=routing.notifier.role_changes,
            fencings=routing.notifier.fencings,
            discovery=discovery,
            admission=load.admission,
            replica_admission=load.replica_admission,
            rate_limit=load.rate_limit,
            breaker=load.breaker,
            runs=runs,
            leases_overdue=0 if watch is None else watch.overdue,
            leases_dropped=0 if watch is None else watch.dropped,
            connections_aged=0 if upkeep is None else upkeep.aged,
            connections_dead=0 if upkeep is None else upkeep.dead,
        )

    def _nodes(self) -> tuple[NodeMetrics, ...]:
        routing, options = self._parts.routing, self._options
        topology, hide, now = routing.topology, options.hide, options.clock()
        written = written_by_masters(topology)
        waited = self._parts.checkout.waits > self._parts.reporting.waits_before
        return tuple(
            _measure_node(
                state,
                routing.nodes[state.host],
                written.get(state.system_id),
                topology.rules,
                hide,
                now,
                waited=waited,
            )
            for state in topology.nodes
        )


def _measure_node(  # noqa: PLR0913  # all that one is made of
    state: NodeState,
    node: Node[PoolT, ConnT],
    written: int | None,
    rules: Rules,
    hide: Callable[[str], str],
    now: float,
    *,
    waited: bool,
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
        in_flight=node.in_flight + sum(each.former.in_flight for each in node.successions),
        response_time=node.response_time,
        lag_bytes=lag_bytes,
        lag_seconds=lag_seconds,
        timeline=state.timeline,
        fencing=rules.fencing
        and state.system_id is not None
        and (state.role is not Role.MASTER or state.timeline is not None),
        last_error=None if error is None else hide(f"{type(error).__name__}: {error}"),
        label=node.label,
        pool_peak=node.peak,
        advice=sizing_advice(node, waited=waited),
    )
