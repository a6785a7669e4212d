"""The giving back of connections, and what a lease that ends tells of its host."""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from threading import get_ident
from typing import Any, Generic

from hasql._leasing.book import LeaseBook
from hasql._leasing.cancelled_releases import CancelledReleases
from hasql._leasing.hints import Hints
from hasql._leasing.lease import Lease
from hasql._leasing.lease_tracing import LeaseTracing
from hasql._leasing.loop_binding import LoopBinding
from hasql._leasing.options import LeasingOptions, Signal
from hasql._leasing.overdue import OverdueTimer
from hasql._probing.schedule import Evidence
from hasql._routing.node import Node
from hasql._routing.router import Router
from hasql.driver import ConnT, Driver, DriverPool, Failure, PoolT
from hasql.driver.judgement import judged
from hasql.driver.stepping import Detachable, begin_detachable

__all__ = ("Returns",)

log = logging.getLogger("hasql")

#: Seconds for which a host offers nothing at most while a probe is to tell what broke a lease.
_HOLD = 0.1


class Returns(Generic[PoolT, ConnT]):
    """Gives connections back, each within `release_timeout`, and learns from how they come back."""

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        driver: Driver[PoolT, ConnT],
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        hints: Hints[PoolT, ConnT],
        cancelled: CancelledReleases[PoolT, ConnT],
        binding: LoopBinding,
        options: LeasingOptions,
        signal: Signal,
    ) -> None:
        self._driver = driver
        self._router = router
        self._book = book
        self._hints = hints
        self._cancelled = cancelled
        self._binding = binding
        self._release_timeout = options.release_timeout
        self._hide = options.hide
        self._clock = options.clock
        self._signal = signal
        #: At work while there is a tracer.
        self._tracing: LeaseTracing[PoolT, ConnT] | None = None
        self._overdue = OverdueTimer(book, options.release_timeout, options.clock)

    def trace(self, tracing: LeaseTracing[PoolT, ConnT] | None) -> None:
        """Tell a tracer of each connection that comes back from now on."""
        self._tracing = self._cancelled.tracing = tracing

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
            rest = begin_detachable(work, self._detach_block, (lease, error))
            if rest is not None:
                await rest
        except BaseException as failed:
            error = failed
            raise
        finally:
            if not lease.detached:
                await self.give_back(lease, error)

    async def give_back(  # noqa: C901, PLR0912  # the hot path: each call less counts
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
            lease.due_back = self._clock() + self._release_timeout
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
                rest = begin_detachable(releasing, self._detach_release, lease)
                if rest is not None:
                    await rest
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
                self._book.remove(lease)
                self._router.vacate(node)
                if self._tracing is not None:
                    self._tracing.returned(lease, node, error)

    def _goes_on(self, lease: Lease[PoolT, ConnT], failure: BaseException) -> bool:
        """Tell whether a release goes on whose task was cancelled, if that is what has failed."""
        assert lease.node is not None  # noqa: S101  # it is lent, so it has all three
        assert lease.connection is not None  # noqa: S101
        released = lease.node.pool and lease.node.pool.released
        if released and not lease.detached and isinstance(failure, asyncio.CancelledError):
            self._cancelled.add(lease, released(lease.connection))
        return lease.detached

    def _note_broken(self, node: Node[PoolT, ConnT], failure: BaseException) -> None:
        told = self._hide(repr(failure))
        log.debug("%s: a connection was closed instead of given back: %s", node.host, told)

    def _detach_release(self, rest: Detachable[None], lease: Lease[PoolT, ConnT]) -> bool:
        return self._cancelled.add(lease, rest.finish())

    def _detach_block(
        self, rest: Detachable[None], block: tuple[Lease[PoolT, ConnT], BaseException | None]
    ) -> bool:
        lease, error = block
        lease.returning, lease.due_back = True, self._clock() + self._release_timeout
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
                self._signal(node.host, Evidence.ELSEWHERE)
                probed = self._signal(node.host)
                if probed and failure not in {None, Failure.FULL} and node.in_routing:
                    # What broke it may be about to break the others, which do not know it yet.
                    self.hold(node)
            elif (
                node.as_replica and not node.flag_lies and pool.in_hot_standby(connection) is False
            ):
                # Promoted, as it has just told the application.
                self._signal(node.host, Evidence.FLAG)
            if error is not None:
                self._hints.heard(node, connection, error)
        except Exception:
            # Nothing that is only to be learnt may keep a connection from being given back.
            log.exception("%s: no telling what the end of a lease says of it", node.host)

    def hold(self, node: Node[PoolT, ConnT]) -> None:
        """Offer nothing of a node until a probe has told what it is, but not for long."""
        node.hold()
        asyncio.get_running_loop().call_later(_HOLD, self._end_hold, node, node.limited_at)

    def _end_hold(self, node: Node[PoolT, ConnT], since: float) -> None:
        if node.limited_at == since:
            node.end_hold()
            self._router.dispatch()

    async def close(self) -> None:
        """Leave no timer behind, and no task: all connections are broken."""
        await self._cancelled.end()
        self._overdue.cancel()


async def _nothing() -> None:
    pass
