"""What an adapter fulfils so that one core can serve every driver.

`Driver` opens things, `DriverPool` is one opened pool of the driver's own, `Session` is the
reserved connection that a monitor probes over.
"""

import re
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, Protocol, TypeVar

from hasql.destinations import Destinations
from hasql.errors import ConfigurationError

__all__ = (
    "ConnT",
    "Driver",
    "DriverPool",
    "Failure",
    "PoolSizes",
    "PoolT",
    "Session",
    "check_keywords",
    "check_sizes",
)

PoolT = TypeVar("PoolT")
PoolT_co = TypeVar("PoolT_co", covariant=True)
ConnT = TypeVar("ConnT")


class Failure(Enum):
    """What an exception says of the server, as far as routing is concerned."""

    #: The connection, or the way to the host, is gone.
    BROKEN = "broken"
    #: The server refuses this login or database name, has no TLS for one who asks for it, or a
    #: certificate that does not verify; waiting does not mend it.
    REFUSED = "refused"
    #: What we were given to connect with cannot work, on whatever host: a misspelt `sslmode`, a
    #: certificate file that is not there. No server was asked.
    MISCONFIGURED = "misconfigured"
    #: The server has no connection slot left for us.
    FULL = "full"
    #: A write met a server, or a transaction, that does not write.
    READ_ONLY = "read only"
    #: The session has come to a limit of its own: for being idle, or for a transaction.
    LIMIT = "limit"
    #: The server did not like the statement.
    STATEMENT = "statement"
    #: Nothing about the server's role or health.
    OTHER = "other"

    @classmethod
    def of_sqlstate(cls, sqlstate: str, message: str = "") -> "Failure":
        """Read an error code of the server; where a pooler has one for all, its words.

        https://www.postgresql.org/docs/current/errcodes-appendix.html
        """
        if sqlstate == "08P01":
            return cls.of_pooler(message) or cls.BROKEN
        if sqlstate in _BY_CODE:
            return _BY_CODE[sqlstate]
        if sqlstate.startswith("57P"):
            return cls.BROKEN
        return _BY_CLASS.get(sqlstate[:2], cls.STATEMENT)

    @classmethod
    def of_pooler(cls, message: str) -> "Failure | None":
        """Read the words of PgBouncer, which has 08P01 for nearly all it says; None: not known.

        So has PostgreSQL for what comes of prepared statements that a pooler has mixed up.
        """
        return next((what for words, what in _BY_WORDS if words.search(message)), None)

    @classmethod
    def of_exception(cls, error: BaseException) -> "Failure":
        """Read an exception that is none of the driver's own."""
        if isinstance(error, ConfigurationError):
            return cls.MISCONFIGURED
        # TimeoutError is what asyncio and the drivers raise for a host that stays silent; a
        # name that does not resolve (socket.gaierror) is an OSError like any other.
        return cls.BROKEN if isinstance(error, OSError) else cls.OTHER


_BY_WORDS = [
    (
        re.compile("query_wait_timeout|no more connections allowed|too many connections"),
        Failure.FULL,
    ),
    (re.compile("no such (database|user)|(SASL|password) authentication failed"), Failure.REFUSED),
    (re.compile("client_idle_timeout|idle transaction timeout|query timeout"), Failure.LIMIT),
    (re.compile("^(bind|portal|invalid message|insufficient data)"), Failure.STATEMENT),
]
_BY_CODE = {
    "25006": Failure.READ_ONLY,
    "25P03": Failure.LIMIT,
    "25P04": Failure.LIMIT,
    "53300": Failure.FULL,
    "57P05": Failure.LIMIT,
}
_BY_CLASS = {
    "08": Failure.BROKEN,
    "28": Failure.REFUSED,
    "3D": Failure.REFUSED,
    # Short of resources, interrupted, or in trouble with its system: no word on what it is.
    "53": Failure.OTHER,
    "57": Failure.OTHER,
    "58": Failure.OTHER,
}


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """The bounds of one pool, as the user gave them or as the driver defaults them."""

    minimum: int
    maximum: int


def check_keywords(kwargs: Mapping[str, Any], known: Collection[str], whose: str) -> None:
    """Refuse arguments that the driver's pool does not know.

    Raises ConfigurationError.
    """
    for name in kwargs:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            msg = f"pool_factory_kwargs: {whose} takes no argument {name!r}{hint}"
            raise ConfigurationError(msg)


def check_sizes(
    kwargs: Mapping[str, Any], minimum: tuple[str, int], maximum: tuple[str, int]
) -> PoolSizes:
    """Read a pool's bounds, each given by its name and the driver's default, and check them.

    Who lowers the maximum alone does not mean the driver's default minimum any more.

    Raises ConfigurationError.
    """
    (low, _), (high, _) = minimum, maximum
    most = kwargs.get(high, maximum[1])
    least = kwargs.get(low, min(minimum[1], most) if isinstance(most, int) else minimum[1])
    for name, value in ((low, least), (high, most)):
        if not isinstance(value, int) or isinstance(value, bool):
            msg = f"pool_factory_kwargs[{name!r}] must be an int, not {value!r}"
            raise ConfigurationError(msg)
    if not (0 <= least <= most and most >= 1):
        msg = (
            f"pool_factory_kwargs: {low}={least} and {high}={most} cannot work; "
            f"0 <= {low} <= {high} and {high} >= 1 must hold"
        )
        raise ConfigurationError(msg)
    return PoolSizes(least, most)


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
