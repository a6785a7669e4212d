"""Gives back the connections that threads have used."""

import threading
from contextlib import AbstractContextManager, suppress
from typing import Any

from hasql._leasing.book import LeaseBook
from hasql._leasing.hints import Hints
from hasql._leasing.layers import LeaseLayers
from hasql._leasing.lease import Lease
from hasql._leasing.lease_settings import undo_settings_in_thread
from hasql._leasing.lease_tracing import LeaseTracing
from hasql._leasing.options import InLoop, LeasingOptions, Signal
from hasql._leasing.overdue import OverdueTimer
from hasql._leasing.return_rules import LONGEST_HOLD, ReturnRules
from hasql._probing.schedule import Evidence
from hasql._routing.node import Node
from hasql._routing.shared_router import SharedRouter
from hasql.driver import ConnT, Failure, PoolT, ThreadPool
from hasql.errors import UnknownConnectionError

__all__ = ("ThreadReturns", "abort_and_release")


class ThreadReturns(ReturnRules[PoolT, ConnT]):
    """Gives the connections of threads back, each within `release_timeout`."""

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        router: SharedRouter[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        hints: Hints[PoolT, ConnT],
        options: LeasingOptions,
        signal: Signal,
        signal_in_loop: Signal,
        guard: AbstractContextManager[object],
        in_loop: InLoop,
    ) -> None:
        super().__init__(hints, options, signal)
        self._signal_in_loop = signal_in_loop
        self._router = router
        self._book = book
        self._guard = guard
        self._in_loop = in_loop
        #: Whether this is a forked child, so that all that is open belongs to its parent.
        self.inherited = False
        #: Set while there is a tracer.
        self._tracing: LeaseTracing[PoolT, ConnT] | None = None
        #: Set if the manager has layers that learn of returns.
        self._layers: LeaseLayers[PoolT, ConnT] | None = None
        self._overdue = OverdueTimer(book, options.release_timeout, options.clock, guard)

    def trace(self, tracing: LeaseTracing[PoolT, ConnT] | None) -> None:
        """Tell a tracer of each connection that comes back from now on."""
        self._tracing = tracing

    def use_layers(self, layers: LeaseLayers[PoolT, ConnT]) -> None:
        """Tell these layers of each connection that comes back."""
        self._layers = layers

    def leave(self, lease: Lease[PoolT, ConnT], error: BaseException | None) -> None:
        """End a lease's block; the driver may have to commit or roll back first.

        That is still the application's work: it may take its time, and its errors are raised.
        """
        if self.inherited:
            return
        node, connection = lease.node, lease.connection
        if node is None or connection is None:
            self.forget(lease)  # another thread has taken it out of the book meanwhile
            return
        pool: ThreadPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # a ThreadPool
        if lease.terminated:
            self.give_back(lease, error)
            self.check_not_terminated(lease, error)
            return
        try:
            pool.leave_block(connection, error)
        except BaseException as failed:
            error = failed
            raise
        finally:
            self.give_back(lease, error)

    def forget(self, lease: Lease[PoolT, ConnT]) -> None:
        """End the block of a lease that has no connection any more; see `LeaseBook.enter`."""
        if self.inherited:
            return  # a thread of the parent may have held the guard at the fork
        node, layers = None, self._layers
        try:
            with self._guard:
                if lease.connection is None and lease.node is not None:
                    node = lease.node
                    self._end(lease, node)
            if node is not None and layers is not None:
                layers.returned(lease, node, None)
        except BaseException:
            if node is not None:
                if lease.node is not None:  # `_end` was interrupted before it began
                    self._end(lease, node)
                if layers is not None:
                    layers.returned(lease, node, None)
            raise

    def finish_leaving(
        self,
        lease: Lease[PoolT, ConnT],
        error: BaseException | None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Do what is left to do after the end of a lease has raised.

        A signal's handler may have interrupted that before it began.
        """
        if self.inherited:
            return
        if lease.connection is None:
            self.forget(lease)
        elif hasattr(lease, "unreturned"):
            with suppress(UnknownConnectionError):  # another thread has begun just now
                self.give_back(lease, error, kwargs)

    def give_back_by_call(self, lease: Lease[PoolT, ConnT], kwargs: dict[str, Any]) -> None:
        """Give back a connection of `getconn`, from any thread, or that of this thread's own block.

        It does not matter which thread has called `getconn`: frameworks take a connection in one of
        their threads and give it back in another, which may have had the same connection before. An
        integration that has lent the connection on cleans it up first, by `before_call`.

        Raises UnknownConnectionError if the connection is lent to another thread's block, whose end
        gives it back: then the caller had it earlier, and has given it back already.
        """
        if not lease.released_by_call and lease.thread not in {0, threading.get_ident()}:
            raise UnknownConnectionError(
                "the connection is lent to a `with` block of another thread, which will give it "
                "back; give back once what getconn() lent, and do not use it afterwards"
            )
        if lease.before_call is not None:
            lease.before_call()
        try:
            self.give_back(lease, None, kwargs)
        except BaseException:
            self.finish_leaving(lease, None, kwargs)
            raise

    # long: as few calls as possible, because each could be interrupted before it begins
    def give_back(  # noqa: C901, PLR0912  # as above
        self,
        lease: Lease[PoolT, ConnT],
        error: BaseException | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Give a lease's connection back; `error` is the exception that ended its use, or None.

        The lease keeps its place, and its entry in the book, until the driver has taken it back.
        Raises UnknownConnectionError if another thread gives it back already.
        """
        node, connection = lease.node, lease.connection
        if node is None or connection is None:
            raise _given_back_twice()
        pool: ThreadPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # a ThreadPool
        due_back = self._clock() + self._release_timeout
        try:
            del lease.unreturned
        except AttributeError:
            with self._guard:
                if not lease.places_freed:  # else it was terminated, and is not in use any more
                    raise _given_back_twice() from None
                self._book.forget(lease)
            return
        # There is no call between the `del` and the `try`, so that no interrupt can come between
        # them: what has begun is ended below.
        lease.due_back = due_back
        lease.returning = True  # last, because `abort_overdue` may look at `due_back` from now on
        try:
            if not self._overdue.is_set:
                self._overdue.is_set = True
                self._in_loop(self._overdue.set)
            self._learn(lease, node, pool, connection, error)
            if lease.expired or (not node.in_routing and not self._takes_back(lease, node)):
                # The host is out of routing, or was meanwhile: it is silent, fenced or gone. A
                # reset would wait for it, and no transaction that is still open there may be
                # acknowledged.
                pool.abort(connection)
            if lease.undo is not None:
                self._undo(lease, node, pool, connection)
            if kwargs:
                pool.release(connection, **kwargs)
            else:
                pool.release(connection)
        except BaseException as failure:
            if self._book.find(connection) is lease:  # else another lease has it already
                abort_and_release(pool, connection)
            lease.lost = True
            # What the connection was used for has ended well, so its failure is not raised. But
            # with arguments it is, because the caller's arguments may be to blame.
            if kwargs or not isinstance(failure, Exception):
                raise
            self._note_broken(node, failure)
        finally:
            try:
                self._end(lease, node)
                if self._layers is not None:
                    self._layers.returned(lease, node, error)
            except BaseException:
                if lease.node is not None:  # `_end` was interrupted before it began
                    self._end(lease, node)
                if self._layers is not None:
                    self._layers.returned(lease, node, error)
                raise
            if (tracing := self._tracing) is not None:
                tracing.returned(lease, node, error)

    def _undo(
        self,
        lease: Lease[PoolT, ConnT],
        node: Node[PoolT, ConnT],
        pool: ThreadPool[PoolT, ConnT],
        connection: ConnT,
    ) -> None:
        """Undo what was set for a lease; break the connection if that fails."""
        try:
            if not pool.is_closed(connection):
                undo_settings_in_thread(lease, pool, connection)
        except Exception as failure:  # noqa: BLE001  # whatever it was, the connection is broken
            self._note_broken(node, failure)
            pool.abort(connection)

    def _end(self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT]) -> None:
        """Free the place of a lease and take it out of the book, even if that is interrupted."""
        freed = False
        try:
            with self._guard:
                self._router.release_place(node)
                freed = True
                self._book.remove(lease)
                self._router.offer_place(node)
        except BaseException:
            with self._guard:
                if not freed:
                    self._router.release_place(node)
                self._book.remove(lease)
                self._router.offer_place(node)
            raise

    # The methods below leave the rest to the event loop. A thread cannot wait for the loop's
    # answer, so it holds the host first, and the loop ends the hold if no probe is to come.

    def _note_lost(self, node: Node[PoolT, ConnT], failure: Failure | None) -> None:
        held, breaks_others = None, self.breaks_others(node, failure)
        if breaks_others:
            with self._guard:
                if node.limit:  # else it is held already, perhaps until a probe that is under way
                    held = node.hold()
        self._in_loop(self._look_at, node, held, breaks_others)

    def _look_at(
        self,
        node: Node[PoolT, ConnT],
        held: float | None,
        breaks_others: bool,  # noqa: FBT001  # the loop passes it on by position
    ) -> None:
        self._signal_in_loop(node.host, Evidence.ELSEWHERE)
        if self._signal_in_loop(node.host):
            if held is not None:
                self._end_hold_later(node, held)
            elif breaks_others:
                self.hold(node)
        elif held is not None:
            self._end_hold(node, held)

    def hold(self, node: Node[PoolT, ConnT]) -> None:
        """Stop offering a node until a probe has shown what it is, for `LONGEST_HOLD` at most."""
        with self._guard:
            held = node.hold()
        self._in_loop(self._end_hold_later, node, held)

    def _end_hold_later(self, node: Node[PoolT, ConnT], held: float) -> None:
        self._in_loop.call_later(LONGEST_HOLD, self._end_hold, node, held)

    def _end_hold(self, node: Node[PoolT, ConnT], held: float) -> None:
        with self._guard:
            if node.end_hold(held):
                self._router.dispatch()

    async def close(self) -> None:
        """Leave no timer behind; all connections are broken by now."""
        self._overdue.cancel()


def abort_and_release(pool: ThreadPool[PoolT, ConnT], connection: ConnT) -> None:
    """Abort a connection whose release has raised, and free its place in the pool.

    A signal's handler may have raised before the release began.
    """
    pool.abort(connection)
    with suppress(Exception):  # it is broken
        pool.release(connection)


def _given_back_twice() -> UnknownConnectionError:
    return UnknownConnectionError("another thread is already giving this connection back")
