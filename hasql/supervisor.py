"""The supervisor: starts, feeds and stops the nodes of one manager."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Generic

from hasql.cluster.discovery import Discovery
from hasql.cluster.dsn import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health, NodeState
from hasql.cluster.topology import (
    AbortLeases,
    Answered,
    Changed,
    FirstRoundOver,
    Observation,
    Probe,
    Purge,
    Step,
    Topology,
)
from hasql.driver import ConnT, Driver, PoolT
from hasql.errors import NotAvailableError, PoolManagerClosedError, WrongEventLoopError
from hasql.lease import LeaseBook
from hasql.monitor import Monitor
from hasql.node import Node
from hasql.options import Options
from hasql.router import Router

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
        self.role_changes = 0
        self.fencings = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._monitors: dict[HostSpec, Monitor[PoolT, ConnT]] = {}
        self._tasks: dict[HostSpec | str, asyncio.Task[None]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._news: asyncio.Future[None] | None = None
        self._first_round: asyncio.TimerHandle | None = None

    @property
    def started(self) -> bool:
        """Whether it has begun to probe."""
        return self._loop is not None

    def enter(self, discovery: Callable[[], Discovery]) -> asyncio.AbstractEventLoop:
        """Start unless started; called on every use, from the loop that uses it.

        Raises WrongEventLoopError, and PoolManagerClosedError once closing.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop or self.closing or loop is None:
            if self.closing:
                raise PoolManagerClosedError("the pool manager is closed")
            if loop is None or self._loop is not None:
                raise WrongEventLoopError(
                    "this pool manager was started in another event loop, or before a fork; "
                    "make one manager for each loop and each process"
                )
            self._start(loop, discovery())
        return loop

    def _start(self, loop: asyncio.AbstractEventLoop, discovery: Discovery) -> None:
        self._loop = loop
        self._set_hosts(self.options.dsn.hosts)
        self._first_round = loop.call_later(
            _FIRST_ROUND, lambda: self.publish(FirstRoundOver(monotonic()))
        )
        self._tasks["discovery"] = loop.create_task(self._discover(discovery))

    async def _discover(self, discovery: Discovery) -> None:
        try:
            async for hosts in discovery.watch():
                if hosts != tuple(self.nodes):
                    self._set_hosts(hosts)
        except Exception:
            log.exception("discovery has failed; the hosts stay as they are")

    def _set_hosts(self, hosts: tuple[HostSpec, ...]) -> None:
        """Take hosts in, and out once what they lent is back."""
        loop = self.loop
        nodes: dict[HostSpec, Node[PoolT, ConnT]] = {}
        for position, host in enumerate(hosts):
            node = self.nodes.get(host) or Node(
                host,
                self.options.dsn.for_host(host),
                position,
                self.sizes,
                self.options.stopwatch_window_size,
            )
            node.position = position
            nodes[host] = node
        gone = [node for host, node in self.nodes.items() if host not in nodes]
        self.nodes = nodes
        self._apply(self.topology.with_hosts(hosts, monotonic()), rerouted=True)
        for node in gone:
            task = loop.create_task(self._retire(node))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        for host, node in nodes.items():
            if host not in self._monitors:
                self._monitors[host] = monitor = Monitor(
                    node,
                    self.driver,
                    self.options.pool_factory_kwargs,
                    refresh_delay=self.options.refresh_delay,
                    refresh_timeout=self.options.refresh_timeout,
                    publish=self.publish,
                    signal=self.signal,
                    urgent=self._masterless,
                )
                self._tasks[host] = loop.create_task(self._run(node, monitor))

    async def _run(self, node: Node[PoolT, ConnT], monitor: Monitor[PoolT, ConnT]) -> None:
        try:
            await monitor.run()
        finally:
            # Cancelled from outside, as by asyncio.run() at its end: there is no loop to say
            # goodbye in, so nothing may be left open.
            if not self.closing and self.nodes.get(node.host) is node and node.pool is not None:
                node.pool.terminate()

    async def _retire(self, node: Node[PoolT, ConnT]) -> None:
        """Stop watching a node and close its pool when its leases are back."""
        del self._monitors[node.host]
        await _end([self._tasks.pop(node.host)])
        try:
            while node.in_flight:
                await self.router.next_vacancy()
        finally:
            if node.pool is not None:
                node.pool.terminate()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it was started in."""
        if self._loop is None:
            raise WrongEventLoopError("the pool manager has not been started")
        return self._loop

    # What is learnt

    def publish(self, observation: Observation) -> None:
        """Take an observation in and act on it."""
        if self.closed:
            return
        if isinstance(observation, Answered) and observation.host in self.nodes:
            self.nodes[observation.host].host_answered(observation.began)
        over = self.topology.first_round_over
        step = self.topology.observe(observation)
        changed = any(isinstance(effect, Changed) for effect in step.effects)
        self._apply(step, rerouted=changed or over != step.topology.first_round_over)

    def signal(self) -> None:
        """Take note that something may have changed: probe all nodes at once."""
        for monitor in self._monitors.values():
            monitor.nudge()

    def accept_timeline(self) -> None:
        """Forget the timelines seen so far; an older master may win again."""
        self._apply(self.topology.without_memory(monotonic()), rerouted=True)
        self.signal()

    def _masterless(self) -> bool:
        return not self.topology.masters

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
                case Purge(host=host) if (node := self.nodes.get(host)) is not None:
                    if node.pool is not None:
                        node.pool.purge(self.book.lent(node))
                    self.book.abort(node, returning_only=True)
                case AbortLeases(host=host) if (node := self.nodes.get(host)) is not None:
                    if aborted := self.book.abort(node):
                        log.warning("%s: %d leases aborted", host, aborted)
                case Probe():
                    self.signal()
                case Changed(before=before, after=after):
                    self._note(before, after)
        self.router.dispatch()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _reroute(self) -> None:
        if self.closing:
            return
        masters = self._preferred(self.topology.masters)
        replicas = self._preferred(self.topology.replicas)
        for node in self.nodes.values():
            node.as_master = node in masters
            node.as_replica = node in replicas
        self.router.route(masters, replicas)

    def _preferred(self, states: tuple[NodeState, ...]) -> list[Node[PoolT, ConnT]]:
        """Leave suspects out as long as others can serve."""
        sound = [state for state in states if state.health is Health.UP] or states
        return [self.nodes[state.host] for state in sound]

    def _note(self, before: NodeState, after: NodeState) -> None:
        """Log a change once, and count it."""
        host, reason = after.host, after.exclusion
        if reason is not None and reason is not before.exclusion:
            self.fencings += reason is Exclusion.FENCED
            log.warning("%s %s", host, reason.value)
        elif after.health is Health.DOWN:
            log.warning("%s is down: %r", host, after.error)
        elif after.role is not before.role and after.role is not Role.UNKNOWN:
            self.role_changes += before.reading is not None and before.reading.role != after.role
            log.info("%s is up: a %s", host, after.role.value)
        else:
            log.debug("%s: %s, %s", host, after.health.value, after.role.value)

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
            most = node.sizes.maximum
            used = f", {node.in_flight} of {most} connections in use" if node.pool else ""
            lines.append(f"  {state.describe(now)}{used}")
        if len(lines) == 1:
            lines.append("  none")
        return NotAvailableError("\n".join(lines))

    def raise_if_all_refuse(self) -> bool:
        """Raise the server's own error if every host refuses our login or database name."""
        states = self.topology.nodes
        if states and all(state.refused and state.error is not None for state in states):
            error = states[0].error
            assert error is not None  # noqa: S101  # just checked; for the type checker
            raise error
        return False

    async def probed_anew(self, deadline: float) -> None:
        """Wait until each node has published the outcome of a probe begun after this call."""
        now = monotonic()
        self.signal()
        await self.wait_until(
            lambda: all(state.began > now for state in self.topology.nodes),
            deadline,
            "not every host's probe ended in time",
        )

    # Closing

    def refuse(self) -> None:
        """Lend nothing any more and let nobody wait for it."""
        self.closing = True
        self.router.close()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def drain(self, deadline: float) -> None:
        """Wait until all leases are back, or until `deadline`."""
        try:
            async with asyncio.timeout_at(deadline):
                while any(node.in_flight for node in self.nodes.values()) or len(self.book):
                    await self.router.next_vacancy()
        except TimeoutError:
            log.warning("closing: %d leases were not given back in time", len(self.book))

    async def stop(self, deadline: float) -> None:
        """Stop probing, then close the pools: with a goodbye until `deadline`, else without."""
        try:
            await self._stop_tasks()
            deadline = min(deadline, self.loop.time() + _GOODBYE)
            await asyncio.gather(*(self._close(node, deadline) for node in self.nodes.values()))
        finally:
            self.break_all()
            self.closed = True

    def break_all(self) -> None:
        """Break every connection there is, at once."""
        self.book.abort()
        for node in self.nodes.values():
            if node.pool is not None:
                node.pool.terminate()

    async def _stop_tasks(self) -> None:
        if self._first_round is not None:
            self._first_round.cancel()
        self._monitors.clear()
        tasks = [*self._tasks.values(), *self._retiring]
        self._tasks.clear()
        await _end(tasks)

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
                log.debug("%s: closing the pool failed: %r", node.host, error)
        node.pool.terminate()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
