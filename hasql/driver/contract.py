"""What an adapter fulfils so that one core can serve every driver.

`Driver` opens things, `DriverPool` is one opened pool of the driver's own, `Session` is the
reserved connection that a monitor probes over.
"""

from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, Protocol, TypeVar

from hasql.driver.arguments import PoolSizes
from hasql.driver.destinations import Destinations
from hasql.driver.failure import Failure

__all__ = ("ConnT", "Driver", "DriverPool", "PoolT", "Session")

PoolT = TypeVar("PoolT")
PoolT_co = TypeVar("PoolT_co", covariant=True)
ConnT = TypeVar("ConnT")


class Session(Protocol):
    """A connection of the monitor's own, beside the pool and without the user's hooks."""

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

    def kill(self) -> None:
        """Close the socket at once, without a word to the server.

        A `fetch_row` under way raises; the `on_lost` it was opened with is not called.
        """


class DriverPool(Protocol[PoolT_co, ConnT]):
    """One pool of the driver, on one host, with what the core needs beside its own methods."""

    @property
    def pool(self) -> PoolT_co:
        """The driver's pool itself."""

    @property
    def sizes(self) -> PoolSizes:
        """How many connections it keeps at least and opens at most."""

    @property
    def size(self) -> int:
        """How many connections are open now, idle or not. Must not cost more than a len()."""

    @property
    def destinations(self) -> Destinations:
        """What is known of where its open connections lead; the adapter keeps it up to date."""

    def key(self, connection: ConnT) -> Hashable | None:
        """What stays the same of a connection from one lease to the next; None once it is gone."""

    async def count_rows(self, connection: ConnT, sql: str) -> int:
        """Run a query on a lent connection and return how many rows it has.

        It leaves no transaction open, and no value goes through a codec of the application's.
        Cancelling it takes no longer than the server is there to answer.
        """

    def acquire(self, **kwargs: Any) -> Awaitable[ConnT]:
        """Take an idle connection, without a pause if there is one, or open one.

        Cancelling it leaks nothing and takes no longer than the server is there to answer: the
        core cancels it at the lease's deadline.
        """

    def leave_block(self, connection: ConnT, error: BaseException | None) -> Awaitable[None] | None:
        """Return what leaving ``async with`` does before `release`; None: nothing.

        `error` is the exception that leaves the block, if one does. It may take its time,
        as a commit does, and what it raises is the application's. Aborting the connection ends it,
        and so does cancelling it, whether the server answers or not. See `Detachable`, too.
        """

    async def release(self, connection: ConnT, **kwargs: Any) -> None:
        """Give a connection back, reset; what is still open in it is rolled back.

        If that fails or is cancelled its place is free all the same, and the core aborts it. It
        ends once the connection is aborted, hooks included, and after what the server was doing.
        """

    @property
    def released(self) -> Callable[[ConnT], Coroutine[Any, Any, None]] | None:
        """Waits for the end of a release whose task was cancelled, if the driver goes on with it.

        None: the core sees to that, which costs each release that pauses a microsecond or two.
        """

    def in_hot_standby(self, connection: ConnT) -> bool | None:
        """What the server last reported on this connection; None when it does not report it."""

    def is_closed(self, connection: ConnT) -> bool:
        """Whether the connection is known to be gone."""

    def abort(self, connection: ConnT) -> None:
        """Break the connection at once, without a word to the server, whatever it is doing."""

    def hold(self, connection: ConnT) -> None:
        """Take note that the task which runs has it now, until `release`.

        Of who has it for a block `acquire` takes note by itself, where that matters.
        """

    def is_anothers(self, connection: ConnT) -> bool:
        """Tell whether the task which runs had it before, and another has it now.

        False where each lease has an object of its own.
        """

    def note_release(self, connection: ConnT) -> None:
        """Take note that it is given back by `release`."""

    def host_answers(self) -> None:
        """Take note that a probe was answered: time to refill what the pool keeps at least."""

    def end_connects(self) -> None:
        """End the connects that are under way with a ConnectionError: the host is suspect."""

    def purge(self, lent: Iterable[ConnT]) -> None:
        """Break all idle connections and pending connects, but not those that are lent."""

    def idle(self) -> int:
        """How many connections wait for use, by the driver's own count; for metrics only."""

    async def close(self) -> None:
        """Say goodbye to the server on every connection; all have been given back."""

    def terminate(self) -> None:
        """Break every connection and refuse new ones, without waiting for anything."""


class Driver(Protocol[PoolT_co, ConnT]):
    """A driver library as a whole."""

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        """Check the arguments meant for the pool and return its sizes; opens nothing.

        Raises ConfigurationError for what the driver's pool does not know or cannot work with.
        """

    async def open(
        self, dsn: str, kwargs: Mapping[str, Any], report: Callable[[ConnT, BaseException], None]
    ) -> DriverPool[PoolT_co, ConnT]:
        """Open a pool on the one host of `dsn`, with as many connections as it keeps at least.

        Drivers that show the exceptions of statements `report` them, so that they are known at
        once and also if the application catches them.
        """

    async def connect(
        self, dsn: str, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        """Open a reserved connection; `on_lost` is called once when it turns out to be gone."""

    def failure(self, error: BaseException) -> Failure:
        """Say what an exception of the driver, or of the application, tells of the server."""
