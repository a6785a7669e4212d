"""The supervisor: starts, feeds and stops the nodes of one manager."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.hints import Hints
from hasql._manager.loop_binding import LoopBinding
from hasql._manager.notifier import Notifier
from hasql._manager.options import Options
from hasql._probing.monitors import Watch
from hasql._routing.node import Node
from hasql._routing.router import Router
from hasql._routing.warm_up import WarmUps
from hasql.cluster.dsn import HostSpec
from hasql.cluster.state import Health, NodeState
from hasql.cluster.topology import (
    AbortLeases,
    Answered,
    Changed,
    Failed,
    FirstRoundOver,
    Observation,
    Probe,
    Purge,
    Step,
    Topology,
)
from hasql.discovery import Discovery
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.errors import NotAvailableError, PoolManagerClosedError

__all__ = ("Supervisor",)

log = logging.getLogger("hasql")

#: Seconds a starting manager gives its hosts before it routes to the masters it has met.
_FIRST_ROUND = 0.1
#: Seconds in which pools say goodbye to their servers, however long the caller would wait.
_GOODBYE = 1.0


class Supervisor(Generic[PoolT, ConnT]):
    """Holds the topology and does the I/O that its changes call for.

    Everything that is learnt arrives in `publish`, and nothing else replaces the topology.
    """

    def __init__(
        self,
        driver: Driver[PoolT, ConnT],
        options: Options,
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
    ) -> None:
        self.driver = driver
        self.options = options
        self.router = router
        self.book = book
        self.sizes = driver.sizes(options.pool_factory_kwargs)
        self.topology = Topology.of((), 0.0, options.rules)
        self.nodes: dict[HostSpec, Node[PoolT, ConnT]] = {}
        self.closing = False
        self.closed = False
        self.notifier = Notifier(options.dsn.hide)
        self.binding = LoopBinding()
        #: Nodes in routing with their pools open, suspects included.
        self.masters: list[Node[PoolT, ConnT]] = []
        self.replicas: list[Node[PoolT, ConnT]] = []
        #: Those that could be routed to when routing was made last.
        self._routable: frozenset[Node[PoolT, ConnT]] = frozenset()
        self._watch: Watch[PoolT, ConnT] = Watch(driver, options, self, self._retired)
        #: The leases in use on a node.
        self.out = book.out
        #: Take note that something may have changed; and of an exception, which may hint at that.
        self.signal = self._watch.signal
        self.heard = Hints(driver, book, self.signal).heard
        self.is_cut_short = self._watch.is_cut_short
        self._discovering: asyncio.Task[None] | None = None
        self._warm_ups: WarmUps[PoolT, ConnT] = WarmUps(router, options.dsn.hide)
        self._terminating = False
        self._news: asyncio.Future[None] | None = None
        self._first_round: asyncio.TimerHandle | None = None

    @property
    def started(self) -> bool:
        """Whether it has begun to probe."""
        return self.binding.loop is not None

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, in which all of it is its parent's."""
        return self.binding.inherited

    def enter(self, discovery: Callable[[], Discovery]) -> asyncio.AbstractEventLoop:
        """Start unless started; called on every use, from the loop that uses it.

        Raises WrongEventLoopError, and PoolManagerClosedError once closing.
        """
        if self.closing and not self.binding.inherited:
            raise PoolManagerClosedError("the pool manager is closed")
        self.binding.check()
        loop = self.binding.loop
        if loop is None:
            loop = self.binding.bind()
            self._start(loop, discovery())
        return loop

    def _start(self, loop: asyncio.AbstractEventLoop, discovery: Discovery) -> None:
        self._set_hosts(self.options.dsn.hosts)
        self._first_round = loop.call_later(
            _FIRST_ROUND, lambda: self.publish(FirstRoundOver(monotonic()))
        )
        self._discovering = loop.create_task(self._discover(discovery))

    async def _discover(self, discovery: Discovery) -> None:
        try:
            async for hosts in discovery.watch():
                if hosts != tuple(self.nodes):
                    self._set_hosts(hosts)
        except Exception:
            log.exception("discovery has failed; the hosts stay as they are")

    def _set_hosts(self, hosts: tuple[HostSpec, ...]) -> None:
        """Take hosts in, and out once what they lent is back."""
        nodes: dict[HostSpec, Node[PoolT, ConnT]] = {}
        for position, host in enumerate(hosts):
            dsn, window = self.options.dsn.for_host(host), self.options.stopwatch_window_size
            node = self.nodes.get(host) or Node(host, dsn, position, self.sizes, window)
            node.position = position
            nodes[host] = node
        gone = [node for host, node in self.nodes.items() if host not in nodes]
        self.nodes = nodes
        self._apply(self.topology.with_hosts(hosts, monotonic()), rerouted=True)
        for node in gone:
            node.in_routing = node.as_master = node.as_replica = False
            self._watch.retire(node)
        for node in nodes.values():
            self._watch.begin(node)

    async def _retired(self, node: Node[PoolT, ConnT]) -> None:
        """Let what a node that is no host any more has lent come back.

        It has as long as it would have on a host that has gone silent.
        """
        try:
            async with asyncio.timeout(self.options.rules.lease_abort_after):
                while node.in_flight:
                    await self.router.next_vacancy()
        except TimeoutError:
            log.warning("%s, no host any more: %d leases aborted", node.host, self.book.abort(node))

    def is_urgent(self) -> bool:
        """Tell whether there is no master to go to."""
        return not self.topology.masters

    def is_wanted(self, host: HostSpec) -> bool:
        """Tell whether a node is to have a pool: all but those that may not serve."""
        return host in self.nodes and not (self.closing or self.is_excluded(host))

    def is_excluded(self, host: HostSpec) -> bool:
        """Tell whether a node may not serve, though it may answer."""
        state = self.topology.node(host)
        return state is not None and state.exclusion is not None

    async def warm_up(self, host: HostSpec) -> None:
        """Have a host that is back open a first connection, while others serve."""
        node = self.nodes[host]
        await self._warm_ups.run(node)
        if self.is_wanted(host):
            node.cold = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it was started in."""
        loop = self.binding.loop
        assert loop is not None  # noqa: S101  # only asked for once started
        return loop

    # What is learnt

    def publish(self, observation: Observation) -> None:
        """Take an observation in and act on it."""
        if self.closed:
            return
        over = self.topology.first_round_over
        step = self.topology.observe(observation)
        if isinstance(observation, Answered) and (state := step.topology.node(observation.host)):
            self.nodes[state.host].host_answered(observation.began, state)
        elif isinstance(observation, Failed) and observation.host in self.nodes:
            self.nodes[observation.host].last_error = observation.error
        changed = any(isinstance(effect, Changed) for effect in step.effects)
        changed = changed or over != step.topology.first_round_over
        self._apply(step, rerouted=changed or self._routable_now() != self._routable)

    def look_afresh(self, host: HostSpec) -> None:
        """Take note that connections to a host may lead to another server than its monitor's."""
        self._watch.look_afresh(host)

    def accept_timeline(self) -> None:
        """Forget the timelines seen so far; an older master may win again."""
        self._apply(self.topology.without_memory(monotonic()), rerouted=True)
        self._watch.follow()

    def _apply(self, step: Step, *, rerouted: bool) -> None:
        """Swap the topology whole, then do what the change calls for.

        Who must not serve is out of routing before its connections are broken, and those who
        wait are served last, when nothing stale is left to be handed to them.
        """
        self.topology = step.topology
        if rerouted:
            self._reroute()
        for effect in step.effects:
            match effect:
                case Probe(host=host):
                    self._watch.follow(host)
                case Changed(before=before, after=after):
                    self._note(before, after)
                case Purge(host=host) | AbortLeases(host=host):
                    self._break(self.nodes[host], effect)
        self.router.dispatch()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _break(self, node: Node[PoolT, ConnT], effect: Purge | AbortLeases) -> None:
        if isinstance(effect, Purge):
            lent = self.book.expire(node)
            if node.pool is not None:
                node.pool.purge(lent)
            if not node.in_routing:
                node.chill()
            self.book.abort(node, returning_only=True)
        elif aborted := self.book.abort(node, but_on=effect.but_on):
            log.warning("%s: %d leases aborted", node.host, aborted)

    def _reroute(self) -> None:
        if self.closing:
            return
        self.masters = self._ready(self.topology.masters)
        self.replicas = self._ready(self.topology.replicas)
        masters, replicas = self._preferred(self.masters), self._preferred(self.replicas)
        for node in self.nodes.values():
            in_routing = node in self.masters or node in self.replicas
            if in_routing and not node.in_routing:
                node.offer_all()
                # Those begun while nobody answered there, which a warm-up has ended already.
                warmed = not node.cold and node.sizes.minimum == 0
                if node.pool is not None and not (warmed or self._warm_ups.concern(node)):
                    node.pool.end_connects()
            node.cold = node.cold and not in_routing
            if node.in_routing and not in_routing:
                node.chill()
            node.in_routing = in_routing
            was_master = node.as_master
            node.as_master, node.as_replica = node in masters, node in replicas
            if node.as_master and not was_master:
                node.let_go()  # it was held because it might be one
        self.router.route(masters, replicas)
        self._routable = self._routable_now()

    def _routable_now(self) -> frozenset[Node[PoolT, ConnT]]:
        return frozenset(x for x in self.nodes.values() if x.pool is not None and not x.cold)

    def _ready(self, states: tuple[NodeState, ...]) -> list[Node[PoolT, ConnT]]:
        """Leave out those without a pool; and cold ones, for a moment, if others can serve.

        A host that has just started takes its time for a first login. A policy that goes by load
        would have all wait for that, as nothing is in use there yet.
        """
        nodes = [(state, self.nodes[state.host]) for state in states]
        served = any(
            state.health is Health.UP and node.pool is not None and not node.cold
            for state, node in nodes
        )
        return [node for _, node in nodes if node.pool is not None and not (node.cold and served)]

    def _preferred(self, nodes: list[Node[PoolT, ConnT]]) -> list[Node[PoolT, ConnT]]:
        """Leave suspects out as long as others can serve."""
        states = {state.host: state for state in self.topology.nodes}
        return [node for node in nodes if states[node.host].health is Health.UP] or nodes

    def _note(self, before: NodeState, after: NodeState) -> None:
        """Tell of a change; let nobody wait for a host that has gone quiet."""
        self.notifier.announce(before, after)
        node = self.nodes[after.host]
        if after.health is Health.SUSPECT and node.pool is not None:
            log.debug("%s has gone quiet", after.host)
            node.pool.end_connects()  # who waits for one may go elsewhere

    # What is waited for

    async def wait_until(self, holds: Callable[[], bool], deadline: float, what: str) -> None:
        """Wait until `holds` is true of the topology.

        Raises NotAvailableError at `deadline` and PoolManagerClosedError on closing.
        """
        while not holds():
            if self.closing:
                raise PoolManagerClosedError("the pool manager was closed")
            if self._news is None or self._news.done():
                self._news = self.loop.create_future()
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(self._news)
            except TimeoutError:
                raise self.not_available(what) from None

    def not_available(self, what: str) -> NotAvailableError:
        """Make the error that says what was not to be had, and where every host stands."""
        now = monotonic()
        lines = [f"{what}; hosts:"]
        for state in self.topology.nodes:
            node = self.nodes[state.host]
            lines.append(f"  {state.describe(now)}, {node.describe(now)}")
        if len(lines) == 1:
            lines.append("  none")
        return NotAvailableError(self.options.dsn.hide("\n".join(lines)))

    def raise_if_all_refuse(self) -> bool:
        """Raise what waiting does not mend: our own arguments, or that every host refuses us."""
        states, nodes = self.topology.nodes, self.nodes
        errors = [nodes[s.host].refusal or (s.error if s.refused else None) for s in states]
        refusals = [error for error in errors if error]
        ours = [x for x in refusals if self.driver.failure(x) is Failure.MISCONFIGURED]
        if ours or 0 < len(refusals) == len(errors):
            raise (ours or refusals)[0]
        return False

    async def probed_anew(self, deadline: float) -> None:
        """Wait until each node has published the outcome of a probe begun after this call."""
        now = monotonic()
        self._watch.nudge()
        await self.wait_until(
            lambda: all(state.began > now for state in self.topology.nodes),
            deadline,
            "not every host's probe ended in time",
        )

    # Closing

    def refuse(self) -> None:
        """Lend nothing any more and let nobody wait for it."""
        self.closing = True
        self._warm_ups.end()
        self.masters, self.replicas = [], []
        self.router.close()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def drain(self, deadline: float) -> None:
        """Wait until all leases are back, or until `deadline`, or until told to terminate."""
        try:
            async with asyncio.timeout_at(deadline):
                while self._lent() and not self._terminating:
                    await self.router.next_vacancy()
        except TimeoutError:
            if not self._terminating:
                log.warning("closing: %d leases were not given back in time", len(self.book))

    def _lent(self) -> bool:
        nodes = (*self.nodes.values(), *self._watch.leaving)
        return len(self.book) > 0 or any(node.in_flight for node in nodes)

    async def stop(self, deadline: float) -> None:
        """Stop probing, then close the pools: with a goodbye until `deadline`, else without."""
        try:
            if self._first_round is not None:
                self._first_round.cancel()
            await self._watch.end(self._discovering)
            deadline = min(deadline, self.loop.time() + _GOODBYE)
            await asyncio.gather(*(self._close(node, deadline) for node in self.nodes.values()))
        finally:
            self.break_all()
            self.closed = True

    def break_all(self) -> None:
        """Break every connection there is, at once."""
        self._terminating = True
        self.book.abort()
        for node in (*self.nodes.values(), *self._watch.leaving):
            if node.pool is not None:
                node.pool.terminate()
        self.router.wake_drain()

    async def _close(self, node: Node[PoolT, ConnT], deadline: float) -> None:
        state = self.topology.node(node.host)
        polite = state is not None and state.health is Health.UP and state.exclusion is None
        if node.pool is None:
            return
        if polite and not node.in_flight and self.loop.time() < deadline:
            try:
                async with asyncio.timeout_at(deadline):
                    await node.pool.close()
            except Exception as error:  # noqa: BLE001  # terminated below, whatever it was
                log.debug("%s: closing failed: %s", node.host, self.options.dsn.hide(repr(error)))
        node.pool.terminate()
