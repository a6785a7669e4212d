"""The connects of a pool for threads, and the acquires that wait for them.

A connect waits inside the driver library, where it cannot be interrupted. So each connect runs in a
daemon thread of its own. The acquire that needs it waits until its deadline, and takes whichever
connection is there first: a new one, or one that is given back. When an acquire gives up, its
connect goes on, and the next acquire uses its connection.
"""

# long: waiting, connecting and ending both are steps under one lock.

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

__all__ = ("PoolConnects", "PoolFunctions", "Ticket")

_T = TypeVar("_T")

#: Seconds for which an acquire relies on a connect that another acquire has left behind, before it
#: begins a connect of its own.
_UNAWAITED = 0.1
#: Seconds after which an acquire that waits for a connection to be given back looks by itself.
_LOOK = 0.02


class Ticket(NamedTuple):
    """What had happened by the time an acquire began to look for a connection."""

    #: How often the connects had been ended.
    generation: int
    #: A mark of the last arrival of a connection.
    arrival: object


class PoolFunctions(NamedTuple, Generic[_T]):
    """The functions of a pool that its connects call."""

    #: Connects, however long that takes. It may check whether the connect has been ended.
    connect: Callable[[ThreadedConnect], _T]
    #: Takes a new connection in.
    take_in: Callable[[_T], None]
    #: Tells whether to keep one more connection, given how many wait here for their first use and
    #: whether an acquire waits for one.
    keeps: Callable[[int, bool], bool]
    #: Closes a connection that was not taken in.
    discard: Callable[[_T], None]


class PoolConnects(Generic[_T]):
    """The connects of one pool, and the acquires that wait for them.

    Each acquire that waits has a connect: one that an earlier acquire has left behind, or a new one
    if there is none, or if the one left behind takes too long.
    """

    def __init__(self, functions: PoolFunctions[_T]) -> None:
        self._functions = functions
        # Reentrant: garbage collection may give a connection back in the thread that holds it.
        self._lock = new_guard()
        #: In the order in which they began to wait.
        self._waiters: deque[ThreadWaiter[None]] = deque()
        self._ready: deque[_T] = deque()
        self._under_way: set[ThreadedConnect] = set()
        #: How often the connects were ended.
        self._generation = 0
        self._arrival = object()
        self._closed = False

    @property
    def ready(self) -> int:
        """How many connections wait here for their first use."""
        return len(self._ready)

    def take(self) -> _T | None:
        """Take a connection that waits for its first use, or return None if there is none."""
        with suppress(IndexError):
            return self._ready.popleft()
        return None

    # Waiting

    def ticket(self) -> Ticket:
        """Return a ticket for `wait`. Call this before looking for an idle connection."""
        return Ticket(self._generation, self._arrival)

    def wait(self, time_left: TimeLeft, ticket: Ticket) -> None:
        """Wait until it is worthwhile to look for a connection again.

        Raises ConnectionError if the connects are ended, or have been since the ticket was made;
        OutOfTimeError at the deadline; and the error of a connect that fails.
        """
        waiter: ThreadWaiter[None] = ThreadWaiter()
        try:
            if not self._join(waiter, ticket):
                return
            relies = self._begin(ticket, enough=len(self._waiters))
            # There are already enough connects: an earlier acquire has left one behind. That one
            # may hang where a new one would not.
            if relies and not time_left.ended_within(waiter, min(_UNAWAITED, time_left.seconds)):
                self._begin(ticket)
            time_left.wait(waiter)
        except BaseException:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                if waiter.done() and waiter.exception() is None:
                    self._tell_one()  # another waiter, because this one does not look again
            raise

    def wait_for_return(self, time_left: TimeLeft, ticket: Ticket) -> None:
        """Wait a moment for a connection to be given back, perhaps to the pool directly.

        Raises ConnectionError and OutOfTimeError as `wait` does.
        """
        if ticket.generation != self._generation:
            raise _given_up()
        if not time_left.seconds:
            raise OutOfTimeError
        never: ThreadWaiter[None] = ThreadWaiter()
        time_left.ended_within(never, min(_LOOK, time_left.seconds))

    def _join(self, waiter: ThreadWaiter[None], ticket: Ticket) -> bool:
        """Begin to wait, unless there is something to look at already; return whether it began."""
        with self._lock:
            if ticket.generation != self._generation or self._closed:
                raise _given_up()
            # This races with `note_arrival`, which runs without the lock. The waiter is added
            # first, and the arrival is read after that: either `note_arrival` sees the waiter, or
            # this sees the arrival.
            self._waiters.append(waiter)
            if self._ready or ticket.arrival is not self._arrival:
                self._waiters.remove(waiter)
                return False
        return True

    def _begin(self, ticket: Ticket, enough: float = inf) -> bool:
        """Begin a connect, unless `enough` are under way; return whether they are."""
        connect = ThreadedConnect()
        with self._lock:
            if ticket.generation != self._generation:
                return False  # `end` has already failed the waiter
            if len(self._under_way) >= enough:
                return True
            self._under_way.add(connect)
        try:
            # A daemon thread: the end of the program does not wait for it.
            OsThread(partial(self._run, connect), "hasql connect").start()
        except BaseException:  # no thread could be started
            with self._lock:
                self._under_way.discard(connect)
            raise
        return False

    def note_arrival(self) -> None:
        """Take note that a connection was given back and can be acquired."""
        self._arrival = object()  # not a count: another thread could overwrite an increment
        if self._waiters:
            try:
                with self._lock:
                    self._tell_one()
            except BaseException:  # an interrupt, perhaps before any waiter was told
                with self._lock:
                    self._tell_one()
                raise

    def _tell_one(self, error: BaseException | None = None) -> None:
        """Wake the acquire that has waited longest: to look again, or with an error."""
        waiters, told = self._waiters, False
        while waiters and not told:
            waiter = waiters[0]
            if not waiter.done():  # done: an earlier call was interrupted after it told this one
                told = True
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)
            # Removed last, so that an interrupt never leaves a removed waiter untold. A signal
            # handler that ran meanwhile may have removed it already.
            if waiters and waiters[0] is waiter:
                waiters.popleft()

    # Connecting

    def _run(self, connect: ThreadedConnect) -> None:
        connection, error = None, None
        try:
            connection = self._functions.connect(connect)
        except BaseException as raised:  # noqa: BLE001  # a waiter gets it
            error = raised
        try:
            with self._lock:
                # `end` removes the connects that it ends from `_under_way`.
                wanted = connect in self._under_way
                self._under_way.discard(connect)
                taken = wanted and self._settle(connection, error)
            if connection is not None and not taken:
                self._functions.discard(connection)
        finally:
            del error  # its traceback refers to this frame: this avoids a reference cycle

    def _settle(self, connection: _T | None, error: BaseException | None) -> bool:
        """Tell a waiter how a connect has ended; return whether its connection was taken in."""
        if connection is None:
            self._tell_one(error)
            return False
        kept = self._functions.keeps(len(self._ready), bool(self._waiters))
        if kept:
            self._functions.take_in(connection)
            self._ready.append(connection)
        self._arrival = object()
        self._tell_one()
        return kept

    # Ending

    def end(self) -> None:
        """End every connect, and every wait with a ConnectionError; earlier tickets become void."""
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
        """End every connect and every wait, and allow no new waits."""
        self._closed = True
        self.end()


def _given_up() -> ConnectionError:
    return ConnectionError("hasql gave up on the host while connecting to it")
