"""How threads take connections from a queue pool of SQLAlchemy's, without waiting in it.

By itself the pool connects, and waits, in the thread that asks it, for as long as that takes. Here
each connect has a thread of its own. The pool is asked again once a connection can be had: if it
then asks for a new one, that is ready.
"""

# long: an acquire, the pool's request for a connection and the end of both are one sequence.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event

from hasql._adapters.pool_connects import PoolConnects, PoolFunctions, Ticket
from hasql._adapters.sqlalchemy.thread_connections import NewConnection, QueueConnections
from hasql._adapters.sqlalchemy.thread_preparations import Preparations
from hasql._adapters.sqlalchemy.thread_request import (
    NothingReadyError,
    PoolRequest,
    RequestingThread,
    Taking,
)
from hasql.driver.address_race import ThreadedConnect
from hasql.driver.deadline import OutOfTimeError
from hasql.errors import PoolManagerClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy.pool import QueuePool

    from hasql._adapters.session_setup import WithSettings
    from hasql._adapters.sqlalchemy.thread_library import ThreadLibrary
    from hasql.driver.time_left import TimeLeft

__all__ = ("QueueAcquires",)

_T = TypeVar("_T")


class QueueAcquires:
    """The acquires of one pool, to be made in the manager's event loop.

    Args:
        library: The library beneath the pool.
        pool: Returns the current pool of the engine.
        connect: Opens a connection, and returns it with the address it leads to.
        limit: How many connections the pool opens at most.
    """

    def __init__(
        self,
        library: ThreadLibrary,
        pool: Callable[[], QueuePool],
        connect: Callable[[ThreadedConnect], WithSettings[tuple[Any, str | None]]],
        limit: int,
    ) -> None:
        self._library = library
        self._pool = pool
        self._connect = connect
        self._limit = limit
        self.connections = QueueConnections(library)
        self._connects = PoolConnects(
            PoolFunctions(
                self._open, self.connections.take_in, self._keeps, self.connections.discard
            )
        )
        self._preparations = Preparations(self.connections.abort)
        self._thread = RequestingThread()
        #: The driver's connections that are leased.
        self._lent: set[Any] = set()
        self._closed = False

    def watch(self, target: Any) -> None:
        """Follow which connections are closed by the pool, or by the engine that has it."""
        for name in ("close", "close_detached"):
            event.listen(target, name, self._on_close)

    def watch_pings(self, dialect: Any) -> None:
        """Break off the pings of the pool's dialect at the deadline of the acquire."""
        ping: Callable[[Any], bool] = dialect.do_ping

        def prepare_and_ping(raw: Any) -> bool:
            self.prepare(raw)
            return ping(raw)

        dialect.do_ping = prepare_and_ping

    def _on_close(self, raw: Any, _: object = None) -> None:
        self.connections.prepare_close(raw)

    # Acquiring

    def acquire(self, time_left: TimeLeft, taking: Taking[_T]) -> _T:
        """Take an idle connection, or a new one."""
        request = PoolRequest(time_left)
        before, self._thread.request = self._thread.request, request
        taken = None
        try:
            while True:
                ticket = self._connects.ticket()
                if self._pool().checkedout() >= self._limit:
                    # The application has taken all connections from the pool directly. If the pool
                    # were asked now, it would wait in its own way.
                    self._connects.wait_for_return(time_left, ticket)
                    continue
                if (taken := self._look(taking)) is not None:
                    self._lent.add(taking.raw_of(taken))
                    return taken
                self._wait(request, ticket)
        except BaseException:
            for raw in request.preparing:
                self.connections.abort(raw)
            if taken is not None:
                self._drop(taken, taking)
            raise
        finally:
            self._thread.request = before
            request.error = None  # its traceback refers to this frame
            for raw in request.preparing:
                self._preparations.end(raw)

    def _wait(self, request: PoolRequest, ticket: Ticket) -> None:
        if request.error is not None:
            raise request.error  # the pool has not called `create`, which would have raised it
        try:
            self._connects.wait(request.time_left, ticket)
        except (ConnectionError, OutOfTimeError):
            raise
        except Exception as error:
            if request.time_left.interrupted:
                raise
            request.error = error  # `create` raises it, and the pool passes it on in its own way

    def _look(self, taking: Taking[_T]) -> _T | None:
        """Take a connection that can be had without waiting; None: there is none."""
        pool = self._pool()
        if pool.dispatch.checkout and not event.contains(pool, "checkout", self._on_checkout):
            event.listen(pool, "checkout", self._on_checkout, insert=True)
        # The first place in the pool's queue may lack a connection, and one behind it have one.
        for _ in range(pool.checkedin() + 1):
            try:
                taken = taking.take()
            except NothingReadyError:
                continue
            try:
                if self.connections.is_usable(taking.raw_of(taken)):
                    return taken
            except BaseException:
                self._drop(taken, taking)
                raise
            taking.drop(taken)
        return None

    def _drop(self, taken: _T, taking: Taking[_T]) -> None:
        """Close a connection that was taken by an acquire which was interrupted."""
        raw = taking.raw_of(taken)
        taking.drop(taken)
        self.note_idle(raw)

    def create(self) -> Any:
        """Return a new connection to the pool, which has asked for one."""
        if self._closed:
            raise PoolManagerClosedError("the pool manager is closed")
        request = self._thread.request
        if request is None:  # the application asks the pool itself
            opened = self._open(ThreadedConnect())
            self.connections.take_in(opened)
            return opened.raw
        while (new := self._connects.take()) is not None:
            if self.connections.is_usable(new.raw):
                if self._pool().dispatch.connect:
                    self.prepare(new.raw)
                return new.raw
            self.connections.discard(new)
        if request.error is not None:
            raise request.error
        raise NothingReadyError

    def prepare(self, raw: Any) -> None:
        """Take note that listeners or a ping will run on a connection."""
        request = self._thread.request
        if request is not None:
            request.preparing += (raw,)
            self._preparations.begin(raw, request.time_left.seconds)

    def _on_checkout(self, raw: Any, *_: object) -> None:
        # Listeners of the application's run after this one.
        if len(self._pool().dispatch.checkout) > 1:
            self.prepare(raw)

    def note_idle(self, raw: Any) -> None:
        """Take note that a connection is idle now, or that its place is free."""
        self._lent.discard(raw)
        self.connections.note_alive(raw)
        self._connects.note_arrival()

    # Connecting

    def _open(self, connect: ThreadedConnect) -> NewConnection:
        return self.connections.make_abortable(self._connect(connect))

    def _keeps(self, ready: int, awaited: bool) -> bool:  # noqa: FBT001  # of a tuple
        pool = self._pool()
        room = not pool.size() or pool.checkedin() + ready < pool.size()
        return (awaited or room) and len(self.connections) < self._limit

    # What the core does with all connections

    def idle(self) -> int:
        """Return how many connections wait for use."""
        places = self._pool().checkedin() + self._connects.ready
        return min(places, self.connections.count_except(self._lent))

    def end_connects(self) -> None:
        """End every wait for a connect, and abort connections that are not ready for use yet."""
        self._connects.end()
        self._preparations.abort_all()

    def purge(self, kept: Collection[Any]) -> None:
        """Abort all connections except `kept`, and every connect under way."""
        self.end_connects()
        for new in self._connects.empty():
            self.connections.discard(new)
        self.connections.abort_all(kept)

    def drain(self, kept: Collection[Any], has_left: Callable[[str | None], bool]) -> None:
        """Abort the connections to addresses that the name has left, except `kept`."""
        self.end_connects()
        self.connections.abort_all(kept, has_left)

    def close(self) -> None:
        """Open no more connections, and close those that are not leased."""
        self._closed = True
        self._connects.close()
        for new in self._connects.empty():
            self.connections.forget(new.raw)
            self._library.close(new.raw)
        self._pool().dispose()

    def terminate(self) -> None:
        """Open no more connections, and abort all."""
        self._closed = True
        self._connects.close()
        self.purge(())
        self._pool().dispose()  # of what is left of the idle connections
