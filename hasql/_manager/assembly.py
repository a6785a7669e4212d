"""The assembly: the parts of one manager, put together. None of them does anything yet."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.cancelled_releases import CancelledReleases
from hasql._leasing.checkout import Checkout
from hasql._leasing.checkout_rules import CheckoutRules
from hasql._leasing.hints import Hints
from hasql._leasing.layers import Layer, LeaseLayers
from hasql._leasing.lease_ends import AsyncLeaseEnds, ThreadLeaseEnds
from hasql._leasing.loop_binding import BoundLoop, LoopBinding
from hasql._leasing.options import InLoop, ManagerCalls
from hasql._leasing.returns import Returns
from hasql._leasing.thread_checkout import ThreadCheckout
from hasql._leasing.thread_returns import ThreadReturns
from hasql._manager.closing import Closing
from hasql._manager.commit_finder import CommitFinder
from hasql._manager.discovering import Discovering
from hasql._manager.discovery_queries import DiscoveryQueries
from hasql._manager.lifetime import Lifetime
from hasql._manager.loop_thread import LoopThread
from hasql._manager.options import Options
from hasql._manager.reporting import Reporting
from hasql._manager.resizing import Resizing
from hasql._manager.routing_state import RoutingState
from hasql._manager.state_waits import StateWaits
from hasql._probing.schedule import Evidence
from hasql._routing.router import Router
from hasql._routing.shared_router import SharedRouter
from hasql._routing.waiters import AsyncWaiters, ThreadWaiters, Waiters
from hasql.cluster.host import HostSpec
from hasql.discovery import Discovery
from hasql.driver import ConnT, Driver, PoolT
from hasql.driver.os_threads import new_guard
from hasql.events import Event
from hasql.resilience.connection_ages import ConnectionAges, upkeep_limits
from hasql.resilience.error_rules import ErrorRules
from hasql.resilience.idle_upkeep import (
    IdleUpkeep,
    PoolCalls,
    TaskPoolCalls,
    ThreadPoolCalls,
    look_interval,
)
from hasql.resilience.lease_watch import LeaseWatch, name_of_task, name_of_thread
from hasql.resilience.lifecycle import Lifecycle
from hasql.resilience.load_control import LoadControl
from hasql.resilience.run_means import RunMeans
from hasql.resilience.runs import Runs
from hasql.resilience.task_runs import TaskRuns
from hasql.resilience.thread_runs import ThreadRuns

__all__ = ("AsyncParts", "Parts", "ThreadParts", "assemble", "assemble_for_threads")


@dataclass(frozen=True, slots=True)
class Parts(Generic[PoolT, ConnT]):
    """What the managers of both faces are made of."""

    binding: LoopBinding
    router: Router[PoolT, ConnT]
    book: LeaseBook[PoolT, ConnT]
    routing: RoutingState[PoolT, ConnT]
    waits: StateWaits[PoolT, ConnT]
    commits: CommitFinder[PoolT, ConnT]
    discovering: Discovering
    lifetime: Lifetime[PoolT, ConnT]
    checkout: CheckoutRules[PoolT, ConnT]
    closing: Closing[PoolT, ConnT]
    load: LoadControl
    runs: Runs[PoolT, ConnT]
    lease_watch: LeaseWatch | None
    resizing: Resizing[PoolT, ConnT]
    reporting: Reporting


@dataclass(frozen=True, slots=True)
class AsyncParts(Parts[PoolT, ConnT]):
    """What a manager for tasks is made of."""

    checkout: Checkout[PoolT, ConnT]
    returns: Returns[PoolT, ConnT]
    runs: TaskRuns[PoolT, ConnT]


@dataclass(frozen=True, slots=True)
class ThreadParts(Parts[PoolT, ConnT]):
    """What a manager for threads is made of."""

    checkout: ThreadCheckout[PoolT, ConnT]
    returns: ThreadReturns[PoolT, ConnT]
    runs: ThreadRuns[PoolT, ConnT]
    thread: LoopThread


class _CommonParts(Generic[PoolT, ConnT]):
    """The parts that watch the hosts and route, which are the same for tasks and for threads."""

    def __init__(
        self,
        options: Options,
        driver: Driver[PoolT, ConnT],
        discovery: Discovery,
        router: Router[PoolT, ConnT],
        guard: AbstractContextManager[object],
    ) -> None:
        self.driver = driver
        self.binding = LoopBinding()
        self.router = router
        self.book: LeaseBook[PoolT, ConnT] = LeaseBook()
        self.routing = RoutingState(driver, options, router, self.book, self.binding, guard)
        queries = DiscoveryQueries(driver, options, self.routing)
        self.discovering = Discovering(discovery, queries.ask, options, self.routing.notifier)
        self.waits = StateWaits(driver, options, self.routing, self.discovering)
        self.commits = CommitFinder(driver, options, self.routing, self.waits)
        self.lifetime = Lifetime(
            options, self.discovering, queries, self.routing, router, self.book, self.binding
        )
        self.commits.on_question_ended = router.wake_drain
        self.lifetime.finds_commits = lambda: self.commits.is_in_use
        self.lifetime.on_closed = self.commits.close

    def parts(self) -> dict[str, Any]:
        """Return the parts by the names that `Parts` has for them."""
        return {name: part for name, part in vars(self).items() if name != "driver"}

    def run_means(self, options: Options, driver: Driver[PoolT, ConnT]) -> RunMeans:
        """Return what the manager supplies to its units of work."""
        return RunMeans(
            rules=ErrorRules(driver, self.routing.hints.origins),
            finder=self.commits,
            release_timeout=options.release_timeout,
            clock=options.clock,
            chance=options.chance,
            hide=options.hide,
            guard=self.routing.guard,
        )


def _put_layers_around(  # noqa: PLR0913  # made in one place
    checkout: CheckoutRules[PoolT, ConnT],
    options: Options,
    common: _CommonParts[PoolT, ConnT],
    new_waiters: Callable[[], Waiters[Any, Any]],
    tell: Callable[[Event], object],
    lease_watch: LeaseWatch | None,
    ends: AsyncLeaseEnds[PoolT, ConnT] | ThreadLeaseEnds[PoolT, ConnT],
) -> LoadControl:
    """Put the layers the user asked for around each lease, those that refuse at once outermost."""
    routing, hide = common.routing, options.hide
    load = LoadControl(
        options.resilience,
        common.driver,
        options.clock,
        new_waiters,
        lambda: routing.masters,
        tell,
        hide,
    )
    routing.on_master = load.master_seen
    common.lifetime.on_closing = load.close
    layers: list[Layer] = load.layers()
    if lease_watch is not None:
        layers.append(lease_watch)
        if lease_watch.upkeep is not None and lease_watch.upkeep.notes_use:
            layers.append(lease_watch.upkeep)
    if layers:
        ends.layers = LeaseLayers(layers, options.clock)
        checkout.use_layers(ends.layers)
    return load


async def _end(
    returns: Returns[PoolT, ConnT] | ThreadReturns[PoolT, ConnT],
    load: LoadControl,
    lease_watch: LeaseWatch | None,
    reporting: Reporting,
) -> None:
    """Leave no timer behind, and nothing open."""
    await returns.close()
    await load.end()
    reporting.cancel()
    if lease_watch is not None:
        lease_watch.cancel()


def _tasks_of(
    resizing: Resizing[PoolT, ConnT], lease_watch: LeaseWatch | None
) -> list[asyncio.Task[None]]:
    """Return the tasks under way that no other part ends."""
    upkeep = None if lease_watch is None else lease_watch.upkeep
    return resizing.tasks() + ([] if upkeep is None else upkeep.tasks())


def _watch_leases(  # noqa: PLR0913  # made in one place
    common: _CommonParts[PoolT, ConnT],
    options: Options,
    ends: AsyncLeaseEnds[PoolT, ConnT] | ThreadLeaseEnds[PoolT, ConnT],
    in_loop: InLoop,
    calls: PoolCalls[PoolT, ConnT],
    name_of_holder: Callable[[], str | None],
) -> LeaseWatch | None:
    """Make the watch on leases, if the user asked for one."""
    lifecycle, routing = options.resilience.lifecycle, common.routing
    if lifecycle is None:
        return None
    lease_watch = LeaseWatch(
        lifecycle,
        common.book,
        ends,
        options.clock,
        routing.guard,
        in_loop,
        routing.notifier.tell,
        name_of_holder,
    )
    lease_watch.upkeep = _upkeep(common, options, lifecycle, calls)
    routing.on_pool_opened = lease_watch.watch
    return lease_watch


def _upkeep(
    common: _CommonParts[PoolT, ConnT],
    options: Options,
    lifecycle: Lifecycle,
    calls: PoolCalls[PoolT, ConnT],
) -> IdleUpkeep[PoolT, ConnT] | None:
    """Make the upkeep of idle connections, for what the driver's pool does not do by itself."""
    lifetime, idle = upkeep_limits(lifecycle, common.driver)
    limits = [each for each in (lifetime, idle, lifecycle.check_idle) if each is not None]
    if not limits:
        return None
    clock, chance = options.clock, options.chance
    return IdleUpkeep(
        look_interval(limits),
        idle is not None or lifecycle.check_idle is not None,
        lambda: ConnectionAges(lifecycle, lifetime, idle, clock, chance),
        lambda: list(common.routing.nodes.values()),
        common.router,
        common.book,
        calls,
        common.routing.guard,
        options.hide,
    )


def assemble(
    options: Options, driver: Driver[PoolT, ConnT], discovery: Discovery
) -> AsyncParts[PoolT, ConnT]:
    """Make the parts of a manager for tasks, each with the others that it works with."""
    waiters = AsyncWaiters[Any, Any](options.clock)
    router: Router[PoolT, ConnT] = Router(options.balancer_policy, waiters)
    common = _CommonParts(options, driver, discovery, router, nullcontext())
    book, binding, lifetime, routing = common.book, common.binding, common.lifetime, common.routing
    signal, leasing = routing.monitors.signal, options.for_leasing()
    cancelled = CancelledReleases(router, book, lifetime.is_over, leasing.hide)
    returns = Returns(router, book, routing.hints, cancelled, binding, leasing, signal)
    calls = ManagerCalls(lifetime.ensure_started, signal, common.waits.not_available)
    checkout = Checkout(driver, router, book, returns, binding, leasing, calls)
    new_waiters = partial(AsyncWaiters[Any, Any], options.clock)
    ends, bound_loop = (
        AsyncLeaseEnds(router, book, returns, routing.guard, leasing.hide),
        BoundLoop(binding),
    )
    resizing = Resizing(driver, routing, book, bound_loop, leasing.hide)
    lease_watch = _watch_leases(
        common, options, ends, bound_loop, TaskPoolCalls(), partial(name_of_task, binding)
    )
    lifetime.more_tasks = partial(_tasks_of, resizing, lease_watch)
    reporting = Reporting(options.resilience.report_every, common.routing.all_nodes)
    lifetime.on_start = reporting.begin
    load = _put_layers_around(
        checkout, options, common, new_waiters, routing.notifier.tell, lease_watch, ends
    )
    return AsyncParts(
        **common.parts(),
        load=load,
        lease_watch=lease_watch,
        resizing=resizing,
        reporting=reporting,
        checkout=checkout,
        closing=Closing(
            lifetime, partial(_end, returns, load, lease_watch, reporting), options.clock
        ),
        returns=returns,
        runs=TaskRuns(common.run_means(options, driver), common.binding),
    )


def assemble_for_threads(
    options: Options,
    driver: Driver[PoolT, ConnT],
    discovery: Discovery,
    ensure_started: Callable[[], object],
) -> ThreadParts[PoolT, ConnT]:
    """Make the parts of a manager for threads; `ensure_started` starts it if need be."""
    guard, thread = new_guard(), LoopThread()
    router: SharedRouter[PoolT, ConnT] = SharedRouter(options.balancer_policy, guard, thread)
    common = _CommonParts(options, driver, discovery, router, guard)
    book, lifetime = common.book, common.lifetime
    signal_in_loop, leasing = common.routing.monitors.signal, options.for_leasing()

    def signal(host: HostSpec, evidence: Evidence | None = None, /) -> bool:
        thread(signal_in_loop, host, evidence)
        return True

    hints = Hints(driver, book, signal, common.routing.hints.origins)
    returns = ThreadReturns(router, book, hints, leasing, signal, signal_in_loop, guard, thread)
    calls = ManagerCalls(ensure_started, signal, common.waits.not_available)
    checkout = ThreadCheckout(driver, router, book, returns, leasing, calls, guard, thread)
    tell = partial(thread, common.routing.notifier.tell)
    ends = ThreadLeaseEnds(router, book, returns, guard, leasing.hide)
    resizing = Resizing(driver, common.routing, book, thread, leasing.hide)
    lease_watch = _watch_leases(common, options, ends, thread, ThreadPoolCalls(), name_of_thread)
    lifetime.more_tasks = partial(_tasks_of, resizing, lease_watch)
    reporting = Reporting(options.resilience.report_every, common.routing.all_nodes)
    lifetime.on_start = reporting.begin
    load = _put_layers_around(
        checkout, options, common, ThreadWaiters[Any, Any], tell, lease_watch, ends
    )
    return ThreadParts(
        **common.parts(),
        load=load,
        lease_watch=lease_watch,
        resizing=resizing,
        reporting=reporting,
        checkout=checkout,
        closing=Closing(
            lifetime, partial(_end, returns, load, lease_watch, reporting), options.clock
        ),
        returns=returns,
        runs=ThreadRuns(common.run_means(options, driver), thread.run, checkout.limited),
        thread=thread,
    )
