"""Checks what must hold inside a pool manager: at any moment, at rest, and when it is closed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.cluster import Cluster
    from simulation.driver import SimulatedManager
    from simulation.record import Record

#: The modules whose objects are counted; servers and the record of a story are left out, because
#: they always grow.
_WALKED = ("hasql", "simulation.driver", "testbed.fake_driver")

__all__ = ("check_closed", "check_counts", "check_permits", "check_quiet", "weight")


def check_counts(manager: SimulatedManager, record: Record, tasks: int) -> None:
    """Check what must hold between any two steps of any task."""
    router, name = manager._router, manager.driver.knowledge.name
    nodes = manager._routing.nodes.values()
    for node in nodes:
        if not 0 <= node.in_flight <= node.sizes.maximum:
            record.violated(name, f"{node.in_flight} of {node.sizes.maximum} places are taken")
    if sum(node.in_flight for node in nodes) < len(manager._book):
        record.violated(name, "a lease is out that has no place")
    if router.waiting > tasks:
        record.violated(name, f"{router.waiting} wait, and there are {tasks} tasks")
    for request in router._waiters._queues:
        for candidates in router._passes[request]:
            for node in candidates:
                if node.free:
                    record.violated(name, f"somebody waits for a {request}, and {node} has room")


def check_permits(manager: SimulatedManager, record: Record) -> None:
    """Check that each lease has a permit, and that admission, which has room, refused none."""
    load, name = manager._load.measure(), manager.driver.knowledge.name
    gates = [gate for gate in (load.admission, load.replica_admission) if gate is not None]
    if gates and sum(gate.in_use for gate in gates) < len(manager._book):
        record.violated(name, "a lease is out that has no permit")
    if any(gate.refusals or gate.timeouts for gate in gates):
        record.violated(name, "admission has refused somebody")


def check_quiet(manager: SimulatedManager, record: Record, cluster: Cluster) -> None:
    """Check that everything was given back, and that the cluster is known as it really is."""
    name, metrics = manager.driver.knowledge.name, manager.metrics()
    left = {
        "waiting": metrics.waiting,
        "in flight": sum(node.in_flight for node in metrics.nodes),
        "leases": len(manager._book),
        "lent": sum(len(pool.lent) for pool in manager.driver.pools),
        "permits": sum(x.in_use for x in (metrics.admission, metrics.replica_admission) if x),
        "warm-ups": len(manager._routing.warm_ups.tasks()),
        "openings": len(manager._routing.openings.tasks()),
        "releases": len(manager._returns._cancelled._tasks),
    }
    if any(left.values()):
        record.violated(name, f"not all is back: {left}")
    for node in metrics.nodes:
        server = cluster.servers[node.host]
        known = (node.role.value, node.health.value, node.exclusion)
        if known != ("master" if server.master else "replica", "up", None):
            record.violated(name, f"{server} is known as {known}")
    if (manager.master_pool_count, manager.replica_pool_count) != (1, len(cluster.all) - 1):
        record.violated(name, f"not all hosts are in routing: {manager!r}")


def check_closed(record: Record, cluster: Cluster, others: set[asyncio.Task[Any]]) -> None:
    """Check that nothing is left of any manager: no connection, no task, no timer."""
    loop: Any = asyncio.get_running_loop()
    for server in cluster.all:
        if server.connections:
            record.violated(server, f"{len(server.connections)} connections were left open")
    if tasks := asyncio.all_tasks() - others:
        record.violated("the end", f"tasks are left: {sorted(map(repr, tasks))}")
    if timers := [timer for timer in loop._scheduled if not timer.cancelled()]:
        record.violated("the end", f"timers are left: {sorted(map(repr, timers))}")


def weight(manager: SimulatedManager) -> int:
    """Count what a manager holds: attributes of its objects, and elements of its containers."""
    seen: set[int] = set()
    left: list[Any] = [manager]
    total = 0
    while left:
        each = left.pop()
        inside = [] if id(each) in seen else _inside(each)
        seen.add(id(each))
        total += len(inside)
        left += inside
    return total


def _inside(each: Any) -> list[Any]:
    if isinstance(each, Mapping):
        return [*each.keys(), *each.values()]
    if isinstance(each, (list, tuple, set, frozenset, deque)):
        return list(each)
    if isinstance(each, MethodType):
        return [each.__self__]
    if isinstance(each, partial):
        return [each.func, each.args]
    if isinstance(each, type) or not type(each).__module__.startswith(_WALKED):
        return []
    slots = [x for kind in type(each).__mro__ for x in getattr(kind, "__slots__", ())]
    return [
        *(getattr(each, x) for x in slots if hasattr(each, x)),
        *getattr(each, "__dict__", {}).values(),
    ]
