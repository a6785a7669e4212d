"""Which nodes of a role are offered to acquires."""

from collections.abc import Collection, Iterable, Mapping

from hasql._routing.node import Node
from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Health, NodeState
from hasql.driver import ConnT, PoolT

__all__ = ("doubtful_roles", "preferred", "with_pools")


def with_pools(
    states: Iterable[NodeState], nodes: Mapping[HostSpec, Node[PoolT, ConnT]]
) -> list[Node[PoolT, ConnT]]:
    """Leave out those without a pool; and cold ones, for a moment, if others can serve.

    A host that has just started takes its time for a first login. A policy that goes by load would
    have all wait for that, as nothing is in use there yet.
    """
    of_role = [(state, nodes[state.host]) for state in states]
    served = any(
        state.health is Health.UP and node.pool is not None and not node.cold
        for state, node in of_role
    )
    return [node for _, node in of_role if node.pool is not None and not (node.cold and served)]


def preferred(
    nodes: list[Node[PoolT, ConnT]], up: Collection[HostSpec]
) -> list[Node[PoolT, ConnT]]:
    """Leave suspects out as long as others can serve."""
    return [node for node in nodes if node.host in up] or nodes


def doubtful_roles(
    masters: Iterable[Node[PoolT, ConnT]],
    replicas: Iterable[Node[PoolT, ConnT]],
    up: Collection[HostSpec],
) -> set[Role]:
    """Return the roles of which every host is suspect, or there is none."""
    of_role = {Role.MASTER: masters, Role.REPLICA: replicas}
    return {role for role, nodes in of_role.items() if not any(node.host in up for node in nodes)}
