"""Which nodes of a role are offered to acquires."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple

from hasql._routing.node import Node
from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Health, NodeState
from hasql.driver import ConnT, PoolT

__all__ = ("Offer", "offered", "with_pools")


def with_pools(
    states: Iterable[NodeState], nodes: Mapping[HostSpec, Node[PoolT, ConnT]]
) -> list[Node[PoolT, ConnT]]:
    """Leave out nodes without a pool; and cold nodes, for a moment, if others can serve.

    A host that has just started takes its time for the first login. A policy that goes by load
    would make every acquire wait for that, because no connection is in use there yet.
    """
    of_role = [(state, nodes[state.host]) for state in states]
    served = any(
        state.health is Health.UP and node.pool is not None and not node.cold
        for state, node in of_role
    )
    return [node for _, node in of_role if node.pool is not None and not (node.cold and served)]


class Offer(NamedTuple, Generic[PoolT, ConnT]):
    """The nodes that are offered to acquires: the arguments of `Router.route`."""

    masters: Sequence[Node[PoolT, ConnT]]
    replicas: Sequence[Node[PoolT, ConnT]]
    #: The roles that have no host, or only suspect ones.
    doubtful: Collection[Role] = ()
    #: Those of the nodes that are used only while no other has room.
    last: Collection[Node[PoolT, ConnT]] = ()


def offered(
    masters: list[Node[PoolT, ConnT]],
    replicas: list[Node[PoolT, ConnT]],
    states: Iterable[NodeState],
) -> Offer[PoolT, ConnT]:
    """Leave out suspects as long as others can serve, except those that are known to live.

    A suspect that is known to live admits no login, but it serves from its open connections. That
    is better than waiting for other hosts that have no room. A silent suspect would have to be
    waited for, too.
    """
    up: set[HostSpec] = set()
    alive: set[HostSpec] = set()
    for state in states:
        if state.health is Health.UP:
            up.add(state.host)
        elif state.known_alive:
            alive.add(state.host)
    of_role = {Role.MASTER: masters, Role.REPLICA: replicas}
    doubtful: set[Role] = set()
    last: set[Node[PoolT, ConnT]] = set()
    for role, nodes in of_role.items():
        if not any(node.host in up for node in nodes):
            doubtful.add(role)
            continue
        of_role[role] = [node for node in nodes if node.host in up or node.host in alive]
        last |= {node for node in of_role[role] if node.host not in up}
    return Offer(of_role[Role.MASTER], of_role[Role.REPLICA], doubtful, last)
