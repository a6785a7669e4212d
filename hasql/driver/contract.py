"""What an adapter fulfils so that one core can serve every driver.

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
    """A connection of the monitor's own, beside the pool and without the user's hooks."""

    #: The address that it was opened to; None: it is not known.
    address: str | None

    @property
    def closed(self) -> bool:
        """Whether it is known to be gone; True for good once True."""

    @property
    def in_hot_standby(self) -> bool | None:
        """What the server reported last without being asked; None when it never did."""

    @property
    def login_pid(self) -> int | None:
        """The process that the login told of: the server's own, or a number of a pooler's."""

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        """Run one query in a transaction of its own and return its one row; empty: there is none.

        The values are the server's own text, None for NULL: nothing that an application has taught
        its driver (codecs, loaders, classes) has read them. They are what a probe asks for,
        numbers and names: nothing that the COPY protocol would have to escape.
        """

    async def has_row(self, sql: str) -> bool:
        """Run one query like that and tell whether it has a row: for less, where a driver can."""
        return bool(await self.fetch_row(sql))

    def bring_settings(self) -> None:
        """Have each query bring the settings of a probe with it, as those of its transaction.

        Called where a setting of the role's or the database's has ended a session before. By
        default nothing happens.
        """
        return  # a body, so that type checkers take it for a default

    def kill(self) -> None:
        """Close the socket at once, without a word to the server.

        A `fetch_row` under way raises; the `on_lost` it was opened with is not called.
        """


class DriverPool(Protocol[PoolT, ConnT]):
    """One pool of the driver, on one host, with what the core needs beside its own methods.

    An adapter derives its pool from `AsyncPool` or from `ThreadPool`. A method that has a body here
    is a default, for the drivers that need not do anything about it; an adapter provides all
    others. They are called in the manager's event loop and must not wait; those of a pool for
    threads are called while the threads use it.
    """

    #: The driver's pool itself.
    pool: PoolT
    #: How many connections it keeps at least and opens at most.
    sizes: PoolSizes
    #: What is known of where its open connections lead; the adapter keeps it up to date.
    destinations: Destinations

    @property
    def size(self) -> int:
        """How many connections are open now, idle or not. Must not cost more than a len()."""

    # What is known of a connection

    def key(self, connection: ConnT) -> Hashable | None:
        """Return what stays the same of a connection from one lease to the next.

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
        """Return how many connections wait for use, as the driver counts them; for metrics only."""

    def watch_drops(self, dropped: Callable[[int, Callable[[], ConnT]], bool]) -> bool:
        """Tell of each connection that the application drops while it is lent, from now on.

        `dropped` is called with the connection's `id` and with what makes an object of it again,
        which is to be given back; it returns whether that was a lease. That happens wherever Python
        collects the object: in any thread, in the midst of anything. Nothing of the adapter's may
        keep alive what is lent then.

        False, as by default: it cannot tell, as its library keeps alive what is lent.
        """
        del dropped
        return False

    # What the core has learnt of the host

    def host_answers(self) -> None:
        """Take note that the host answered a probe: the pool may refill to what it keeps at least.

        By default nothing happens, as in a pool that keeps no connections at least.
        """
        return  # a body, so that type checkers take it for a default

    def end_connects(self) -> None:
        """End every connect that is under way with a ConnectionError: the host is suspect."""

    def abort(self, connection: ConnT) -> None:
        """Close the connection at once, without a word to the server, whatever it is doing.

        Nothing happens once it has been given back, if the adapter knows it by its lease alone.
        """

    def purge(self, leased: Iterable[ConnT]) -> None:
        """Abort all connections but those that are leased, and every connect under way."""

    def drain(self, leased: Iterable[ConnT], has_left: Callable[[str | None], bool]) -> None:
        """Abort all connections but those that are leased, to addresses that the name has left.

        `has_left` tells of an address, as `destinations` has it. Every connect under way is aborted
        as well: where it leads is not known yet.
        """

    async def warm_up(self) -> None:
        """Open a connection, and have the pool keep it; cancelling it leaks nothing."""

    async def keep(self, sizes: PoolSizes) -> None:
        """Keep at least as many connections as `sizes` says, from now on.

        It was opened with a minimum of 0; the maximum is the same. By default the missing ones are
        opened as when the host answers a probe.
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

        Cancelling it leaks nothing, and ends it even if the server is silent: the core cancels it
        at the deadline of the acquire.
        """

    def leave_block(self, connection: ConnT, error: BaseException | None) -> Awaitable[None] | None:
        """Return what the end of an ``async with`` block does before `release`; None: nothing.

        `error` is the exception that leaves the block, if one does. What is returned may take its
        time, as a commit does, and what it raises is the application's. It ends when the connection
        is aborted and when it is cancelled, whether the server answers or not.

        By default an open transaction is left to `release`, which rolls it back.
        """
        del connection, error
        return None

    async def release(self, connection: ConnT, **kwargs: Any) -> None:
        """Give a connection back and reset it; an open transaction is rolled back.

        If that fails or is cancelled, the connection's place in the pool is free all the same, and
        the core aborts the connection. An abort ends the release, with every hook that it runs, as
        soon as the server has ended the statement that was running.
        """

    #: Waits for the end of a release whose task was cancelled, where the driver goes on with the
    #: release by itself. None: the core lets another task finish the release, which costs each
    #: release that pauses a microsecond or two.
    released: Callable[[ConnT], Coroutine[Any, Any, None]] | None = None

    # Who holds a connection, where the driver hands out the same object in one lease after the
    # other: see `hasql.driver.holder`. By default each lease has an object of its own.

    def hold(self, connection: ConnT) -> None:
        """Take note that the current task holds the connection, until `release`.

        `acquire` itself takes note of who holds one for a block, where that matters.
        """
        del connection

    def is_anothers(self, connection: ConnT) -> bool:
        """Tell whether the current task held the connection, and another holds it now."""
        del connection
        return False

    def note_release(self, connection: ConnT) -> None:
        """Take note that the connection is given back by `release`."""
        del connection

    async def count_rows(self, connection: ConnT, sql: str) -> int:
        """Run a query on a leased connection and return how many rows it has.

        It leaves no transaction open, and no value goes through a codec of the application's.
        Cancelling it ends it even if the server is silent.
        """

    def transaction(self, connection: ConnT, modes: TransactionModes) -> TaskTransaction:
        """Make the transaction for a unit of work on a leased connection, which has none open."""

    async def roll_back(self, connection: ConnT) -> None:
        """Roll an open transaction back on a connection that is about to be released.

        If this raises, or leaves one open, the connection is of no use any more.
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

    What may wait is called in the thread that wants a connection or gives it back, everything else
    in the manager's event loop, at the same time. So all of it is thread-safe. Nothing is asked of
    the manager while a lock of the pool is held.
    """

    def acquire(self, time_left: TimeLeft, **kwargs: Any) -> ConnT:
        """Take an idle connection, at once if there is one, or open one.

        It waits by `time_left` alone, so that it ends at the deadline of the acquire, and when
        `end_connects`, `purge` or `terminate` is called. Whatever exception ends it, nothing is
        leaked. A connect that fails is raised at once; the core decides whether to try again.
        """

    def leave_block(self, connection: ConnT, error: BaseException | None) -> None:
        """Do what the end of a ``with`` block does before `release`; see `AsyncPool.leave_block`.

        By default an open transaction is left to `release`, which rolls it back.
        """
        del connection, error

    def release(self, connection: ConnT, **kwargs: Any) -> None:
        """Give a connection back and reset it; an open transaction is rolled back.

        It may wait for the server: the core aborts the connection after `release_timeout`, which
        ends that. If it fails, the connection's place in the pool is free all the same. The core
        aborts the connection then and calls this once more, as a signal's handler may have come
        before its first step: what is back by then stays as it is.
        """

    def count_rows(self, connection: ConnT, sql: str) -> int:
        """Run a query on a leased connection and return how many rows it has.

        It leaves no transaction open, and no value goes through a codec of the application's.
        Aborting the connection ends it.
        """

    def transaction(self, connection: ConnT, modes: TransactionModes) -> ThreadTransaction:
        """Make the transaction for a unit of work on a leased connection, which has none open."""

    def roll_back(self, connection: ConnT) -> None:
        """Roll an open transaction back on a connection that is about to be released.

        If this raises, or leaves one open, the connection is of no use any more.
        """

    async def warm_up(self) -> None:
        """Take a connection and give it back, in a thread; if cancelled, that ends by itself."""
        await asyncio.wrap_future(in_thread(self._take_and_return, "hasql warm-up"))

    def _take_and_return(self) -> None:
        # Its clock stands still, so that each wait may take so long.
        connection = self.acquire(TimeLeft(_WARM_UP, lambda: 0.0, _WARM_UP, lambda: None))
        try:
            self.release(connection)
        except BaseException:
            self.abort(connection)
            raise


class Driver(Protocol[PoolT, ConnT]):
    """A driver library as a whole."""

    #: By "max_lifetime" and "max_idle", the argument of the driver's pool that is about the same,
    #: and whether the pool closes a connection for it without being asked for one.
    ages: ClassVar[Mapping[str, tuple[str, bool]]] = {}
    #: Whether a question to an idle connection counts as a use of it for "max_idle".
    questions_are_uses: ClassVar[bool] = False

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        """Check the arguments meant for the pool and return its sizes; opens nothing.

        Raises ConfigurationError for what the driver's pool does not know or cannot work with.
        """

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        """Return the arguments of a pool with other bounds; None: as they are.

        A minimum that would be more than a new maximum is that. Raises ConfigurationError for what
        the driver's pool does not have.
        """

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        report: Callable[[ConnT, BaseException], None],
    ) -> DriverPool[PoolT, ConnT]:
        """Open a pool on one host, with as many connections as it keeps at least.

        Each of its connections is opened by `endpoint.connect`, and `destinations` is told of the
        address that it leads to.

        Drivers that show the exceptions of statements `report` them, so that they are known at
        once and also if the application catches them. A driver that has the server's last words on
        a leased connection, and does not raise them, reports a SessionLimitError where they say so.
        """

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        """Open a reserved connection; `on_lost` is called once when it turns out to be gone."""

    def failure(self, error: BaseException) -> Failure:
        """Say what an exception of the driver, or of the application, tells of the server."""

    def sqlstate(self, error: BaseException) -> str | None:
        """Return the code with which the server has answered, as an exception has it.

        Empty: the driver, or a library around it, has raised it by itself. None: neither has.
        """
