"""What an adapter must provide so that one core can serve every driver.

`Driver` opens things, `DriverPool` is one opened pool of the driver's own, `Session` is the
reserved connection that a monitor probes over. `tests/integration/test_drivers_contract.py` holds
every adapter to what is said here.
"""

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, ClassVar, Protocol, TypeVar

from hasql.driver.arguments import PoolSizes
from hasql.driver.deadline import cancellations
from hasql.driver.destinations import Destinations
from hasql.driver.endpoint import Endpoint
from hasql.driver.failure import Failure
from hasql.driver.threads import in_thread
from hasql.driver.time_left import TimeLeft
from hasql.driver.transactions import TaskTransaction, ThreadTransaction, TransactionModes

__all__ = ("AsyncPool", "ConnT", "Driver", "DriverPool", "PoolT", "Session", "ThreadPool")

PoolT = TypeVar("PoolT")
ConnT = TypeVar("ConnT")

#: Seconds that a thread waits for the connection of a warm-up.
_WARM_UP = 1.0


class Session(Protocol):
    """A connection of the monitor's own, besides the pool and without the user's hooks."""

    #: The address that it was opened to. None: not known.
    address: str | None

    @property
    def closed(self) -> bool:
        """Whether it is known to be gone; once True, it stays True."""

    @property
    def in_hot_standby(self) -> bool | None:
        """The value that the server last reported by itself; None if it never has."""

    @property
    def login_pid(self) -> int | None:
        """The process that the login named: the server's own, or a number of a pooler's."""

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        """Run one query in a transaction of its own and return its one row; empty: there is none.

        The values are the server's own text, None for NULL: nothing that an application has taught
        its driver (codecs, loaders, classes) has read them. They are what a probe asks for: numbers
        and names, and nothing that the COPY protocol would have to escape.
        """

    async def has_row(self, sql: str) -> bool:
        """Run one query like that and tell whether it has a row; a driver may do it for less."""
        return bool(await self.fetch_row(sql))

    def send_settings(self) -> None:
        """Send the settings of a probe with each query, as settings of the query's transaction.

        Called when a setting of the role or of the database has ended a session before. By default
        nothing happens.
        """
        return  # a body, so that type checkers take it for a default

    def kill(self) -> None:
        """Close the socket at once, without telling the server.

        A `fetch_row` under way raises; the `on_lost` that it was opened with is not called.
        """


class DriverPool(Protocol[PoolT, ConnT]):
    """One pool of the driver, on one host, with what the core needs besides the pool's own methods.

    An adapter derives its pool from `AsyncPool` or from `ThreadPool`. A method that has a body here
    is a default, for drivers that need to do nothing about it; an adapter provides all others. The
    methods are called in the manager's event loop and must not wait; those of a pool for threads
    are called while the threads use it.
    """

    #: The driver's pool itself.
    pool: PoolT
    #: How many connections it keeps at least and opens at most.
    sizes: PoolSizes
    #: Where its open connections lead, as far as is known; the adapter keeps it up to date.
    destinations: Destinations

    @property
    def size(self) -> int:
        """How many connections are open now, idle or not. Must not cost more than a len()."""

    # What is known of a connection

    def key(self, connection: ConnT) -> Hashable | None:
        """Return a key that stays the same for a connection from one lease to the next.

        None once the connection is gone. By default the key is the object itself.
        """
        return None if self.is_closed(connection) else connection

    def in_hot_standby(self, connection: ConnT) -> bool | None:
        """Return what the server last reported on this connection; None: it does not report it."""

    def is_closed(self, connection: ConnT) -> bool:
        """Tell whether the connection is known to be gone."""

    def is_read_only(self, connection: ConnT) -> bool:
        """Tell whether the server last reported that transactions are read-only by default."""

    def idle(self) -> int:
        """Return how many connections are idle, as the driver counts them; for metrics only."""

    def watch_drops(self, dropped: Callable[[int, Callable[[], ConnT]], bool]) -> bool:
        """Report each connection that the application drops while it is lent, from now on.

        `dropped` is called with the connection's `id`, and with a function that makes an object of
        the connection again, so that it can be given back; it returns whether that was a lease. The
        call happens wherever Python collects the object: in any thread, in the middle of anything.
        So nothing of the adapter may keep a lent connection alive.

        Return False, as by default, if the adapter cannot tell, because its library keeps lent
        connections alive.
        """
        del dropped
        return False

    # What the core has learnt of the host

    def host_answers(self) -> None:
        """Take note that the host answered a probe: the pool may refill to its minimum.

        By default nothing happens, which suits a pool without a minimum.
        """
        return  # a body, so that type checkers take it for a default

    def end_connects(self) -> None:
        """End every connect under way with a ConnectionError: the host is suspect."""

    def abort(self, connection: ConnT) -> None:
        """Close the connection at once, without telling the server, whatever it is doing.

        Nothing happens after it was given back, if the adapter knows it only by its lease.
        """

    def purge(self, leased: Iterable[ConnT]) -> None:
        """Abort all connections except those that are leased, and every connect under way."""

    def drain(self, leased: Iterable[ConnT], has_left: Callable[[str | None], bool]) -> None:
        """Abort all connections to addresses that the name has left, except those that are leased.

        `has_left` takes an address as `destinations` has it. Every connect under way is aborted as
        well, because it is not known yet where it leads.
        """

    async def warm_up(self) -> None:
        """Open a connection and let the pool keep it; cancelling this leaks nothing."""

    async def keep(self, sizes: PoolSizes) -> None:
        """Keep at least as many connections as `sizes` says, from now on.

        The pool was opened with a minimum of 0, and with the same maximum. By default the missing
        connections are opened as when the host answers a probe.
        """
        self.sizes = sizes
        self.host_answers()

    async def close(self) -> None:
        """Close every connection in agreement with the server; all have been given back."""

    def terminate(self) -> None:
        """Abort every connection and refuse new ones, without waiting for anything."""


class AsyncPool(DriverPool[PoolT, ConnT], Protocol[PoolT, ConnT]):
    """A pool whose connections are used by the tasks of the manager's event loop."""

    def acquire(self, **kwargs: Any) -> Awaitable[ConnT]:
        """Take an idle connection, without a pause if there is one, or open one.

        The core cancels it at the deadline of the acquire. Cancelling it leaks nothing, and ends it
        even if the server is silent.
        """

    def leave_block(self, connection: ConnT, error: BaseException | None) -> Awaitable[None] | None:
        """Return what to await at the end of an ``async with`` block, before `release`.

        `error` is the exception that leaves the block, if one does. What is returned may take its
        time, as a commit does, and what it raises goes to the application. It ends when the
        connection is aborted and when it is cancelled, whether the server answers or not. None:
        there is nothing to await.

        By default an open transaction is left to `release`, which rolls it back.
        """
        del connection, error
        return None

    async def release(self, connection: ConnT, **kwargs: Any) -> None:
        """Give a connection back and reset it; an open transaction is rolled back.

        If that fails or is cancelled, the connection's place in the pool is free nevertheless, and
        the core aborts the connection. An abort ends the release, with every hook that it runs, as
        soon as the server has ended the statement that was running.
        """

    #: Waits for the end of a release whose task was cancelled, where the driver goes on with the
    #: release by itself. None: the core lets another task finish the release, which costs each
    #: release that pauses a microsecond or two.
    released: Callable[[ConnT], Coroutine[Any, Any, None]] | None = None

    # Which task holds a connection, for drivers that hand out the same object in one lease after
    # another: see `hasql.driver.holder`. By default each lease has an object of its own.

    def hold(self, connection: ConnT) -> None:
        """Take note that the current task holds the connection, until `release`.

        If a task holds a connection for a block, `acquire` itself notes that, where it matters.
        """
        del connection

    def is_held_by_another(self, connection: ConnT) -> bool:
        """Tell whether the current task held the connection before, and another holds it now."""
        del connection
        return False

    def note_release(self, connection: ConnT) -> None:
        """Take note that the connection is given back by `release`."""
        del connection

    async def count_rows(self, connection: ConnT, sql: str) -> int:
        """Run a query on a leased connection and return how many rows it has.

        It leaves no transaction open, and no value goes through a codec of the application.
        Cancelling it ends it even if the server is silent.
        """

    def transaction(self, connection: ConnT, modes: TransactionModes) -> TaskTransaction:
        """Make the transaction for a unit of work on a leased connection that has none open."""

    async def roll_back(self, connection: ConnT) -> None:
        """Roll an open transaction back on a connection that is about to be released.

        If this raises, or leaves one open, the connection cannot be used any more.
        """

    async def warm_up(self) -> None:
        """Take a connection and give it back."""
        before = cancellations()
        connection = await self.acquire()
        if cancellations() > before:
            self.abort(connection)  # nothing else would end its release
        try:
            await self.release(connection)
        except BaseException:
            self.abort(connection)
            raise


class ThreadPool(DriverPool[PoolT, ConnT], Protocol[PoolT, ConnT]):
    """A pool whose connections are used by threads.

    Methods that may wait are called in the thread that acquires a connection or gives it back. All
    others are called in the manager's event loop, at the same time. So all of them are thread-safe,
    and the pool never calls the manager while it holds a lock of its own.
    """

    def acquire(self, time_left: TimeLeft, **kwargs: Any) -> ConnT:
        """Take an idle connection, at once if there is one, or open one.

        It waits only by `time_left`, so that it ends at the deadline of the acquire, and when
        `end_connects`, `purge` or `terminate` is called. Whatever exception ends it, nothing
        leaks. A connect that fails is raised at once; the core decides whether to try again.
        """

    def leave_block(self, connection: ConnT, error: BaseException | None) -> None:
        """Do what the end of a ``with`` block does before `release`; see `AsyncPool.leave_block`.

        By default an open transaction is left to `release`, which rolls it back.
        """
        del connection, error

    def release(self, connection: ConnT, **kwargs: Any) -> None:
        """Give a connection back and reset it; an open transaction is rolled back.

        It may wait for the server: after `release_timeout` the core aborts the connection, which
        ends the wait. If the release fails, the connection's place in the pool is free
        nevertheless. The core then aborts the connection and calls this once more, because a signal
        handler may have interrupted it before its first step. If the connection is back by then,
        the second call changes nothing.
        """

    def count_rows(self, connection: ConnT, sql: str) -> int:
        """Run a query on a leased connection and return how many rows it has.

        It leaves no transaction open, and no value goes through a codec of the application.
        Aborting the connection ends it.
        """

    def transaction(self, connection: ConnT, modes: TransactionModes) -> ThreadTransaction:
        """Make the transaction for a unit of work on a leased connection that has none open."""

    def roll_back(self, connection: ConnT) -> None:
        """Roll an open transaction back on a connection that is about to be released.

        If this raises, or leaves one open, the connection cannot be used any more.
        """

    async def warm_up(self) -> None:
        """Take a connection and give it back, in a thread; if cancelled, the thread ends itself."""
        await asyncio.wrap_future(in_thread(self._take_and_return, "hasql warm-up"))

    def _take_and_return(self) -> None:
        # The clock stands still, so that each single wait may take `_WARM_UP` seconds.
        connection = self.acquire(TimeLeft(_WARM_UP, lambda: 0.0, _WARM_UP, lambda: None))
        try:
            self.release(connection)
        except BaseException:
            self.abort(connection)
            raise


class Driver(Protocol[PoolT, ConnT]):
    """A driver library as a whole."""

    #: By "max_lifetime" and "max_idle": the argument of the driver's pool for the same purpose, and
    #: whether the pool closes such a connection without being asked for one.
    ages: ClassVar[Mapping[str, tuple[str, bool]]] = {}
    #: Whether asking an idle connection something counts as a use of it for "max_idle".
    checks_count_as_use: ClassVar[bool] = False

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        """Check the arguments meant for the pool and return its sizes; opens nothing.

        Raises ConfigurationError for arguments that the pool does not know or cannot work with.
        """

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        """Return the arguments of a pool with other bounds. None: keep the bound.

        If only the maximum is given and is below the minimum, the minimum is lowered to it. Raises
        ConfigurationError for a bound that the driver's pool does not have.
        """

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        report: Callable[[ConnT, BaseException], None],
    ) -> DriverPool[PoolT, ConnT]:
        """Open a pool on one host, with its minimum of connections.

        Each of its connections is opened by `endpoint.connect`, and `destinations` is told of the
        address that it leads to.

        Drivers that show the exceptions of statements `report` them, so that the core knows them at
        once, even if the application catches them. If a driver has read the server's last words on
        a leased connection, does not raise them, and they tell of a limit of the session, it
        reports a SessionLimitError.
        """

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        """Open a reserved connection; `on_lost` is called once when it turns out to be gone."""

    def failure(self, error: BaseException) -> Failure:
        """Return what an exception of the driver, or of the application, says about the server."""

    def sqlstate(self, error: BaseException) -> str | None:
        """Return the SQLSTATE that the server has answered with, from an exception.

        Empty: the driver, or a library around it, has raised the exception by itself. None: neither
        has raised it.
        """
