"""The assembly: the parts of one manager, put together. None of them does anything yet."""

from dataclasses import dataclass
from typing import Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.cancelled_releases import CancelledReleases
from hasql._leasing.checkout import Checkout
from hasql._leasing.loop_binding import LoopBinding
from hasql._leasing.options import ManagerCalls
from hasql._leasing.returns import Returns
from hasql._manager.asking import Asking
from hasql._manager.discovering import Discovering
from hasql._manager.lifecycle import Lifecycle
from hasql._manager.options import Options
from hasql._manager.routing_state import RoutingState
from hasql._manager.state_waits import StateWaits
from hasql._routing.router import Router
from hasql.discovery import Discovery
from hasql.driver import ConnT, Driver, PoolT

__all__ = ("Parts", "assemble")


@dataclass(frozen=True, slots=True)
class Parts(Generic[PoolT, ConnT]):
    """What a pool manager is made of."""

    binding: LoopBinding
    router: Router[PoolT, ConnT]
    book: LeaseBook[PoolT, ConnT]
    routing: RoutingState[PoolT, ConnT]
    waits: StateWaits[PoolT, ConnT]
    discovering: Discovering
    lifecycle: Lifecycle[PoolT, ConnT]
    returns: Returns[PoolT, ConnT]
    checkout: Checkout[PoolT, ConnT]


def assemble(
    options: Options, driver: Driver[PoolT, ConnT], discovery: Discovery
) -> Parts[PoolT, ConnT]:
    """Make the parts, each with the others that it works with."""
    binding = LoopBinding()
    router: Router[PoolT, ConnT] = Router(options.balancer_policy, options.clock)
    book: LeaseBook[PoolT, ConnT] = LeaseBook()
    routing = RoutingState(driver, options, router, book, binding)
    asking = Asking(driver, options, routing)
    discovering = Discovering(discovery, asking.ask, options, routing.notifier)
    waits = StateWaits(driver, options, routing, discovering)
    lifecycle = Lifecycle(options, discovering, asking, routing, router, book, binding)
    signal, leasing = routing.monitors.signal, options.for_leasing()
    cancelled = CancelledReleases(router, book, lifecycle.is_over, leasing.hide)
    returns = Returns(driver, router, book, routing.hints, cancelled, binding, leasing, signal)
    calls = ManagerCalls(lifecycle.enter, signal, waits.not_available)
    checkout = Checkout(driver, router, book, returns, binding, leasing, calls)
    return Parts(binding, router, book, routing, waits, discovering, lifecycle, returns, checkout)
