"""The checkout of threads: takes a connection for a lease, and gives it back."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from hasql._leasing.abort_timer import AbortTimer
from hasql._leasing.book import LeaseBook
from hasql._leasing.checkout_rules import LONG_CONNECT, CheckoutRules
from hasql._leasing.destination_check import answers_in_thread, check_destination_in_thread
from hasql._leasing.layers import LeaseLayers
from hasql._leasing.lease import Lease
from hasql._leasing.lease_settings import PoolerRefusesError, note_changed, session_change
from hasql._leasing.lease_tracing import LeaseTracing
from hasql._leasing.options import InLoop, LeasingOptions, ManagerCalls
from hasql._leasing.thread_returns import ThreadReturns, abort_and_release
from hasql._routing.node import Node
from hasql._routing.request import MASTER, Request
from hasql._routing.router import Router
from hasql.diagnostics import about, correlation_id
from hasql.driver import ConnT, Driver, PoolT, ThreadPool
from hasql.driver.deadline import OutOfTimeError
from hasql.driver.outside_calls import check_may_wait
from hasql.driver.time_left import TimeLeft
from hasql.errors import UnknownConnectionError

__all__ = ("ThreadCheckout",)

log = logging.getLogger("hasql")


class ThreadCheckout(CheckoutRules[PoolT, ConnT]):
    """The hot path of threads, as `Checkout` is that of tasks.

    A thread takes a place, acquires a connection from the driver's pool for it, and checks that. It
    changes and counts things under the manager's guard, which no thread holds while it waits.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        driver: Driver[PoolT, ConnT],
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        returns: ThreadReturns[PoolT, ConnT],
        options: LeasingOptions,
        manager: ManagerCalls,
        guard: AbstractContextManager[object],
        in_loop: InLoop,
    ) -> None:
        super().__init__(driver, router, book, returns, options, manager)
        # Bound directly, so that ending a lease does not cost an extra call.
        self.leave, self.forget = returns.leave, returns.forget
        self._give_back, self.finish_leaving = returns.give_back, returns.finish_leaving
        self._guard = guard
        self._limits = AbortTimer(options.clock, guard, in_loop)
        #: Whether the manager has started; asked on each acquire.
        self.live = False
        #: In a forked child: the checkout that lends there. This one belongs to the parent.
        self.child_checkout: ThreadCheckout[PoolT, ConnT] | None = None

    # long: the hot path, where every call saved counts
    def take(  # noqa: C901, PLR0912  # as above
        self, lease: Lease[PoolT, ConnT], began: float | None = None
    ) -> ConnT:
        """Take a connection for a lease, and enter it in the book.

        `began` is when the acquire began, by the clock; None: now.
        """
        if (tracing := self._tracing) is not None and not lease.trace_number:
            return self._take_traced(lease, tracing)
        if not self.live:
            if self.child_checkout is not None:
                return self._take_in_child(self.child_checkout, lease)
            self._ensure_started()
        if (layers := self._layers) is not None and not lease.in_layers:
            if layers.told_of_acquires:
                return self._take_in_layers(lease, layers)
            lease.in_layers = True
        clock = self._clock
        if began is None:
            began = clock()
        deadline = began + lease.timeout
        while True:
            fixed = lease.fixed_node
            node = self._router.occupy(lease.request) if fixed is None else self._occupy_on(fixed)
            if node is None:
                node = self._wait(lease, deadline)
            pool: ThreadPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # a ThreadPool
            connection, time_left = None, None
            try:
                time_left = TimeLeft(deadline, clock, LONG_CONNECT, self._signal, node.host)
                kwargs = lease.kwargs
                connection = (
                    pool.acquire(time_left, **kwargs) if kwargs else pool.acquire(time_left)
                )
                while pool.destinations.maybe_dead and not answers_in_thread(
                    node,
                    pool,
                    connection,
                    time_left,
                    partial(self._aborting_after, pool, connection),
                ):
                    ended, connection = connection, None
                    self._discard(lease, pool, ended)
                    connection = pool.acquire(time_left, **kwargs)
                # A read may have been routed to a master, too. A lease that names its node gets
                # whatever that node's pool has.
                if (
                    node.as_master
                    and fixed is None
                    and (pool.destinations.maybe_standby or node.several_servers)
                ):
                    aborting_after = partial(self._aborting_after, pool, connection)
                    check_destination_in_thread(node, pool, connection, time_left, aborting_after)
                if lease.settings is not None or pool.destinations.lacking:
                    self._prepare(lease, node, pool, connection, time_left)
                fits = self._lend(lease, node, connection, began)
                if fits and layers is not None:
                    for lent in layers.lent:
                        lent(lease)
            except BaseException as error:  # noqa: BLE001  # `_give_up_in_thread` may raise it
                if connection is not None:
                    good = isinstance(error, PoolerRefusesError)  # nothing is wrong with it
                    self._discard(lease, pool, connection, keeping=good)
                self._give_up_in_thread(node, lease, error, time_left)
            else:
                if fits:
                    return connection
                self._put_back(lease, deadline)
            with self._guard:
                self.retries += 1
            if clock() >= deadline:
                raise self._not_available(lease)

    def _give_up_in_thread(
        self,
        node: Node[PoolT, ConnT],
        lease: Lease[PoolT, ConnT],
        error: BaseException,
        time_left: TimeLeft | None,
    ) -> None:
        """Give back a place that has led to no connection; raise if that ends the acquire."""
        try:
            if time_left is not None and time_left.interrupted:
                self._router.vacate(node)
                raise error
            with self._guard:
                self._give_up(node, lease, error)
            if (tracing := self._tracing) is not None:  # not under the guard: a tracer may wait
                tracing.retried(lease, node, error)
        finally:
            del error  # as in `_handle_error`

    def _prepare(
        self,
        lease: Lease[PoolT, ConnT],
        node: Node[PoolT, ConnT],
        pool: ThreadPool[PoolT, ConnT],
        connection: ConnT,
        time_left: TimeLeft,
    ) -> None:
        """Make the settings on a connection that its lease wants."""
        change = session_change(lease, node, pool, connection)
        if change is None:
            return
        try:
            with self._aborting_after(pool, connection, time_left.seconds):
                pool.count_rows(connection, change.query)
        except Exception:
            if not time_left.seconds:
                raise OutOfTimeError from None
            raise
        note_changed(lease, pool, connection, change)

    def _take_in_layers(
        self, lease: Lease[PoolT, ConnT], layers: LeaseLayers[PoolT, ConnT]
    ) -> ConnT:
        try:
            return layers.take_in_thread(lease, self.take)
        except BaseException:
            if lease.connection is not None:  # interrupted after the connection was taken
                self._give_back(lease)
            raise

    def _take_traced(
        self, lease: Lease[PoolT, ConnT], tracing: LeaseTracing[PoolT, ConnT]
    ) -> ConnT:
        try:
            return tracing.take_in_thread(lease, self.take)
        except BaseException:
            if lease.connection is not None:  # the tracer was interrupted, after the acquire
                self._give_back(lease)
            raise

    def _take_in_child(
        self, child: "ThreadCheckout[PoolT, ConnT]", lease: Lease[PoolT, ConnT]
    ) -> ConnT:
        """Take a connection in a forked child for an acquire that was made before the fork."""
        if lease.fixed_node is not None:
            raise UnknownConnectionError(
                "this pool is from before a fork and belongs to the parent process; ask the "
                "manager for its pools anew"
            )
        lease.move_to(child)
        return child.take(lease)

    def _lend(
        self,
        lease: Lease[PoolT, ConnT],
        node: Node[PoolT, ConnT],
        connection: ConnT,
        began: float,
    ) -> bool:
        """Enter a lease in the book; return whether the node still fits.

        The loop may purge the node at the same time. If it does so before the lease is in the book,
        it breaks the connection; if after, it finds the lease there and marks it as expired.
        """
        ended = None
        try:
            with self._guard:
                lease.node = node
                ended = self._book.enter(lease, connection)
                if lease.expired or self._is_stale(lease, node, connection):
                    return False
                fits = node.as_master  # the role may have been lost while the driver connected
                if lease.request is not MASTER:
                    fits = self._may_read(node, lease, connection)
                if not fits:
                    return False
                if node.error is not None and node.connects_again:
                    self._offer_all(node)
                self.acquires += 1
                lease.lent_at = now = self._clock()
                self.acquire_seconds += now - began
                lease.correlation_id = correlation_id.get()
                return True
        finally:
            if ended is not None:  # not under the guard
                self.forget(ended)

    def _discard(
        self,
        lease: Lease[PoolT, ConnT],
        pool: ThreadPool[PoolT, ConnT],
        connection: ConnT,
        *,
        keeping: bool = False,
    ) -> None:
        """Close a connection whose acquire failed or was interrupted, or give it back as it is."""
        with self._guard:
            if lease.connection is not None:
                self._book.remove(lease)
        if not keeping:
            pool.abort(connection)
        try:
            pool.release(connection)
        except BaseException as error:
            abort_and_release(pool, connection)
            if not isinstance(error, Exception):
                raise
            # The connection is broken anyway.
            log.debug(
                "a connection that was not lent could not be given back: %r",
                type(error),
                extra=about("connection_closed"),
            )

    def _put_back(self, lease: Lease[PoolT, ConnT], deadline: float) -> None:
        """Give back a connection that did not fit; abort it if that takes until the deadline."""
        if (tracing := self._tracing) is not None and lease.node is not None:
            tracing.retried(lease, lease.node, None)
        with self._guard:
            back = self._book.pass_on(lease)  # the lease itself goes on to its next connection
        node, connection = back.node, back.connection
        assert node is not None  # noqa: S101  # it was lent, so it has both
        assert connection is not None  # noqa: S101
        pool: ThreadPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # a ThreadPool

        def abort() -> None:
            if self._book.find(connection) is back:  # else another lease has it already
                pool.abort(connection)

        with self._limits.limit(deadline - self._clock(), abort):
            try:
                self._give_back(back)
            except BaseException:
                self.finish_leaving(back, None)
                raise

    def limited(self, lease: Lease[PoolT, ConnT], seconds: float) -> AbstractContextManager[object]:
        """Abort the lease's connection if the block takes longer than so many seconds."""
        node, connection = lease.node, lease.connection
        if node is None or connection is None:
            return nullcontext()  # the application has given it back by itself
        pool: ThreadPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # a ThreadPool
        return self._aborting_after(pool, connection, seconds)

    def _aborting_after(
        self, pool: ThreadPool[PoolT, ConnT], connection: ConnT, seconds: float
    ) -> AbstractContextManager[None]:
        """Abort a connection if the block takes longer than so many seconds."""
        return self._limits.limit(seconds, partial(pool.abort, connection))

    def find(self, request: Request) -> Node[PoolT, ConnT]:
        """Find the node that an acquire would go to now; if there is none, wait as it would."""
        if not self.live:
            self._ensure_started()
        node = self._router.occupy(request)
        if node is None:
            seconds = self._acquire_timeout
            lease: Lease[PoolT, ConnT] = Lease(self, request, seconds, {})
            lease.waited = True  # this is not an acquire, so its wait is not counted
            node = self._wait(lease, self._clock() + seconds)
        self._router.vacate(node)
        return node

    def _wait(self, lease: Lease[PoolT, ConnT], deadline: float) -> Node[PoolT, ConnT]:
        """Wait for a place on a node; it is taken when this returns."""
        check_may_wait()
        node: Node[PoolT, ConnT] | None = None
        waiter: Any = None  # see `Router.join`
        try:
            with self._guard:
                # Asking and joining are one step, under the guard: a place that is given back
                # between the two would go to no waiter, and this one would not see it.
                node = self._router.occupy(lease.request)
                if node is None:
                    self.waits += not lease.waited
                    lease.waited = True
                    waiter = self._router.join(lease.request, deadline)
                    self._router.dispatch()  # a finalizer may have given a place back since
            if node is not None:
                return node
            began = self._clock()
            if not waiter.ended_within(deadline - began):
                raise OutOfTimeError  # noqa: TRY301  # handled below, like all that ends a wait
            node = waiter.result()
            if (tracing := self._tracing) is not None:
                tracing.waited(lease, node, self._clock() - began)
        except BaseException as error:
            if waiter is not None:
                self._router.leave(lease.request, waiter)
                if isinstance(error, OutOfTimeError):
                    raise self._not_available(lease) from None
            elif node is not None:  # a signal's handler has raised just as the guard was left
                self._router.vacate(node)
            raise
        return node
