"""The transaction around a unit of work: what an adapter fulfils so that the core can run one."""

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

    Raises ConfigurationError for what is none, and TypeError for what is no text.
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

    #: As `isolation_level` returns it; None: the session's default.
    isolation: str | None = None
    #: Whether it is read-only; if not, the session's default says.
    read_only: bool = False
    #: Whether a question is put within it right before COMMIT. That fails where it has failed, and
    #: then nobody needs the answer to COMMIT to tell that it has.
    asked: bool = False

    @property
    def sql(self) -> str:
        """What follows BEGIN."""
        level = f" ISOLATION LEVEL {self.isolation.upper()}" if self.isolation else ""
        return level + (" READ ONLY" if self.read_only else "")


class TransactionState(Enum):
    """What has become of a transaction by what was done within it, as far as the driver knows."""

    #: The server knows of none yet, as the driver begins it with the first statement.
    NOT_BEGUN = "not begun"
    #: It goes on. asyncpg, which does not know, says so of one that has failed as well.
    OPEN = "open"
    #: A statement has failed, and whatever comes the server will roll back.
    FAILED = "failed"
    #: A statement still runs, whose answer nobody has waited for.
    BUSY = "busy"
    #: It was committed or rolled back within.
    ENDED = "ended"


class TaskTransaction(Protocol):
    """A transaction of the driver's own kind, on a connection that a task has leased.

    Within it the driver's own ways to nest one make savepoints. Aborting the connection ends
    whatever waits here.
    """

    def begin(self) -> Awaitable[object]:
        """Begin it, or have the driver begin it with the first statement."""

    @property
    def state(self) -> TransactionState:
        """What has become of it, without asking the server."""

    def fetch_row(self, sql: str) -> Awaitable[Sequence[str | None]]:
        """Run one query within it, as the first statement or a later one, and return its one row.

        See `Session.fetch_row`. No value goes through a codec of the application's.
        """

    def commit(self) -> Awaitable[bool]:
        """Commit it; tell whether the server has done that, or has answered with a rollback.

        Raises when there is no answer, and nothing that the server has said of COMMIT is hidden.
        """

    def roll_back(self) -> Awaitable[None]:
        """Roll it back, unless it has ended, and have the driver know that it is over."""


class ThreadTransaction(Protocol):
    """The same for a thread."""

    def begin(self) -> None:
        """Begin it; see `TaskTransaction`."""

    @property
    def state(self) -> TransactionState:
        """What has become of it, without asking the server."""

    def fetch_row(self, sql: str) -> Sequence[str | None]:
        """Run one query within it and return its one row."""

    def commit(self) -> bool:
        """Commit it; tell whether the server has done that."""

    def roll_back(self) -> None:
        """Roll it back, unless it has ended."""
