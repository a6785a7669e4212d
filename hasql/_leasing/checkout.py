"""The checkout: takes a connection for a lease, and gives it back."""

import asyncio
import logging
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.destination_check import WrongServerError, check_destination
from hasql._leasing.lease import Lease
from hasql._leasing.lease_tracing import LeaseTracing
from hasql._leasing.loop_binding import LoopBinding
from hasql._leasing.options import LeasingOptions, ManagerCalls
from hasql._leasing.returns import Returns
from hasql._probing.schedule import Evidence
from hasql._routing.node import Node
from hasql._routing.request import MASTER, REPLICA, REPLICA_OR_MASTER, Request
from hasql._routing.router import Router
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.driver.deadline import OutOfTimeError, by_deadline
from hasql.driver.judgement import judged
from hasql.driver.stepping import begin
from hasql.errors import NotAvailableError

__all__ = ("Checkout",)

log = logging.getLogger("hasql")

#: Seconds after which an acquire that has to connect has its host probed.
_LONG_CONNECT = 0.1
#: What an acquire meets that another host, or the same one a little later, may not.
_ANOTHER_TIME = frozenset(
    {Failure.BROKEN, Failure.REFUSED, Failure.MISCONFIGURED, Failure.FULL, Failure.LIMIT}
)


class Checkout(Generic[PoolT, ConnT]):
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
        self._driver = driver
        self._router = router
        self._book = book
        self._returns = returns
        # Taken over as they are, so that the end of a lease costs no call more.
        self.leave, self.forget = returns.leave, returns.forget
        self._binding = binding
        self._acquire_timeout = options.acquire_timeout
        self._clock = options.clock
        self._enter, self._signal = manager.enter, manager.signal
        self._no_connection = manager.not_available
        #: At work while there is a tracer.
        self._tracing: LeaseTracing[PoolT, ConnT] | None = None
        self.acquires = 0
        self.acquire_seconds = 0.0
        self.waits = 0
        self.retries = 0

    def trace(self, tracing: LeaseTracing[PoolT, ConnT] | None) -> None:
        """Tell a tracer of each acquire from now on."""
        self._tracing = tracing
        self._returns.trace(tracing)

    async def take(  # noqa: C901  # the hot path: each call less counts
        self, lease: Lease[PoolT, ConnT]
    ) -> ConnT:
        """Take a connection for a lease; see `LeaseBook` for what becomes of it."""
        if self._tracing is not None and not lease.number:
            return await self._tracing.take(lease, self.take)
        binding = self._binding
        if binding.thread != get_ident() or not binding.serves():
            self._enter()
        clock = self._clock
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
                    await by_deadline(rest, deadline - clock(), _LONG_CONNECT, slow)
            except BaseException as error:  # noqa: BLE001  # sorted out there
                self._give_up(node, lease, error)
            else:
                connection = lease.connection
                assert connection is not None  # noqa: S101  # it has just been filled
                fits = node.as_master  # it may have lost its role while the driver connected
                if lease.request is not MASTER:
                    fits = self._may_read(node, lease, connection)
                if fits:
                    if node.error is not None and node.connects_again:
                        self._offer_all(node)
                    self.acquires += 1
                    self.acquire_seconds += clock() - began
                    return connection
                await self._put_back(lease, deadline)
            self.retries += 1
            # What fails without waiting must not starve the loop, nor be asked again before what
            # was learnt of it has had its effect, nor go on for ever.
            await asyncio.sleep(0)
            if clock() >= deadline:
                raise self._not_available(lease)

    def _occupy_on(self, node: Node[PoolT, ConnT]) -> Node[PoolT, ConnT]:
        self._enter()  # a router that is closed lends nothing, but nothing is routed here
        self._router.occupy_on(node)
        return node

    async def _fill(self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT]) -> None:
        """Have the driver acquire a connection, and enter it in the book.

        Whoever has a place may do this by itself, as a thread would with a pool of its own.
        """
        assert node.pool is not None  # noqa: S101  # only nodes with a pool are routed to
        pool, kwargs = node.pool, lease.kwargs
        connection = await (pool.acquire(**kwargs) if kwargs else pool.acquire())
        # A read may have fallen to a master, too; a pool that was asked for is what it is.
        doubtful = node.as_master and (pool.destinations.doubtful or node.several)
        if doubtful and lease.fixed_node is None:
            await check_destination(node, pool, connection)
        if lease.awaited:
            pool.hold(connection)
        lease.node = node
        self._book.enter(lease, connection)

    def _offer_all(self, node: Node[PoolT, ConnT]) -> None:
        node.offer_all()
        self._router.dispatch()

    async def _put_back(self, lease: Lease[PoolT, ConnT], deadline: float) -> None:
        """Give back what did not fit; what is not done by the deadline has `release_timeout`."""
        if self._tracing is not None and lease.node is not None:
            self._tracing.retried(lease, lease.node, None)
        back = self._book.pass_on(lease)  # as the lease goes on to its next connection
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline - self._clock()):
                await self._returns.give_back(back)

    async def find(self, request: Request) -> Node[PoolT, ConnT]:
        """Find the node that an acquire would go to now, and wait like one where there is none."""
        self._enter()
        node = self._router.occupy(request)
        if node is None:
            seconds = self._acquire_timeout
            lease: Lease[PoolT, ConnT] = Lease(self, request, seconds, {})
            lease.waited = True  # this is no acquire that would be counted
            node = await self._wait(lease, self._clock() + seconds)
        self._router.vacate(node)
        return node

    def adopt(self, connection: ConnT, node: Node[PoolT, ConnT]) -> None:
        """Enter a connection in the book that was taken from the driver's pool directly."""
        lease: Lease[PoolT, ConnT] = Lease(self, REPLICA_OR_MASTER, 0.0, {})
        lease.used, lease.node, lease.fixed_node = True, node, node
        self._router.occupy_on(node)
        assert node.pool is not None  # noqa: S101  # it has come from there
        node.pool.hold(connection)
        self._book.enter(lease, connection)

    async def _wait(self, lease: Lease[PoolT, ConnT], deadline: float) -> Node[PoolT, ConnT]:
        """Wait for a place, which is taken then."""
        self.waits += not lease.waited
        lease.waited = True
        waiter, began = self._router.join(lease.request, deadline), self._clock()
        try:
            node = await waiter
        except BaseException as error:
            self._router.leave(lease.request, waiter)
            if isinstance(error, TimeoutError):
                raise self._not_available(lease) from None
            raise
        if self._tracing is not None:
            self._tracing.waited(lease, node, self._clock() - began)
        return node

    def _give_up(
        self, node: Node[PoolT, ConnT], lease: Lease[PoolT, ConnT], error: BaseException
    ) -> None:
        """Give a place back that had no connection to offer; raise what ends the acquire."""
        try:
            self._consider(error, node, lease)
        finally:
            self._router.vacate(node)

    def _consider(
        self, error: BaseException, node: Node[PoolT, ConnT], lease: Lease[PoolT, ConnT]
    ) -> None:
        """Return if the acquire is to be tried again, else raise."""
        if isinstance(error, OutOfTimeError):
            if node.error is None:  # what the server itself has said tells more
                node.failed(TimeoutError("connecting was not done by an acquire's deadline"))
            self._signal(node.host)
            raise self._not_available(lease) from None
        if judged(self._driver, error) not in _ANOTHER_TIME or lease.fixed_node is not None:
            raise error
        if self._tracing is not None:
            self._tracing.retried(lease, node, error)
        node.connect_failed(error)
        if isinstance(error, WrongServerError):
            self._signal(node.host, Evidence.ELSEWHERE)
        self._signal(node.host)

    def _may_read(
        self, node: Node[PoolT, ConnT], lease: Lease[PoolT, ConnT], connection: ConnT
    ) -> bool:
        """Check that a node may still serve a request for a replica, or for any host.

        It may have lost its role while the driver connected. And a server that has been promoted
        says so with its next answer on any connection: `off` is never taken back within a session.
        """
        if lease.fixed_node is not None:
            return True
        if node.as_replica:
            assert node.pool is not None  # noqa: S101  # it has come from there
            if node.flag_lies or node.pool.in_hot_standby(connection) is not False:
                return True
            if node.several or node.leads_elsewhere:
                lease.expired = True
                node.pool.abort(connection)  # so that it does not count as one to be had again
                node.connect_failed(WrongServerError("a connection leads to a master"))
                self._signal(node.host, Evidence.ELSEWHERE)
            else:
                node.off_at = min(node.off_at, self._clock())
                self._returns.hold(node)
            self._signal(node.host, Evidence.FLAG)
            return False
        return node.as_master and lease.request is not REPLICA

    def _not_available(self, lease: Lease[PoolT, ConnT]) -> NotAvailableError:
        return self._no_connection(f"no connection to a {lease.request} within {lease.timeout:g} s")
