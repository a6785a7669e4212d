"""The routing state: applies the changes of the topology, and of pools, to the routing."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.breaking import leave_addresses, purge
from hasql._leasing.hints import Hints
from hasql._leasing.lease_tracing import tell_of_probe
from hasql._leasing.loop_binding import LoopBinding
from hasql._manager.guarded import guarded, log_soon, soon
from hasql._manager.notifier import Notifier
from hasql._manager.options import Options
from hasql._probing.followed_names import FollowedNames
from hasql._probing.monitors import Monitors
from hasql._routing.node import Node
from hasql._routing.observations import HostWarm, PoolOpened, PoolRefused, RoutingObservation
from hasql._routing.offered import offered, with_pools
from hasql._routing.pool_openings import PoolOpenings
from hasql._routing.router import Router
from hasql._routing.warm_up import WarmUps
from hasql.cluster.discovered import Discovered
from hasql.cluster.host import HostSpec
from hasql.cluster.lag import lag_of, written_by_masters
from hasql.cluster.state import Health, NodeState
from hasql.cluster.topology import (
    AbortLeases,
    Answered,
    Changed,
    Failed,
    Observation,
    Probe,
    Purge,
    Step,
    Topology,
)
from hasql.diagnostics import counted
from hasql.driver import ConnT, Driver, DriverPool, PoolSizes, PoolT
from hasql.driver.kept_errors import without_frames
from hasql.driver.outside_calls import call_outside
from hasql.resilience.connection_ages import with_pool_limits

if TYPE_CHECKING:
    from hasql.tracing import Tracer

__all__ = ("RoutingState",)

log = logging.getLogger("hasql")


class RoutingState(Generic[PoolT, ConnT]):
    """Holds the topology and the nodes, and does the I/O that changes call for.

    Everything that is learnt arrives in `publish` or `observe`. Every change goes through `_apply`:
    nothing else replaces the topology or routes.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        driver: Driver[PoolT, ConnT],
        options: Options,
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        binding: LoopBinding,
        guard: AbstractContextManager[object],
    ) -> None:
        #: Held while anything that threads share changes.
        self.guard = guard
        self._options = options
        self._clock = options.clock
        self._router = router
        self._book = book
        self._binding = binding
        #: The arguments of the pools.
        lifecycle = options.resilience.lifecycle
        self.pool_kwargs = with_pool_limits(options.pool_factory_kwargs, lifecycle, driver.ages)
        self._sizes = driver.sizes(self.pool_kwargs)
        self.topology = Topology.of((), 0.0, options.rules)
        self.nodes: dict[HostSpec, Node[PoolT, ConnT]] = {}
        #: Nodes in routing with their pools open, suspects included.
        self.masters: list[Node[PoolT, ConnT]] = []
        self.replicas: list[Node[PoolT, ConnT]] = []
        self.notifier = Notifier(options.hide)
        self.monitors = Monitors(driver, options.for_probing(), self)
        #: None: names are left to the driver.
        self.names: FollowedNames | None = None
        if options.name_source is not None:
            source, probing = options.name_source, options.for_probing()
            self.names = FollowedNames(source, probing, self.follow_name)
        self.hints = Hints(driver, book, self.monitors.signal)
        self.warm_ups: WarmUps[PoolT, ConnT] = WarmUps(router, options.hide, self.observe)
        self.openings: PoolOpenings[PoolT, ConnT] = PoolOpenings(
            driver,
            self.pool_kwargs,
            options.refresh_delay,
            options.clock,
            self.observe,
            self.hints.note_error,
            self.monitors.probe_by,
        )
        #: Called when anything has been learnt.
        self.on_change: Callable[[], None] = _ignore
        #: Called with whether a master is known, after the first round and on each change.
        self.on_masters: Callable[[bool], None] = _ignore
        self._masters_known: bool | None = None
        self.on_master: Callable[[float | None], None] = _ignore  # see `LoadControl.master_seen`
        #: Called with a node whose host has left, once it is out of routing.
        self.on_gone: Callable[[Node[PoolT, ConnT]], None] = _ignore
        #: Called with a node whose pool has opened.
        self.on_pool_opened: Callable[[Node[PoolT, ConnT], Any], None] = _ignore
        self._some_leaving = False
        self.tracer: Tracer | None = None
        #: Whether acquires may still be served: not once the manager is closing.
        self.serves = True
        #: Whether anything may still be learnt: not once the manager is closed.
        self.learns = True

    # What monitors see; see `ClusterView`

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, in which all of this belongs to its parent."""
        return self._binding.inherited

    def in_use(self, host: HostSpec) -> tuple[object, ...]:
        """Return the leases in use on a host."""
        node = self.nodes.get(host)
        return () if node is None else self._book.out(node)

    def terminate_pools(self, host: HostSpec) -> None:
        """Break what is open on a host: its monitor was cancelled from outside of hasql."""
        node = self.nodes.get(host)
        for pool in () if node is None else node.pools:
            pool.terminate()

    # What is learnt

    @guarded
    def publish(self, observation: Observation) -> None:
        """Take in the outcome of a probe, and act on it."""
        if not self.learns:
            return
        over = self.topology.first_round_over
        step = self.topology.observe(observation)
        if isinstance(observation, Answered) and (state := step.topology.node(observation.host)):
            lag = lag_of(state, written_by_masters(step.topology).get(state.system_id))[1]
            due = self.nodes[state.host].host_answered(observation, state, lag_seconds=lag)
            self.monitors.probe_by(state.host, due)
        elif isinstance(observation, Failed) and observation.host in self.nodes:
            self.nodes[observation.host].last_error = observation.error
        # A failing host may become suspect in another way, which no `Changed` effect tells.
        changed = isinstance(observation, Failed) or over != step.topology.first_round_over
        changed = changed or any(isinstance(effect, Changed) for effect in step.effects)
        self._apply(step, rerouted=changed)
        if isinstance(observation, Answered):
            self._prepare(observation.host)
            if (node := self.nodes.get(observation.host)) and node.as_master:  # it may have left
                self.on_master(observation.began)
        if (tracer := self.tracer) is not None and isinstance(observation, Answered | Failed):
            soon(call_outside, tell_of_probe, tracer, observation)

    @guarded
    def observe(self, observation: RoutingObservation) -> None:
        """Take in what has become of a host's pool, and act on it."""
        node = self.nodes.get(observation.host)
        if node is None or not self.learns:
            return
        state = self.topology.node(node.host)
        match observation:
            case PoolOpened(pool=pool):
                node.pool = pool
                leave_addresses(node, self._book)  # its name may have moved meanwhile
                self.on_pool_opened(node, pool)
                self._apply(Step(self.topology), rerouted=True)
            case HostWarm():
                if self._is_wanted(node.host) and (state is None or state.answers):
                    node.cold = False
                self._apply(Step(self.topology), rerouted=True)
            case PoolRefused(error=error):
                now, kept = self._clock(), without_frames(error)
                began = now if state is None else state.began
                self.publish(Failed(node.host, began, now, kept, refused=True, known_alive=True))

    def _prepare(self, host: HostSpec) -> None:
        """Let a host that answers open its pool, or a first connection if it is back."""
        node = self.nodes.get(host)
        if node is None or not self._is_wanted(host):
            return
        if node.pool is None:
            self.openings.host_answered(node)
        elif node.cold:
            self.warm_ups.begin(node)

    def _is_wanted(self, host: HostSpec) -> bool:
        """Tell whether a host should have a pool: all should, except those that may not serve."""
        state = self.topology.node(host)
        return self.serves and (state is None or state.may_serve_later)

    @guarded
    def accept_timeline(self) -> None:
        """Forget the timelines seen so far; an older master may win again."""
        self._apply(self.topology.without_seen_timelines(self._clock()), rerouted=True)
        self.monitors.probe_often()

    # Hosts that come and go

    @guarded
    def set_hosts(self, hosts: tuple[Discovered, ...]) -> None:
        """Take hosts in. The others leave: they serve as long as no other host can, then end."""
        step = self.topology.with_hosts(hosts, self._clock())
        found = {each.host: each for each in hosts}
        nodes: dict[HostSpec, Node[PoolT, ConnT]] = {}
        for position, state in enumerate(step.topology.nodes):
            node = self.nodes.get(state.host)
            if node is None:
                node = self._node(state.host)
                log_soon(log.debug, "%s is a host now", node.host, "host_new")
            if state.leaving:
                node.position = position
            else:
                node.note_discovered(found[state.host], position)
            nodes[state.host] = node
        self.nodes, self._some_leaving = nodes, len(nodes) > len(hosts)
        self._apply(step, rerouted=True)
        for node in self.nodes.values():
            if self.names is not None:
                self.names.begin(node.endpoint)
            self.monitors.begin(node.endpoint)

    def _remove_gone_hosts(self) -> None:
        """Let go of the hosts that leave, each once its leases have ended."""
        gone = {
            state.host: self.nodes[state.host]
            for state in self.topology.nodes
            if state.may_go and not self.nodes[state.host].lends
        }
        if not gone:
            return
        self.nodes = {host: node for host, node in self.nodes.items() if host not in gone}
        self._some_leaving = any(x.leaving and x.host not in gone for x in self.topology.nodes)
        for node in gone.values():
            node.in_routing = node.as_master = node.as_replica = False
            self.on_gone(node)
        self._apply(self.topology.without(gone, self._clock()), rerouted=True)

    def _node(self, host: HostSpec) -> Node[PoolT, ConnT]:
        return Node(self._options.endpoint(host), 0, self._sizes, self._clock)

    # Pools that are resized; see `Resizing`

    def set_sizes(self, kwargs: Mapping[str, Any], sizes: PoolSizes) -> None:
        """Use these arguments for the pools of hosts to come."""
        self.pool_kwargs = self.openings.kwargs = kwargs
        self._sizes = sizes

    def reopen(self, node: Node[PoolT, ConnT]) -> None:
        """Give up the opening of a pool with the former arguments, and begin anew."""
        if self.openings.cancel(node):
            self._prepare(node.host)

    def has(self, node: Node[PoolT, ConnT]) -> bool:
        """Tell whether a node is still one of the nodes."""
        return self.learns and self.nodes.get(node.host) is node

    def all_nodes(self) -> list[Node[PoolT, ConnT]]:
        """Return all nodes, including those that other nodes have replaced but that still lend."""
        nodes = list(self.nodes.values())
        return nodes + [each.former for node in nodes for each in node.successions]

    def replace(
        self,
        node: Node[PoolT, ConnT],
        successor: Node[PoolT, ConnT],
        pool: DriverPool[PoolT, ConnT],
    ) -> None:
        """Put another node, with its pool, in the place of a node."""
        self.nodes[node.host] = successor
        self.on_pool_opened(successor, pool)
        successor.in_routing, node.in_routing = node.in_routing, False
        node.as_master = node.as_replica = False
        self._apply(Step(self.topology), rerouted=True)

    @guarded
    def follow_name(self, host: HostSpec, lead: Callable[[], bool]) -> None:
        """Call `lead`, so that connects go where a host's name leads now; leave its old address.

        In one step, so that no connection to the new address is lent before a probe has answered.
        """
        left = lead()
        if (node := self.nodes.get(host)) is not None and self.learns:
            moved = self.monitors.leave_if_moved(host)
            leave_addresses(node, self._book, left=left, moved=moved)
            if left or moved:
                self.reopen(node)

    @guarded
    def stop_serving(self) -> None:
        """Route to no host any more."""
        self.serves = False
        self.warm_ups.end()
        self.masters, self.replicas = [], []
        self._router.close()
        self.on_change()

    def stop_learning(self) -> None:
        """Leave what is known as it is, and wake everyone who waits for more."""
        self.learns = False
        self.on_change()

    # What changes call for

    def _apply(self, step: Step, *, rerouted: bool) -> None:
        """Swap the topology whole, then do what the change calls for.

        A node that must not serve is out of routing before its connections are broken. Waiters are
        served last, when nothing stale is left that could be handed to them.
        """
        self.topology = step.topology
        if rerouted:
            self._reroute()
            self._note_masters()
        for effect in step.effects:
            match effect:
                case Probe(host=host):
                    self.monitors.probe_often(host)
                case Changed(before=before, after=after):
                    self._note(before, after)
                case Purge(host=host) | AbortLeases(host=host):
                    self._break(self.nodes[host], effect)
        self._router.dispatch()
        if self._some_leaving:
            self._remove_gone_hosts()
        self.on_change()

    def _break(self, node: Node[PoolT, ConnT], effect: Purge | AbortLeases) -> None:
        if isinstance(effect, Purge):
            purge(node, self._book)
            self.openings.give_up(node)  # a pool that is being opened is from before, too
        elif aborted := self._book.abort(node, spared_server=effect.spared_server):
            leases = counted(aborted, "lease")
            log_soon(log.warning, "%s: %s aborted", node.host, "leases_aborted", leases)

    def _note(self, before: NodeState, after: NodeState) -> None:
        """Report a change; let no acquire wait for a connect to a host that has gone quiet."""
        self.notifier.announce(before, after)
        if self.names is not None:
            self.names.note_host(after.host, answers=after.health is Health.UP)
        node = self.nodes[after.host]
        if after.health is Health.SUSPECT and node.pool is not None:
            log_soon(log.debug, "%s has gone quiet", after.host, "host_quiet")
            node.pool.end_connects()  # acquires that wait for one may go elsewhere

    def _note_masters(self) -> None:
        known = bool(self.topology.masters)
        told = self.topology.first_round_over or not self.topology.nodes
        if self.serves and told and known is not self._masters_known:
            self._masters_known = known
            self.on_masters(known)
            if self.names is not None:
                self.names.note_masters(known)

    # Routing

    def _reroute(self) -> None:
        if not self.serves:
            return
        self.masters = with_pools(self.topology.masters, self.nodes)
        self.replicas = with_pools(self.topology.replicas, self.nodes)
        offer = offered(self.masters, self.replicas, self.topology.nodes)
        serving = {*self.masters, *self.replicas}
        as_masters, as_replicas = {*offer.masters}, {*offer.replicas}
        for node in self.nodes.values():
            in_routing = node in serving
            if in_routing and not node.in_routing:
                self._admit(node)
            node.cold = node.cold and not in_routing
            if node.in_routing and not in_routing:
                node.mark_cold()
            node.in_routing = in_routing
            was_master = node.as_master
            node.as_master, node.as_replica = node in as_masters, node in as_replicas
            if node.as_master and not was_master:
                node.end_hold()  # it was held because it might be a master
                self.on_master(None)
        self._router.route(*offer)

    def _admit(self, node: Node[PoolT, ConnT]) -> None:
        """Offer all places of a node that is in routing again."""
        node.end_hold()
        node.offer_all()
        # End connects begun while the host did not answer, unless a warm-up has ended them already.
        warmed = not node.cold and node.sizes.minimum == 0
        if node.pool is not None and not (warmed or self.warm_ups.is_under_way(node)):
            node.pool.end_connects()


def _ignore(*_told: object) -> None:
    pass  # stands in for a listener
