"""The connects of a pool for threads, and the acquires that wait for them.

A connect waits in the driver's library, where nobody can interrupt it. So it has a daemon thread of
its own: the acquire that wants it waits beside that, while it has time left, and takes whatever
there is first, a new connection or one that is given back. What an acquire has left behind is for
the next one.
"""

# long: waiting, connecting and the end of both are steps under one lock.

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from hasql.driver.address_race import ThreadedConnect
from hasql.driver.deadline import OutOfTimeError
from hasql.driver.os_threads import OsThread, new_guard
from hasql.driver.thread_waiter import ThreadWaiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql.driver.time_left import TimeLeft

__all__ = ("ConnectionsOf", "PoolConnects", "Ticket")

_T = TypeVar("_T")

#: Seconds for which who needs a connection relies on a connect that somebody has left behind.
_UNAWAITED = 0.1
#: Seconds after which who waits for a connection to be given back looks by itself.
_LOOK = 0.02


class Ticket(NamedTuple):
    """What had happened when an acquire began to look for a connection."""

    #: How often the connects had been ended.
    generation: int
    #: Which arrival of a connection was the last.
    arrival: object


class ConnectionsOf(NamedTuple, Generic[_T]):
    """What a pool does for its connects."""

    #: Connects, however long it takes; it may look whether it is to end.
    connect: Callable[[ThreadedConnect], _T]
    #: Takes a new connection in.
    take_in: Callable[[_T], None]
    #: Tells whether one more is to be kept, beside so many; and whether somebody waits for it.
    keeps: Callable[[int, bool], bool]
    #: Closes a connection that was not taken in.
    discard: Callable[[_T], None]


class PoolConnects(Generic[_T]):
    """The connects of one pool: no more at a time than acquires have waited for one at a time."""

    def __init__(self, of_pool: ConnectionsOf[_T]) -> None:
        self._pool = of_pool
        # It lets in again who has it: a collection of garbage may give a connection back meanwhile.
        self._lock = new_guard()
        #: In the order of asking.
        self._waiters: deque[ThreadWaiter[None]] = deque()
        self._ready: deque[_T] = deque()
        self._under_way: set[ThreadedConnect] = set()
        #: How often they were ended.
        self._generation = 0
        self._arrival = object()
        self._closed = False

    @property
    def ready(self) -> int:
        """How many connections wait here for their first use."""
        return len(self._ready)

    def take(self) -> _T | None:
        """Take a connection that waits for its first use; None: there is none."""
        with suppress(IndexError):
            return self._ready.popleft()
        return None

    # Waiting

    def ticket(self) -> Ticket:
        """Return what `wait` has to know, before a look at what can be had without waiting."""
        return Ticket(self._generation, self._arrival)

    def wait(self, time_left: TimeLeft, ticket: Ticket) -> None:
        """Wait until another look is worthwhile.

        Raises ConnectionError if the connects are ended or were since the ticket, OutOfTimeError at
        the deadline, and what a connect raises.
        """
        waiter: ThreadWaiter[None] = ThreadWaiter()
        try:
            if not self._join(waiter, ticket):
                return
            relies = self._begin(ticket, enough=len(self._waiters))
            # Somebody has left one behind then. If that hangs, another may not.
            if relies and not time_left.ended_within(waiter, min(_UNAWAITED, time_left.seconds)):
                self._begin(ticket)
            time_left.wait(waiter)
        except BaseException:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                if waiter.done() and waiter.exception() is None:
                    self._tell_one()  # another, as it does not look any more
            raise

    def wait_for_return(self, time_left: TimeLeft, ticket: Ticket) -> None:
        """Wait a moment for one that is given back, perhaps to the pool directly.

        Raises what `wait` does.
        """
        if ticket.generation != self._generation:
            raise _given_up()
        if not time_left.seconds:
            raise OutOfTimeError
        never: ThreadWaiter[None] = ThreadWaiter()
        time_left.ended_within(never, min(_LOOK, time_left.seconds))

    def _join(self, waiter: ThreadWaiter[None], ticket: Ticket) -> bool:
        """Begin to wait; return False if there is something already."""
        with self._lock:
            if ticket.generation != self._generation or self._closed:
                raise _given_up()
            # In this order: who gives a connection back, without the lock, sees the waiter, or else
            # its arrival is seen here.
            self._waiters.append(waiter)
            if self._ready or ticket.arrival is not self._arrival:
                self._waiters.remove(waiter)
                return False
        return True

    def _begin(self, ticket: Ticket, enough: float = inf) -> bool:
        """Begin a connect, unless enough are under way; return whether they are."""
        connect = ThreadedConnect()
        with self._lock:
            if ticket.generation != self._generation:
                return False  # and who waits has been told
            if len(self._under_way) >= enough:
                return True
            self._under_way.add(connect)
        try:
            # The end of the program does not wait for a daemon.
            OsThread(partial(self._run, connect), "hasql connect").start()
        except BaseException:  # no more threads can be had
            with self._lock:
                self._under_way.discard(connect)
            raise
        return False

    def arrived(self) -> None:
        """Take note that a connection was given back; it can be had by now."""
        self._arrival = object()  # unlike a count, no other thread can undo this
        if self._waiters:
            try:
                with self._lock:
                    self._tell_one()
            except BaseException:  # an interrupt, maybe before anybody was told
                with self._lock:
                    self._tell_one()
                raise

    def _tell_one(self, error: BaseException | None = None) -> None:
        """Have who has waited longest look again, or raise an error."""
        waiters, told = self._waiters, False
        while waiters and not told:
            waiter = waiters[0]
            if not waiter.done():  # else who told it was interrupted then
                told = True
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)
            # Last, so that no interrupt leaves one untold. A signal's handler may have done it.
            if waiters and waiters[0] is waiter:
                waiters.popleft()

    # Connecting

    def _run(self, connect: ThreadedConnect) -> None:
        connection, error = None, None
        try:
            connection = self._pool.connect(connect)
        except BaseException as raised:  # noqa: BLE001  # for whoever waits
            error = raised
        try:
            with self._lock:
                # One that has been ended meanwhile is under way no more.
                wanted = connect in self._under_way
                self._under_way.discard(connect)
                taken = wanted and self._settle(connection, error)
            if connection is not None and not taken:
                self._pool.discard(connection)
        finally:
            del error  # else its traceback refers to this frame, and this frame to it

    def _settle(self, connection: _T | None, error: BaseException | None) -> bool:
        """Tell who waits what a connect has ended with; return whether that was taken in."""
        if connection is None:
            self._tell_one(error)
            return False
        kept = self._pool.keeps(len(self._ready), bool(self._waiters))
        if kept:
            self._pool.take_in(connection)
            self._ready.append(connection)
        self._arrival = object()
        self._tell_one()
        return kept

    # Ending

    def end(self) -> None:
        """End every wait with a ConnectionError; what was begun before is of no use any more."""
        with self._lock:
            self._generation += 1
            for connect in self._under_way:
                connect.end()
            self._under_way.clear()
            while self._waiters:
                self._tell_one(_given_up())

    def empty(self) -> list[_T]:
        """Take all connections that wait for their first use."""
        with self._lock:
            ready, self._ready = self._ready, deque()
        return list(ready)

    def close(self) -> None:
        """End every wait, and let nobody wait any more."""
        self._closed = True
        self.end()


def _given_up() -> ConnectionError:
    return ConnectionError("the host was given up while connecting to it")
