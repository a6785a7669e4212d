"""What an adapter fulfils so that one core can serve every driver.

`Driver` opens things, `DriverPool` is one opened pool of the driver's own, `Session` is the
reserved connection that a monitor probes over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, Protocol, TypeVar

from hasql.errors import ConfigurationError

__all__ = (
    "ConnT",
    "Driver",
    "DriverPool",
    "Failure",
    "OutOfTimeError",
    "PendingConnects",
    "PoolSizes",
    "PoolT",
    "Session",
    "check_keywords",
    "check_sizes",
    "until",
)

PoolT = TypeVar("PoolT")
PoolT_co = TypeVar("PoolT_co", covariant=True)
ConnT = TypeVar("ConnT")
_T = TypeVar("_T")


class Failure(Enum):
    """What an exception says of the server, as far as routing is concerned."""

    #: The connection, or the way to the host, is gone.
    BROKEN = "broken"
    #: The server refuses this login or database name; waiting does not mend it.
    REFUSED = "refused"
    #: The server has no connection slot left for us.
    FULL = "full"
    #: A write met a server, or a transaction, that does not write.
    READ_ONLY = "read only"
    #: The server did not like the statement.
    STATEMENT = "statement"
    #: Nothing about the server's role or health.
    OTHER = "other"

    @classmethod
    def of_sqlstate(cls, sqlstate: str) -> "Failure":
        """Read an error code of the server.

        https://www.postgresql.org/docs/current/errcodes-appendix.html
        """
        if sqlstate in _BY_CODE:
            return _BY_CODE[sqlstate]
        if sqlstate.startswith("57P"):
            return cls.BROKEN
        return _BY_CLASS.get(sqlstate[:2], cls.STATEMENT)

    @classmethod
    def of_exception(cls, error: BaseException) -> "Failure":
        """Read an exception that is none of the driver's own."""
        # TimeoutError is what asyncio and the drivers raise for a host that stays silent; a
        # name that does not resolve (socket.gaierror) is an OSError like any other.
        return cls.BROKEN if isinstance(error, OSError) else cls.OTHER


_BY_CODE = {"53300": Failure.FULL, "25006": Failure.READ_ONLY}
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


class PendingConnects:
    """The connects of a pool that are under way, so that a purge can end them.

    The driver's own time limit for one is a matter of a minute or of none.
    """

    def __init__(self, failure: Callable[[BaseException], Failure]) -> None:
        self._failure = failure
        self._attempts: set[asyncio.Timeout] = set()
        self._host_answers = asyncio.Event()
        self._opened = False

    async def run(self, connect: Callable[[], Awaitable[_T]], deadline: float | None) -> _T:
        """Connect for an acquire, or without a deadline for the pool itself.

        Raises OutOfTimeError at `deadline`, in seconds of the loop's clock, and ConnectionError
        when `end` is called meanwhile.

        A pool that has been opened keeps some connections open. Left to itself it would try again
        later and later and log each failure; this waits until the host answers probes again,
        and then connects at once.
        """
        refill = deadline is None and self._opened
        while True:
            try:
                return await self._attempt(connect, deadline)
            except Exception as error:
                if not refill or self._failure(error) not in {Failure.BROKEN, Failure.FULL}:
                    raise
                self._host_answers.clear()
            await self._host_answers.wait()

    async def _attempt(self, connect: Callable[[], Awaitable[_T]], deadline: float | None) -> _T:
        attempt = asyncio.timeout_at(deadline)
        try:
            async with attempt:
                self._attempts.add(attempt)
                return await connect()
        except TimeoutError as error:
            if attempt not in self._attempts:
                raise ConnectionError("the host was given up while connecting to it") from None
            raise _in_time(attempt, error) from None
        finally:
            self._attempts.discard(attempt)

    def host_answers(self) -> None:
        """Take note of an answered probe; the first means that the pool is open."""
        self._opened = True
        self._host_answers.set()

    def end(self) -> None:
        """End all that are under way."""
        attempts, self._attempts = self._attempts, set()
        for attempt in attempts:
            if not attempt.expired():
                attempt.reschedule(0.0)


class OutOfTimeError(Exception):
    """The deadline of an acquire has come while the driver was at work; never leaves hasql."""


async def until(deadline: float, work: Awaitable[_T]) -> _T:
    """Wait for something, and raise OutOfTimeError at `deadline`, in the loop's clock."""
    timer = asyncio.timeout_at(deadline)
    try:
        async with timer:
            return await work
    except TimeoutError as error:
        raise _in_time(timer, error) from None


def _in_time(timer: asyncio.Timeout, error: TimeoutError) -> Exception:
    """Tell the end of our time from a timeout of the driver's, or of a hook of the user's."""
    return OutOfTimeError() if timer.expired() else error


class Session(Protocol):
    """A connection of the monitor's own, beside the pool and without the user's hooks."""

    @property
    def closed(self) -> bool:
        """Whether it is known to be gone; True for good once True."""

    @property
    def in_hot_standby(self) -> bool | None:
        """What the server reported last without being asked; None when it never did."""

    async def fetch_row(self, sql: str) -> Sequence[object]:
        """Run one statement in a transaction of its own and return its one row."""

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

    def acquire(self, deadline: float, **kwargs: Any) -> Awaitable[ConnT]:
        """Take an idle connection or open one. Cancelling it leaks nothing.

        The core never asks for more than the pool's maximum, so there is always a place. It is
        for the adapter to raise OutOfTimeError at `deadline`, in the loop's clock, where a
        connection has to be opened or a hook of the user's runs; else no timer is needed.
        """

    async def release(self, connection: ConnT, **kwargs: Any) -> None:
        """Give a connection back, reset. It is closed for good if that fails or is cancelled.

        It ends as soon as the connection is aborted, and raises nothing but CancelledError.
        """

    def in_hot_standby(self, connection: ConnT) -> bool | None:
        """What the server last reported on this connection; None when it does not report it."""

    def is_closed(self, connection: ConnT) -> bool:
        """Whether the connection is known to be gone."""

    def abort(self, connection: ConnT) -> None:
        """Break the connection at once, without a word to the server, whatever it is doing."""

    def host_answers(self) -> None:
        """Take note that a probe was answered: time to refill what the pool keeps at least."""

    def purge(self, lent: Iterable[ConnT]) -> None:
        """Break all idle connections and pending connects, and `lent` ones once they are back."""

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

    async def open(self, dsn: str, kwargs: Mapping[str, Any]) -> DriverPool[PoolT_co, ConnT]:
        """Open a pool on the one host of `dsn`, with as many connections as it keeps at least."""

    async def connect(
        self, dsn: str, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        """Open a reserved connection; `on_lost` is called once when it turns out to be gone."""

    def failure(self, error: BaseException) -> Failure:
        """Say what an exception of the driver, or of the application, tells of the server."""
