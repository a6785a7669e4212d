"""Gives back the connections that tasks have used."""

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import nullcontext
from threading import get_ident
from typing import Any

from hasql._leasing.book import LeaseBook
from hasql._leasing.cancelled_releases import CancelledReleases
from hasql._leasing.hints import Hints
from hasql._leasing.layers import LeaseLayers
from hasql._leasing.lease import Lease
from hasql._leasing.lease_settings import undo_settings
from hasql._leasing.lease_tracing import LeaseTracing
from hasql._leasing.loop_binding import LoopBinding
from hasql._leasing.options import LeasingOptions, Signal
from hasql._leasing.overdue import OverdueTimer
from hasql._leasing.return_rules import LONGEST_HOLD, ReturnRules
from hasql._probing.schedule import Evidence
from hasql._routing.node import Node
from hasql._routing.router import Router
from hasql.driver import AsyncPool, ConnT, Failure, PoolT
from hasql.driver.stepping import Detachable, begin_detachable

__all__ = ("Returns",)


class Returns(ReturnRules[PoolT, ConnT]):
    """Gives the connections of tasks back, each within `release_timeout`."""

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        hints: Hints[PoolT, ConnT],
        cancelled: CancelledReleases[PoolT, ConnT],
        binding: LoopBinding,
        options: LeasingOptions,
        signal: Signal,
    ) -> None:
        super().__init__(hints, options, signal)
        self._router = router
        self._book = book
        self._cancelled = cancelled
        self._binding = binding
        self._release_timeout = options.release_timeout
        #: Set while there is a tracer.
        self._tracing: LeaseTracing[PoolT, ConnT] | None = None
        #: Set if the manager has layers that learn of returns.
        self._layers: LeaseLayers[PoolT, ConnT] | None = None
        self._overdue = OverdueTimer(book, options.release_timeout, options.clock, nullcontext())

    def trace(self, tracing: LeaseTracing[PoolT, ConnT] | None) -> None:
        """Tell a tracer of each connection that comes back from now on."""
        self._tracing = self._cancelled.tracing = tracing

    def use_layers(self, layers: LeaseLayers[PoolT, ConnT]) -> None:
        """Tell these layers of each connection that comes back."""
        self._layers = self._cancelled.layers = layers

    def leave(
        self, lease: Lease[PoolT, ConnT], error: BaseException | None
    ) -> Coroutine[Any, Any, None]:
        """End a lease's block; the driver may have to commit or roll back first."""
        binding = self._binding
        if binding.thread != get_ident() or not binding.serves():
            if binding.inherited and error is not None:
                return _nothing()  # a forked child should see the error that has ended its block
            if not isinstance(error, GeneratorExit):  # a coroutine may be collected in any thread
                binding.check()
        node, connection = lease.node, lease.connection
        assert node is not None  # noqa: S101  # a lease that is lent has both
        assert connection is not None  # noqa: S101
        pool: AsyncPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # an AsyncPool
        if lease.terminated:
            return self._end_terminated(lease, error)
        work = pool.leave_block(connection, error)
        return self.give_back(lease, error) if work is None else self._end_block(lease, work, error)

    async def forget(self, lease: Lease[PoolT, ConnT]) -> None:
        """End the block of a lease that has no connection any more; see `LeaseBook.enter`."""
        if lease.connection is None and lease.node is not None:
            node, lease.node = lease.node, None
            self._router.vacate(node)
            if self._layers is not None:
                self._layers.returned(lease, node, None)

    async def _end_terminated(
        self, lease: Lease[PoolT, ConnT], error: BaseException | None
    ) -> None:
        await self.give_back(lease, error)
        self.check_not_terminated(lease, error)

    async def _end_block(
        self, lease: Lease[PoolT, ConnT], work: Awaitable[None], error: BaseException | None
    ) -> None:
        """Let the driver end a block, then give the connection back.

        Ending the block is still the application's work: it may take its time, and its errors are
        raised. Once cancelled, it has to end within `release_timeout`, like a release.
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

    # long: the hot path, where every call saved counts
    async def give_back(  # noqa: C901, PLR0912  # as above
        self,
        lease: Lease[PoolT, ConnT],
        error: BaseException | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Give a lease's connection back; `error` is the exception that ended its use, or None.

        The lease keeps its place, and its entry in the book, until the driver has taken it back.
        """
        if lease.places_freed:
            self._book.forget(lease)
            return
        node, connection = lease.node, lease.connection
        assert node is not None  # noqa: S101  # a lease that is lent has both
        assert connection is not None  # noqa: S101
        pool: AsyncPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # an AsyncPool
        lease.returning = True
        if not lease.detached:
            lease.due_back = self._clock() + self._release_timeout
        if not self._overdue.is_set:
            self._overdue.set()
        try:
            self._learn(lease, node, pool, connection, error)
            if lease.expired or (not node.in_routing and not self._takes_back(lease, node)):
                # The host is out of routing, or was meanwhile: it is silent, fenced or gone. A
                # reset would wait for it, and no transaction that is still open there may be
                # acknowledged.
                pool.abort(connection)
            undoes = lease.undo is not None
            if undoes:
                releasing = self._undo_and_release(lease, pool, connection, kwargs)
            elif kwargs:
                releasing = pool.release(connection, **kwargs)
            else:
                releasing = pool.release(connection)
            if pool.released is not None and not undoes:
                await releasing
            else:
                rest = begin_detachable(releasing, self._detach_release, lease)
                if rest is not None:
                    await rest
        except BaseException as failure:
            if self._goes_on(lease, failure):
                raise
            if self._book.find(connection) is lease:  # else another lease has it already
                pool.abort(connection)
            lease.lost = True
            # What the connection was used for has ended well, so its failure is not raised. But
            # with arguments it is, because the caller's arguments may be to blame.
            if kwargs or not isinstance(failure, Exception):
                raise
            pool.destinations.note_all_maybe_dead()
            self._note_broken(node, failure)
        finally:
            if not lease.detached:
                self._book.remove(lease)
                self._router.vacate(node)
                if self._layers is not None:
                    self._layers.returned(lease, node, error)
                if self._tracing is not None:
                    self._tracing.returned(lease, node, error)

    def _goes_on(self, lease: Lease[PoolT, ConnT], failure: BaseException) -> bool:
        """Tell whether a release that has failed here goes on in a task of its own.

        It does if the failure is the cancellation of this task.
        """
        assert lease.node is not None  # noqa: S101  # a lease that is lent has both
        assert lease.connection is not None  # noqa: S101
        pool: AsyncPool[PoolT, ConnT] = lease.node.pool  # type: ignore[assignment]  # an AsyncPool
        released = pool.released
        if released and not lease.detached and isinstance(failure, asyncio.CancelledError):
            self._cancelled.add(lease, released(lease.connection))
        return lease.detached

    async def _undo_and_release(
        self,
        lease: Lease[PoolT, ConnT],
        pool: AsyncPool[PoolT, ConnT],
        connection: ConnT,
        kwargs: dict[str, Any] | None,
    ) -> None:
        """Undo what was set for a lease, and release; break the connection if undoing fails."""
        try:
            if not pool.is_closed(connection):
                await undo_settings(lease, pool, connection)
        except Exception as failure:  # noqa: BLE001  # whatever it was, the connection is broken
            if lease.node is not None:
                self._note_broken(lease.node, failure)
            pool.abort(connection)
        except BaseException:
            pool.abort(connection)
            await pool.release(connection)
            raise
        await pool.release(connection, **(kwargs or {}))

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
        except Exception as failed:  # noqa: BLE001  # it cannot be raised: the task was cancelled
            error = failed
        except BaseException as failed:
            error = failed
            raise
        finally:
            await self.give_back(lease, error)

    def _note_lost(self, node: Node[PoolT, ConnT], failure: Failure | None) -> None:
        self._signal(node.host, Evidence.ELSEWHERE)
        if self._signal(node.host) and self.breaks_others(node, failure):
            self.hold(node)

    def hold(self, node: Node[PoolT, ConnT]) -> None:
        """Stop offering a node until a probe has shown what it is, for `LONGEST_HOLD` at most."""
        loop, since = asyncio.get_running_loop(), node.hold()
        loop.call_later(LONGEST_HOLD, self._end_hold, node, since)

    def _end_hold(self, node: Node[PoolT, ConnT], since: float) -> None:
        if node.end_hold(since):
            self._router.dispatch()

    async def close(self) -> None:
        """Leave no timer and no task behind; all connections are broken by now."""
        await self._cancelled.end()
        self._overdue.cancel()


async def _nothing() -> None:
    pass
