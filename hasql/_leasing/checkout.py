"""The checkout of tasks: takes a connection for a lease, and gives it back."""

import asyncio
from contextlib import suppress
from functools import partial
from threading import get_ident

from hasql._leasing.book import LeaseBook
from hasql._leasing.checkout_rules import LONG_CONNECT, CheckoutRules
from hasql._leasing.destination_check import answers, check_destination
from hasql._leasing.lease import Lease
from hasql._leasing.lease_settings import prepare_session
from hasql._leasing.loop_binding import LoopBinding
from hasql._leasing.options import LeasingOptions, ManagerCalls
from hasql._leasing.returns import Returns
from hasql._routing.node import Node
from hasql._routing.request import MASTER, Request
from hasql._routing.router import Router
from hasql.diagnostics import correlation_id
from hasql.driver import AsyncPool, ConnT, Driver, PoolT
from hasql.driver.deadline import by_deadline
from hasql.driver.stepping import begin

__all__ = ("Checkout",)


class Checkout(CheckoutRules[PoolT, ConnT]):
    """The hot path: snapshot, choose, the driver's own acquire, check, hand out.

    Until a connection is handed out every failure of a server is dealt with here: another
    candidate is tried, or waited for, until the lease's deadline.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        driver: Driver[PoolT, ConnT],
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        returns: Returns[PoolT, ConnT],
        binding: LoopBinding,
        options: LeasingOptions,
        manager: ManagerCalls,
    ) -> None:
        super().__init__(driver, router, book, returns, options, manager)
        self._give_back = returns.give_back
        # Bound directly, so that ending a lease does not cost an extra call.
        self.leave, self.forget = returns.leave, returns.forget
        self._binding = binding

    # long: the hot path, where every call saved counts
    async def take(  # noqa: C901, PLR0912, PLR0915  # as above
        self, lease: Lease[PoolT, ConnT], began: float | None = None
    ) -> ConnT:
        """Take a connection for a lease, and enter it in the book.

        `began` is when the acquire began, by the clock; None: now.
        """
        if self._tracing is not None and not lease.trace_number:
            return await self._tracing.take(lease, self.take)
        binding = self._binding
        if binding.thread != get_ident() or not binding.serves():
            self._ensure_started()
        if (layers := self._layers) is not None and not lease.in_layers:
            if layers.told_of_acquires:
                return await layers.take(lease, self.take)
            lease.in_layers = True
        clock = self._clock
        if began is None:
            began = clock()
        deadline = began + lease.timeout
        while True:
            fixed = lease.fixed_node
            node = self._router.occupy(lease.request) if fixed is None else self._occupy_on(fixed)
            if node is None:
                node = await self._wait(lease, deadline)
            try:
                rest = begin(self._fill(lease, node))
                if rest is not None:
                    slow = partial(self._signal, node.host)
                    await by_deadline(rest, deadline - clock(), LONG_CONNECT, slow)
            except BaseException as error:  # noqa: BLE001  # `_give_up` may raise it
                self._give_up(node, lease, error)
                if self._tracing is not None:
                    self._tracing.retried(lease, node, error)
            else:
                connection = lease.connection
                assert connection is not None  # noqa: S101  # it has just been filled
                try:
                    fits = node.as_master  # the role may have been lost while the driver connected
                    if rest is not None and self._is_stale(lease, node, connection):
                        fits = False
                    elif lease.request is not MASTER:
                        fits = self._may_read(node, lease, connection)
                    if fits:
                        if node.error is not None and node.connects_again:
                            self._offer_all(node)
                        self.acquires += 1
                        lease.lent_at = now = clock()
                        self.acquire_seconds += now - began
                        lease.correlation_id = correlation_id.get()
                        if layers is not None:
                            for lent in layers.lent:
                                lent(lease)
                        return connection
                except BaseException:  # the lease is in the book, and nothing else would end it
                    await self._put_back(lease, deadline)
                    raise
                await self._put_back(lease, deadline)
            self.retries += 1
            # An attempt can fail without ever waiting. Yield here, so that the loop is not starved
            # and what was learnt from the failure takes effect before the next attempt. The check
            # of the deadline keeps such attempts from going on for ever.
            await asyncio.sleep(0)
            if clock() >= deadline:
                raise self._not_available(lease)

    async def _fill(self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT]) -> None:
        """Acquire a connection from the driver's pool, check it, and enter it in the book."""
        pool: AsyncPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # an AsyncPool
        kwargs = lease.kwargs
        connection = await (pool.acquire(**kwargs) if kwargs else pool.acquire())
        while pool.destinations.maybe_dead and not await answers(node, pool, connection):
            connection = await pool.acquire(**kwargs)
        # A read may have been routed to a master, too. A lease that names its node gets whatever
        # that node's pool has.
        doubtful = node.as_master and (pool.destinations.maybe_standby or node.several_servers)
        if doubtful and lease.fixed_node is None:
            await check_destination(node, pool, connection)
        if lease.settings is not None or pool.destinations.lacking:
            await prepare_session(lease, node, pool, connection)
        if lease.released_by_call:
            pool.hold(connection)
        lease.node = node
        if (ended := self._book.enter(lease, connection)) is not None:
            await self.forget(ended)

    async def _put_back(self, lease: Lease[PoolT, ConnT], deadline: float) -> None:
        """Give back a connection that did not fit, and wait for that until the deadline.

        A release that takes longer goes on in the background, within `release_timeout`.
        """
        if self._tracing is not None and lease.node is not None:
            self._tracing.retried(lease, lease.node, None)
        back = self._book.pass_on(lease)  # the lease itself goes on to its next connection
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline - self._clock()):
                await self._give_back(back)

    def adopt(self, connection: ConnT, node: Node[PoolT, ConnT]) -> None:
        """Enter in the book a connection that was taken from the driver's pool directly."""
        super().adopt(connection, node)
        pool: AsyncPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # an AsyncPool
        pool.hold(connection)

    async def find(self, request: Request) -> Node[PoolT, ConnT]:
        """Find the node that an acquire would go to now; if there is none, wait as it would."""
        self._ensure_started()
        node = self._router.occupy(request)
        if node is None:
            seconds = self._acquire_timeout
            lease: Lease[PoolT, ConnT] = Lease(self, request, seconds, {})
            lease.waited = True  # this is not an acquire, so its wait is not counted
            node = await self._wait(lease, self._clock() + seconds)
        self._router.vacate(node)
        return node

    async def _wait(self, lease: Lease[PoolT, ConnT], deadline: float) -> Node[PoolT, ConnT]:
        """Wait for a place on a node; it is taken when this returns."""
        self.waits += not lease.waited
        lease.waited = True
        waiter, began = self._router.join(lease.request, deadline), self._clock()
        try:
            node: Node[PoolT, ConnT] = await waiter
        except BaseException as error:
            self._router.leave(lease.request, waiter)
            if isinstance(error, TimeoutError):
                raise self._not_available(lease) from None
            raise
        if self._tracing is not None:
            self._tracing.waited(lease, node, self._clock() - began)
        return node
