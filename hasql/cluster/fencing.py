"""Fencing: which of several masters is the master, and which hosts must not serve at all.

Pure functions over what all nodes last said. A standby that is promoted starts a new timeline,
higher than that of its old master. So the cluster went on with the master that has the highest
timeline, and whatever the other masters still acknowledge will be lost.
https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hasql.cluster.lineage import Switch
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health, NodeState, Rules

__all__ = ("SeenClusters", "Verdict", "judge")

#: Seconds that the pinned cluster has to be silent before another identifier may take its place.
_REPIN_AFTER = 30.0


@dataclass(frozen=True, slots=True)
class SeenClusters:
    """What a manager remembers of the clusters it has seen, for its whole life."""

    #: The system identifier that nodes must have; None until the first round is over.
    cluster: int | None = None
    #: Whether every host had answered or failed by then; otherwise the votes are counted anew.
    cluster_is_final: bool = False
    #: When a node of that cluster last answered.
    cluster_seen: float = float("-inf")
    #: By system identifier: the highest timeline that a master was seen to write.
    timelines: Mapping[int, int] = field(default_factory=dict)
    #: By system identifier: the node that is, or last was, the elected master.
    incumbents: Mapping[int, NodeState] = field(default_factory=dict)
    #: By system identifier: nodes that were also seen to write the incumbent's timeline. They are
    #: remembered here, because a source of hosts may leave one out for a moment.
    losers: Mapping[int, tuple[NodeState, ...]] = field(default_factory=dict)
    #: By system identifier: where its timelines began, as far as that was seen.
    switches: Mapping[int, tuple[Switch, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which nodes may not serve and why, by position, and what has to be remembered."""

    exclusions: tuple[Exclusion | None, ...]
    seen: SeenClusters


def judge(nodes: Sequence[NodeState], seen: SeenClusters, rules: Rules, now: float) -> Verdict:
    """Judge all nodes anew, with what was seen before; equal input gives an equal verdict."""
    seen = _pin(nodes, seen, rules, now)
    exclusions = _own_exclusions(nodes, seen, rules)
    if rules.fencing:
        seen = _fence(nodes, exclusions, seen)
    _exclude_leaving(nodes, exclusions)
    return Verdict(tuple(exclusions), seen)


def _fence(
    nodes: Sequence[NodeState], exclusions: list[Exclusion | None], seen: SeenClusters
) -> SeenClusters:
    """Choose the master of each cluster, and return what has to be remembered of that."""
    clusters = {node.system_id for node in nodes if node.system_id is not None}
    for cluster in clusters:
        contenders = [
            i
            for i, node in enumerate(nodes)
            if node.system_id == cluster
            and node.was_master
            and node.timeline is not None
            and exclusions[i] is None
        ]
        if contenders:
            seen = _elect(cluster, nodes, contenders, exclusions, seen)
    return seen


def _pin(nodes: Sequence[NodeState], seen: SeenClusters, rules: Rules, now: float) -> SeenClusters:
    """Fix the cluster that nodes must belong to: that of most nodes, ties by the order of hosts."""
    if rules.allow_several_clusters:
        return seen
    votes = Counter(node.system_id for node in nodes if node.answers and node.system_id is not None)
    # pg_upgrade gives a cluster a new identifier. Once the old cluster has been silent for long,
    # and just one other cluster answers, that one is the cluster now.
    gone = seen.cluster not in votes and now - seen.cluster_seen > _REPIN_AFTER and len(votes) == 1
    if not votes or (seen.cluster_is_final and not gone):
        return seen
    everybody = all(node.health is not Health.STARTING for node in nodes)
    cluster = votes.most_common(1)[0][0]
    return replace(seen, cluster=cluster, cluster_is_final=everybody, cluster_seen=now)


def _own_exclusions(
    nodes: Sequence[NodeState], seen: SeenClusters, rules: Rules
) -> list[Exclusion | None]:
    """Return why nodes may not serve, regardless of the other masters."""
    exclusions: list[Exclusion | None] = []
    servers: set[tuple[int, int]] = set()
    for node in nodes:
        server = node.server if node.answers else None
        if node.system_id is not None and seen.cluster not in {None, node.system_id}:
            exclusions.append(Exclusion.FOREIGN)
        elif node.was_master and (node.never_master or rules.forbids_master(node.host)):
            exclusions.append(Exclusion.NEVER_MASTER)
        elif node.was_replica and node.never_replica:
            exclusions.append(Exclusion.NEVER_REPLICA)
        elif server in servers and not (node.several_servers and node.role is Role.REPLICA):
            # A name that leads to several replicas is more than the one that its monitor sees.
            exclusions.append(Exclusion.LEAVING if node.leaving else Exclusion.ALIAS)
        else:
            exclusions.append(None)
        if server is not None:
            servers.add(server)
    return exclusions


def _exclude_leaving(nodes: Sequence[NodeState], exclusions: list[Exclusion | None]) -> None:
    """Exclude the hosts that leave, as soon as others serve in their place.

    A source that no longer names the master, or names only hosts that do not answer, may be wrong:
    until others serve, the probe counts for more than the source.
    """
    roles = {
        node.role
        for node, why in zip(nodes, exclusions, strict=True)
        if node.answers and why is None and not node.leaving
    }
    for i, node in enumerate(nodes):
        if not node.leaving or exclusions[i] is not None:
            continue
        replaced = Role.MASTER in roles or (roles and node.role is Role.REPLICA)
        if replaced or node.health is Health.DOWN:
            exclusions[i] = Exclusion.LEAVING


def _elect(
    cluster: int,
    nodes: Sequence[NodeState],
    contenders: Sequence[int],
    exclusions: list[Exclusion | None],
    seen: SeenClusters,
) -> SeenClusters:
    """Choose the master among the nodes that are masters, or were when they last answered."""
    live = [i for i in contenders if nodes[i].answers]
    top_before = seen.timelines.get(cluster, 0)
    top = max([top_before, *(nodes[i].timeline or 0 for i in live)])
    for i in contenders:
        if (nodes[i].timeline or 0) < top:
            exclusions[i] = Exclusion.FENCED
    leaders = [i for i in contenders if nodes[i].timeline == top]
    # Once two nodes were seen to write the same timeline, the one that was not chosen stays out
    # until the other is a replica, is gone from the hosts, or has been left behind by a new
    # timeline. If the other is only silent, that does not show that it has lost.
    lost = seen.losers.get(cluster, ()) if top == top_before else ()
    split = {i for i in leaders if len(leaders) > 1 and _is_among(lost, nodes[i])}
    free = [i for i in leaders if nodes[i].answers and i not in split]
    incumbent = seen.incumbents.get(cluster)
    chosen = [i for i in free if incumbent is not None and _is_same(nodes[i], incumbent)]
    if not chosen and len(free) == 1 and not split:
        chosen = free
    for i in leaders:
        if i in split or (i in free and i not in chosen):
            exclusions[i] = Exclusion.SPLIT
    if chosen:
        incumbent = nodes[chosen[0]]
    leading = [nodes[i] for i in leaders]
    losers = [each for each in lost if not _is_among(leading, each)]  # e.g. not named just now
    losers += [nodes[i] for i in leaders if exclusions[i] is Exclusion.SPLIT]
    return replace(
        seen,
        timelines={**seen.timelines, cluster: top},
        incumbents=seen.incumbents
        if incumbent is None
        else {**seen.incumbents, cluster: incumbent},
        losers={**seen.losers, cluster: tuple(losers)},
    )


def _is_same(node: NodeState, other: NodeState) -> bool:
    """Tell whether this is still the same server, restarted or under another of its names."""
    return node.host == other.host or (node.server is not None and node.server == other.server)


def _is_among(others: Sequence[NodeState], node: NodeState) -> bool:
    return any(_is_same(node, other) for other in others)
