"""The checkout: takes a connection for a lease, and gives it back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, Generic

from hasql._leasing.cancelled_releases import CancelledReleases
from hasql._leasing.destination_check import WrongServerError, check_destination
from hasql._leasing.lease import Lease
from hasql._leasing.overdue import OverdueTimer
from hasql._manager.supervisor import Supervisor
from hasql._probing.schedule import Evidence
from hasql._routing.node import Node
from hasql._routing.router import MASTER, REPLICA, REPLICA_OR_MASTER, Wanted
from hasql.discovery import Discovery
from hasql.driver import ConnT, DriverPool, Failure, PoolT
from hasql.driver.deadline import OutOfTimeError, by_deadline
from hasql.driver.judgement import judged
from hasql.driver.stepping import Begun, Detachable
from hasql.errors import NotAvailableError

__all__ = ("Checkout",)

log = logging.getLogger("hasql")

#: Seconds after which an acquire that has to connect has its host probed.
_PATIENCE = 0.1
#: Seconds for which a host offers nothing at most while a probe is to tell what broke a lease.
_HOLD = 0.1
#: What an acquire meets that another host, or the same one a little later, may not.
_ANOTHER_TIME = frozenset(
    {Failure.BROKEN, Failure.REFUSED, Failure.MISCONFIGURED, Failure.FULL, Failure.LIMIT}
)
#: In place of what some work pauses on: it has not paused.
_DONE = object()


class Checkout(Generic[PoolT, ConnT]):
    """The hot path: snapshot, choose, the driver's own acquire, check, hand out.

    Until a connection is handed out every failure of a server is dealt with here: another
    candidate is tried, or waited for, until the lease's deadline.
    """

    def __init__(
        self, supervisor: Supervisor[PoolT, ConnT], discovery: Callable[[], Discovery]
    ) -> None:
        self._supervisor = supervisor
        self._discovery = discovery
        self._router = supervisor.router
        self._book = supervisor.book
        self._driver = supervisor.driver
        self._binding = supervisor.binding
        self._release_timeout = supervisor.options.release_timeout
        self._signal = supervisor.signal
        self._overdue = OverdueTimer(self._book, self._release_timeout)
        self._cancelled = CancelledReleases(supervisor)
        self.acquires = 0
        self.acquire_seconds = 0.0
        self.waits = 0
        self.retries = 0

    async def take(self, lease: Lease[PoolT, ConnT]) -> ConnT:
        """Take a connection for a lease; see `LeaseBook` for what becomes of it."""
        binding = self._binding
        if binding.thread != get_ident() or not binding.serves() or self._supervisor.closing:
            self._supervisor.enter(self._discovery)
        began = monotonic()
        deadline = began + lease.timeout
        while True:
            node = lease.fixed_node or self._router.choose(lease.wanted)
            if node is None:
                self.waits += not lease.waited
                lease.waited = True
                node = await self._wait(lease.wanted, deadline, lease.timeout)
            else:
                node.in_flight += 1
            try:
                steps = self._fill(lease, node).__await__()
                paused_on = next(steps, _DONE)
                # The pool mostly has an idle connection, and there is no need for a timer.
                if paused_on is not _DONE:
                    work = Begun(steps, paused_on)
                    slow = partial(self._signal, node.host)
                    await by_deadline(work, deadline, _PATIENCE, slow)
            except BaseException as error:  # noqa: BLE001  # sorted out in _consider
                try:
                    self._consider(error, node, lease)
                finally:
                    self._router.vacate(node)
            else:
                connection = lease.connection
                assert connection is not None  # noqa: S101  # it has just been filled
                if lease.fixed_node is not None or self._fits(node, lease, connection):
                    if node.error is not None and node.connects_again:
                        self._offer_all(node)
                    self.acquires += 1
                    self.acquire_seconds += monotonic() - began
                    return connection
                await self._put_back(lease, deadline)
            self.retries += 1
            # What fails without waiting must not starve the loop, nor be asked again before what
            # was learnt of it has had its effect, nor go on for ever.
            await asyncio.sleep(0)
            if monotonic() >= deadline:
                raise self._not_available(lease.wanted, lease.timeout)

    async def _fill(self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT]) -> None:
        """Have the driver acquire a connection, and enter it in the book.

        It returns nothing, because a value would cost the step by hand an exception to hold it.
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
        back = self._book.pass_on(lease)  # as the lease goes on to its next connection
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline - monotonic()):
                await self.give_back(back)

    def leave(
        self, lease: Lease[PoolT, ConnT], error: BaseException | None
    ) -> Coroutine[Any, Any, None]:
        """End a lease's block, in which the driver may want to commit or roll back first."""
        binding = self._binding
        if binding.thread != get_ident() or not binding.serves():
            if binding.inherited and error is not None:
                return _nothing()  # what ends the block in a forked child is the error to see
            if not isinstance(error, GeneratorExit):  # a coroutine is collected in any thread
                binding.check()
        node, connection = lease.node, lease.connection
        assert node is not None  # noqa: S101  # it is lent, so it has all three
        assert node.pool is not None  # noqa: S101
        assert connection is not None  # noqa: S101
        work = node.pool.leave_block(connection, error)
        return self.give_back(lease, error) if work is None else self._end_block(lease, work, error)

    async def forget(self, lease: Lease[PoolT, ConnT]) -> None:
        """End the block of a lease that has no connection any more; see `LeaseBook.enter`."""
        if lease.connection is None and lease.node is not None:
            node, lease.node = lease.node, None
            self._router.vacate(node)

    async def _end_block(
        self, lease: Lease[PoolT, ConnT], work: Awaitable[None], error: BaseException | None
    ) -> None:
        """Let the driver end a block, then give back.

        It is the application's work still: it has its time, and its errors are raised. Once
        cancelled, it has what a release has.
        """
        try:
            steps = work.__await__()
            paused_on = next(steps, _DONE)
            if paused_on is not _DONE:
                await Detachable(steps, paused_on, self._detach_block, (lease, error))
        except BaseException as failed:
            error = failed
            raise
        finally:
            if not lease.detached:
                await self.give_back(lease, error)

    async def give_back(  # noqa: C901  # the hot path: each call less counts
        self,
        lease: Lease[PoolT, ConnT],
        error: BaseException | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Give a lease's connection back; `error` is what ended its use, if anything did.

        The lease keeps its place, and its entry in the book, until the driver is done with that.
        """
        node, connection = lease.node, lease.connection
        assert node is not None  # noqa: S101  # it is lent, so it has all three
        assert node.pool is not None  # noqa: S101
        assert connection is not None  # noqa: S101
        pool = node.pool
        lease.returning = True
        if not lease.detached:
            lease.due_back = monotonic() + self._release_timeout
        if not self._overdue.is_set:
            self._overdue.set()
        try:
            self._learn(node, pool, connection, error)
            if lease.expired or (not node.in_routing and lease.fixed_node is None):
                # Of a host that was out of routing or is: silent, fenced or gone. A reset would
                # wait for it, and nothing that is still open there may be acknowledged.
                pool.abort(connection)
            releasing = pool.release(connection, **kwargs) if kwargs else pool.release(connection)
            if pool.released is not None:
                await releasing
            else:
                steps = releasing.__await__()
                paused_on = next(steps, _DONE)
                if paused_on is not _DONE:
                    await Detachable(steps, paused_on, self._detach_release, lease)
        except BaseException as failure:
            if self._goes_on(lease, failure):
                raise
            if self._book.find(connection) is lease:  # else it is the next one's already
                pool.abort(connection)
            # What it was used for has ended well; but an argument of the caller's may be to blame.
            if kwargs or not isinstance(failure, Exception):
                raise
            self._note_broken(node, failure)
        finally:
            if not lease.detached:
                self._book.strike(lease)
                self._router.vacate(node)

    def _goes_on(self, lease: Lease[PoolT, ConnT], failure: BaseException) -> bool:
        """Tell whether a release goes on whose task was cancelled, if that is what has failed."""
        assert lease.node is not None  # noqa: S101  # it is lent, so it has all three
        assert lease.connection is not None  # noqa: S101
        released = lease.node.pool and lease.node.pool.released
        if released and not lease.detached and isinstance(failure, asyncio.CancelledError):
            self._cancelled.add(lease, released(lease.connection))
        return lease.detached

    def _note_broken(self, node: Node[PoolT, ConnT], failure: BaseException) -> None:
        told = self._supervisor.options.dsn.hide(repr(failure))
        log.debug("%s: a connection was closed instead of given back: %s", node.host, told)

    def _detach_release(self, rest: Detachable[None], lease: Lease[PoolT, ConnT]) -> bool:
        return self._cancelled.add(lease, rest.finish())

    def _detach_block(
        self, rest: Detachable[None], block: tuple[Lease[PoolT, ConnT], BaseException | None]
    ) -> bool:
        lease, error = block
        lease.returning, lease.due_back = True, monotonic() + self._release_timeout
        if not self._overdue.is_set:
            self._overdue.set()
        return self._cancelled.add(lease, self._finish_block(lease, error, rest))

    async def _finish_block(
        self, lease: Lease[PoolT, ConnT], error: BaseException | None, rest: Detachable[None]
    ) -> None:
        try:
            await rest
        except Exception as failed:  # noqa: BLE001  # the block's, whose task was cancelled
            error = failed
        except BaseException as failed:
            error = failed
            raise
        finally:
            await self.give_back(lease, error)

    def _learn(
        self,
        node: Node[PoolT, ConnT],
        pool: DriverPool[PoolT, ConnT],
        connection: ConnT,
        error: BaseException | None,
    ) -> None:
        """Take what a lease that ends tells of its host; `error` is what ended it, if anything."""
        try:
            if pool.is_closed(connection):
                failure = None if error is None else judged(self._driver, error)
                if failure is Failure.LIMIT:
                    return  # the application's own, who has lost no more than this one
                self._supervisor.look_afresh(node.host)
                probed = self._signal(node.host)
                if probed and failure not in {None, Failure.FULL} and node.in_routing:
                    # What broke it may be about to break the others, which do not know it yet.
                    self._hold(node)
            elif (
                node.as_replica and not node.flag_lies and pool.in_hot_standby(connection) is False
            ):
                # Promoted, as it has just told the application.
                self._signal(node.host, Evidence.FLAG)
            if error is not None:
                self._supervisor.heard(node, connection, error)
        except Exception:
            # Nothing that is only to be learnt may keep a connection from being given back.
            log.exception("%s: no telling what the end of a lease says of it", node.host)

    def _hold(self, node: Node[PoolT, ConnT]) -> None:
        """Offer nothing of a node until a probe has told what it is, but not for long."""
        node.hold()
        self._supervisor.loop.call_later(_HOLD, self._let_go, node, node.limited_at)

    def _let_go(self, node: Node[PoolT, ConnT], since: float) -> None:
        if node.limited_at == since:
            node.let_go()
            self._router.dispatch()

    async def close(self) -> None:
        """Leave no timer behind, and no task: all connections are broken."""
        await self._cancelled.end()
        self._overdue.cancel()

    async def find(self, wanted: Wanted) -> Node[PoolT, ConnT]:
        """Find the node that an acquire would go to now, and wait like one where there is none."""
        self._supervisor.enter(self._discovery)
        node = self._router.choose(wanted)
        if node is None:
            timeout = self._supervisor.options.acquire_timeout
            node = await self._wait(wanted, monotonic() + timeout, timeout)
            self._router.vacate(node)
        return node

    def adopt(self, connection: ConnT, node: Node[PoolT, ConnT]) -> None:
        """Enter a connection in the book that was taken from the driver's pool directly."""
        lease: Lease[PoolT, ConnT] = Lease(self, REPLICA_OR_MASTER, 0.0, {})
        lease.used, lease.node, lease.fixed_node = True, node, node
        node.in_flight += 1
        assert node.pool is not None  # noqa: S101  # it has come from there
        node.pool.hold(connection)
        self._book.enter(lease, connection)

    async def _wait(self, wanted: Wanted, deadline: float, timeout: float) -> Node[PoolT, ConnT]:
        waiter = self._router.join(wanted, deadline)
        try:
            return await waiter
        except BaseException as error:
            self._router.leave(wanted, waiter)
            if isinstance(error, TimeoutError):
                raise self._not_available(wanted, timeout) from None
            raise

    def _consider(
        self, error: BaseException, node: Node[PoolT, ConnT], lease: Lease[PoolT, ConnT]
    ) -> None:
        """Return if the acquire is to be tried again, else raise."""
        if isinstance(error, OutOfTimeError):
            if node.error is None:  # what the server itself has said tells more
                node.failed(TimeoutError("connecting was not done by an acquire's deadline"))
            self._signal(node.host)
            raise self._not_available(lease.wanted, lease.timeout) from None
        if judged(self._driver, error) not in _ANOTHER_TIME or lease.fixed_node is not None:
            raise error
        node.connect_failed(error)
        if isinstance(error, WrongServerError):
            self._supervisor.look_afresh(node.host)
        self._signal(node.host)

    def _fits(
        self, node: Node[PoolT, ConnT], lease: Lease[PoolT, ConnT], connection: ConnT
    ) -> bool:
        """Check that the node still has the role it was chosen for.

        It may have lost it while the driver connected. And a server that has been promoted says
        so with its next answer on any connection: `off` is never taken back within a session.
        """
        if lease.wanted is MASTER:
            return node.as_master
        if node.as_replica:
            assert node.pool is not None  # noqa: S101  # it has come from there
            if node.flag_lies or node.pool.in_hot_standby(connection) is not False:
                return True
            if node.several or node.astray:
                lease.expired = True
                node.pool.abort(connection)  # so that it does not count as one to be had again
                node.connect_failed(WrongServerError("a connection leads to a master"))
                self._supervisor.look_afresh(node.host)
            else:
                node.off_at = min(node.off_at, monotonic())
                self._hold(node)
            self._signal(node.host, Evidence.FLAG)
            return False
        return node.as_master and lease.wanted is not REPLICA

    def _not_available(self, wanted: Wanted, timeout: float) -> NotAvailableError:
        return self._supervisor.not_available(
            f"no connection to a {wanted.value} within {timeout:g} s"
        )


async def _nothing() -> None:
    pass
