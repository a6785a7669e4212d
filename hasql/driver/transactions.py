"""The transaction around a unit of work: what an adapter provides so that the core can run one."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from hasql.errors import ConfigurationError

__all__ = (
    "TaskTransaction",
    "ThreadTransaction",
    "TransactionModes",
    "TransactionState",
    "isolation_level",
)

_LEVELS = ("read uncommitted", "read committed", "repeatable read", "serializable")


def isolation_level(given: str) -> str:
    """Return an isolation level as PostgreSQL writes it, in lower case.

    Raises ConfigurationError if it is not an isolation level, and TypeError if it is not a str.
    """
    if not isinstance(given, str):
        msg = f"isolation must be a str, not {given!r}"
        raise TypeError(msg)
    level = given.lower().replace("_", " ").replace("-", " ")
    if level not in _LEVELS:
        msg = f"isolation must be one of {', '.join(map(repr, _LEVELS))}, not {given!r}"
        raise ConfigurationError(msg)
    return level


@dataclass(frozen=True, slots=True)
class TransactionModes:
    """How a transaction is begun."""

    #: The level as `isolation_level` returns it. None: the session's default.
    isolation: str | None = None
    #: Whether it is read-only. False: the session's default decides.
    read_only: bool = False
    #: Whether a query is run within it right before COMMIT. The query fails if the transaction has
    #: failed, and then the answer to COMMIT is not needed to find that out.
    asked: bool = False

    @property
    def sql(self) -> str:
        """What follows BEGIN."""
        level = f" ISOLATION LEVEL {self.isolation.upper()}" if self.isolation else ""
        return level + (" READ ONLY" if self.read_only else "")


class TransactionState(Enum):
    """The state of a transaction after what was done within it, as far as the driver knows."""

    #: The server does not know of it yet: the driver begins it with the first statement.
    NOT_BEGUN = "not begun"
    #: It goes on. asyncpg does not know better, and says so of a failed one as well.
    OPEN = "open"
    #: A statement has failed; whatever comes, the server will roll it back.
    FAILED = "failed"
    #: A statement is still running, and nothing has waited for its answer.
    BUSY = "busy"
    #: It was committed or rolled back within.
    ENDED = "ended"


class TaskTransaction(Protocol):
    """A transaction of the driver's own kind, on a connection that a task has leased.

    Within it, the driver's own ways to nest a transaction make savepoints. Aborting the connection
    ends every wait in these methods.
    """

    def begin(self) -> Awaitable[object]:
        """Begin it, or let the driver begin it with the first statement."""

    @property
    def state(self) -> TransactionState:
        """What has become of it, as known without asking the server."""

    def fetch_row(self, sql: str) -> Awaitable[Sequence[str | None]]:
        """Run one query within it, as the first statement or a later one, and return its one row.

        See `Session.fetch_row`. No value goes through a codec of the application's.
        """

    def commit(self) -> Awaitable[bool]:
        """Commit it; return whether the server did so, and did not answer with a rollback.

        Raises if there is no answer. Nothing that the server says about COMMIT is hidden.
        """

    def roll_back(self) -> Awaitable[None]:
        """Roll it back unless it has ended, and let the driver know that it is over."""


class ThreadTransaction(Protocol):
    """The same for a thread."""

    def begin(self) -> None:
        """Begin it; see `TaskTransaction`."""

    @property
    def state(self) -> TransactionState:
        """What has become of it, as known without asking the server."""

    def fetch_row(self, sql: str) -> Sequence[str | None]:
        """Run one query within it and return its one row."""

    def commit(self) -> bool:
        """Commit it; return whether the server did so."""

    def roll_back(self) -> None:
        """Roll it back unless it has ended."""
