"""The topology: the immutable picture of all nodes, and the one step that replaces it.

`Topology.observe` takes what one probe said, and returns the next topology and the I/O that the
change calls for. It does no I/O itself and never waits.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from hasql.cluster.discovered import Discovered
from hasql.cluster.fencing import SeenClusters, judge
from hasql.cluster.host import HostSpec
from hasql.cluster.lineage import keep_newest_followed, with_switch
from hasql.cluster.probe import Reading, Role
from hasql.cluster.state import Exclusion, Health, NodeState, Rules

__all__ = (
    "AbortLeases",
    "Answered",
    "Changed",
    "Effect",
    "Failed",
    "FirstRoundOver",
    "Observation",
    "Probe",
    "Purge",
    "Quiet",
    "Step",
    "Topology",
)


@dataclass(frozen=True, slots=True)
class Answered:
    """A probe was answered."""

    host: HostSpec
    began: float
    at: float
    reading: Reading
    #: Over a new connection, while the old one stayed silent: others as old may be lost, too.
    afresh: bool = False
    #: Over a new connection that leads to another server than the old one, which is still alive.
    elsewhere: bool = False
    #: Median round trip of the last probes in seconds.
    response_time: float | None = None
    #: It came through a pooler: the process that answered is not the one that the login named.
    pooled: bool = False
    #: The host's `in_hot_standby` was found to contradict SQL: a pooler answers from memory.
    flag_unreliable: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A probe failed, or was not answered in time."""

    host: HostSpec
    began: float
    at: float
    error: BaseException
    #: The host refused the login or the database name: waiting cannot cure that.
    refused: bool = False
    #: The server itself answered that it accepts no connection now: it may serve the open ones.
    known_alive: bool = False
    #: A pooler let us in, and then there was no answer: connections in use are left to the pooler.
    login_accepted: bool = False


@dataclass(frozen=True, slots=True)
class Quiet:
    """A probe has been waiting for its answer for longer than this host ever takes."""

    host: HostSpec
    at: float


@dataclass(frozen=True, slots=True)
class FirstRoundOver:
    """The hosts that have not answered yet are no longer waited for."""

    at: float


#: Seconds by which a server may seem to have started earlier than it did, when its clock is set.
_SLACK = 0.1

Observation = Answered | Failed | Quiet | FirstRoundOver


@dataclass(frozen=True, slots=True)
class Purge:
    """Close the idle connections of this node's pool, and let no older one be used again."""

    host: HostSpec


@dataclass(frozen=True, slots=True)
class AbortLeases:
    """Break the connections that the application holds on this node."""

    host: HostSpec
    #: If the node's name leads to several servers: the server to spare. Leases on others that write
    #: are aborted.
    spared_server: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """Probe all nodes often from now on: something has changed."""

    #: The host that has gone, gone quiet, or come back unchanged, which may happen again and again.
    #: None: a host has changed its role, or is fenced.
    host: HostSpec | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A node's health, role or exclusion has changed."""

    before: NodeState
    after: NodeState


Effect = Purge | AbortLeases | Probe | Changed


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one observation: the next topology and the I/O to do for it."""

    topology: "Topology"
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True)
class Topology:
    """What is known of all nodes at one moment."""

    nodes: tuple[NodeState, ...]
    rules: Rules = field(default_factory=Rules)
    seen: SeenClusters = field(default_factory=SeenClusters)
    #: Whether every host has had its chance to answer. Until then no host serves: a manager that
    #: has met one of two masters cannot know which is the right one.
    first_round_over: bool = False

    @classmethod
    def of(cls, hosts: Sequence[HostSpec], now: float, rules: Rules | None = None) -> "Topology":
        """Make the topology of hosts of which nothing is known yet."""
        return cls(tuple(NodeState(host, since=now) for host in hosts), rules or Rules())

    @cached_property
    def masters(self) -> tuple[NodeState, ...]:
        """The masters in routing, in the order of the hosts."""
        return self._in_routing(Role.MASTER)

    @cached_property
    def replicas(self) -> tuple[NodeState, ...]:
        """The replicas in routing, in the order of the hosts."""
        return self._in_routing(Role.REPLICA)

    def _in_routing(self, role: Role) -> tuple[NodeState, ...]:
        if not self.first_round_over:
            return ()
        return tuple(node for node in self.nodes if node.role is role and node.exclusion is None)

    def node(self, host: HostSpec) -> NodeState | None:
        """Return the node of this host; None: it is not one of the cluster's hosts."""
        return next((node for node in self.nodes if node.host == host), None)

    def observe(self, observation: Observation) -> Step:
        """Take in one observation. An observation older than what is known changes nothing."""
        if isinstance(observation, FirstRoundOver):
            return self._judge(self.nodes, self.seen, observation.at, over=True)
        before = self.node(observation.host)
        after = before and _observed(before, observation)
        if before is None or after is None:
            return Step(self)
        nodes = tuple(after if node is before else node for node in self.nodes)
        seen = self.seen
        if isinstance(observation, Answered) and after.system_id == seen.cluster:
            seen = replace(seen, cluster_seen=observation.at)
        # A host of another cluster is judged on every answer: the cluster may have been upgraded.
        foreign = after.exclusion is Exclusion.FOREIGN
        if (
            self.first_round_over
            and _routing_facts(before) == _routing_facts(after)
            and not foreign
        ):
            step = Step(replace(self, nodes=nodes, seen=seen))
        else:
            if isinstance(observation, Answered):
                last = before.reading
                known = with_switch(seen.switches, before.host, observation.reading, last)
                seen = replace(seen, switches=known)
            step = self._judge(nodes, seen, observation.at)
        breaks = _breaks(step.topology, observation, before)
        return Step(step.topology, (*step.effects, *breaks)) if breaks else step

    def with_hosts(self, hosts: Sequence[Discovered], now: float) -> Step:
        """Take hosts in; those that stay keep all that is known of them.

        The others come last, and leave: they are judged like all nodes until `without` takes them
        out.
        """
        known = {node.host: node for node in self.nodes}
        nodes = [
            replace(
                known.get(found.host) or NodeState(found.host, since=now),
                never_master=found.never_master,
                never_replica=found.never_replica,
                leaving=False,
            )
            for found in hosts
        ]
        named = {found.host for found in hosts}
        nodes += [replace(node, leaving=True) for node in self.nodes if node.host not in named]
        return self._judge(tuple(nodes), self.seen, now)

    def without(self, gone: Collection[HostSpec], now: float) -> Step:
        """Take out hosts that have left."""
        nodes = tuple(node for node in self.nodes if node.host not in gone)
        return self._judge(nodes, self.seen, now)

    def without_seen_timelines(self, now: float) -> Step:
        """Forget which timelines were seen, so that an older one may win again."""
        serving = {node.host for node in self.masters}
        incumbents = {
            cluster: node for cluster, node in self.seen.incumbents.items() if node.host in serving
        }
        seen = replace(self.seen, timelines={}, incumbents=incumbents, losers={}, switches={})
        return self._judge(self.nodes, seen, now)

    def _judge(
        self, nodes: tuple[NodeState, ...], seen: SeenClusters, now: float, *, over: bool = False
    ) -> Step:
        """Judge which of these nodes may serve, and find what has to be done about it."""
        all_reported = nodes and all(node.health is not Health.STARTING for node in nodes)
        over = bool(over or self.first_round_over or all_reported)
        if over:
            verdict = judge(nodes, seen, self.rules, now)
            seen = verdict.seen
            nodes = tuple(
                node if node.exclusion is why else replace(node, exclusion=why)
                for node, why in zip(nodes, verdict.exclusions, strict=True)
            )
        effects: list[Effect] = []
        dated = []
        known = {node.host: node for node in self.nodes}  # there may be hundreds
        for node in nodes:
            before = known.get(node.host)
            if before is not None and _routing_facts(before) != _routing_facts(node):
                node = replace(node, since=now)  # noqa: PLW2901  # the same node, dated
                effects += _effects(before, node)
            dated.append(node)
        topology = Topology(tuple(dated), self.rules, seen, over)
        return Step(topology, tuple(effects))


def _observed(node: NodeState, observation: Answered | Failed | Quiet) -> NodeState | None:
    """Return the node after the observation; None: that says nothing new."""
    match observation:
        case Quiet(at=at):
            if node.health is not Health.UP or at < node.began:
                return None
            return replace(node, health=Health.SUSPECT)
        case _ if observation.began < node.began:
            return None
        case Answered(began=began, at=at, reading=reading):
            return replace(
                node,
                health=Health.UP,
                reading=keep_newest_followed(reading, node.reading),
                began=began,
                answered_at=at,
                silent_since=None,
                refused=False,
                known_alive=False,
                several_servers=node.several_servers or _leads_elsewhere(node, observation),
            )
        case Failed(began=began, error=error, refused=refused, login_accepted=login_accepted):
            alive = observation.known_alive and node.answers
            return replace(
                node,
                health=Health.SUSPECT if alive else Health.DOWN,
                began=began,
                answered_at=observation.at if alive else node.answered_at,
                silent_since=None if alive or login_accepted else node.silent_since or began,
                error=error,
                refused=refused,
                known_alive=alive and not login_accepted,
            )


def _leads_elsewhere(node: NodeState, observation: Answered) -> bool:
    """Tell whether the host's name now leads to another server besides the one before.

    A server that was already running when the one before last answered is not that one restarted.
    """
    before, reading = node.reading, observation.reading
    if observation.elsewhere:
        return True
    if before is None or node.answered_at is None or not _differ(before, reading):
        return False
    since = observation.at - node.answered_at
    return reading.uptime is not None and reading.uptime > since + _SLACK


def _differ(before: Reading, after: Reading) -> bool:
    """Tell whether two answers come from two servers, or from one that has restarted since."""
    starts = before.started_at, after.started_at
    return None not in starts and starts[0] != starts[1]


def _routing_facts(node: NodeState) -> tuple[object, ...]:
    """Return all of a node that decides who may serve: while it is equal, nothing has changed."""
    reading = node.reading
    return (
        node.health,
        node.role,
        node.exclusion,
        reading and (reading.system_id, reading.started_at, reading.timeline),
    )


def _effects(before: NodeState, after: NodeState) -> list[Effect]:
    effects: list[Effect] = []
    if _routing_facts(before)[:3] != _routing_facts(after)[:3]:
        effects.append(Changed(before, after))
    restarted = (
        before.reading is not None
        and after.reading is not None
        and _differ(before.reading, after.reading)
    )
    if after.several_servers and before.role is after.role is Role.REPLICA:
        restarted = False  # its monitor has met another of several replicas, and each may serve
    gone = after.health is Health.DOWN and before.answers
    excluded = after.exclusion is not None and before.exclusion is None
    if restarted or gone or excluded:
        effects.append(Purge(after.host))
    known = before.health is not Health.STARTING
    fenced = excluded and after.exclusion is Exclusion.FENCED
    # At this very moment another host may be replacing a master that has gone quiet.
    quiet = after.health is Health.SUSPECT and after.role is Role.MASTER
    if known and (fenced or _last_role(before) is not _last_role(after)):
        effects.append(Probe())
    elif gone or (known and (quiet or after.role is not before.role)):
        effects.append(Probe(after.host))
    return effects


def _last_role(node: NodeState) -> Role | None:
    return node.reading.role if node.reading is not None else None


def _breaks(
    topology: Topology, observation: Answered | Failed | Quiet, before: NodeState
) -> tuple[Purge | AbortLeases, ...]:
    """Find the hosts whose leases must not live on, or whose connections may be lost.

    Leases of a fenced master are aborted on each direct answer of the master that replaced it, and
    not because of what is merely remembered. So are those of a host that was silent for too long.
    """
    if isinstance(observation, Answered):
        purge = (Purge(observation.host),) if observation.afresh else ()
        winner = next((node for node in topology.masters if node.host == observation.host), None)
        if winner is None:
            return purge
        return purge + tuple(
            AbortLeases(node.host, winner.server if node.several_servers else None)
            for node in topology.nodes
            if node.system_id == winner.system_id
            and (
                node.exclusion is Exclusion.FENCED
                or (node is winner and _may_replace(node, before))
            )
        )
    limit = topology.rules.lease_abort_after
    node = topology.node(observation.host)
    if not isinstance(observation, Failed) or limit is None or node is None:
        return ()
    # Judged by when the probes began: if this process stalls, they begin late, and the host was
    # not silent.
    silent = node.silent_since is not None and observation.began >= node.silent_since + limit
    return (AbortLeases(node.host),) if silent else ()


def _may_replace(winner: NodeState, before: NodeState) -> bool:
    """Tell whether the host's name has come to lead to a master, and still leads to others, too.

    A server that the name led to before may be the master that this one replaced, several moves
    ago.
    """
    return (winner.several_servers and winner.server is not None) and (
        before.role is not winner.role
        or before.server != winner.server
        or before.timeline != winner.timeline
    )
