"""What an exception means for a retry: its category, and whether `run` tries again."""

from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from hasql._leasing.error_origins import ErrorOrigin, ErrorOrigins
from hasql.driver import Driver, Failure
from hasql.driver.judgement import is_own_limit, judge_error, sqlstate_of
from hasql.errors import (
    BreakerOpenError,
    HasqlError,
    LeaseTerminatedError,
    NameResolutionError,
    NotAvailableError,
    OverloadedError,
    RateLimitedError,
    StaleReadError,
)
from hasql.resilience.commit_outcome import CommitUnknownError

__all__ = ("Category", "ErrorKind", "ErrorRules")


class Category(Enum):
    """The cause of an exception, by which an application can decide what to do."""

    #: A host or a connection is lost or unavailable, or the outcome of a commit is not known.
    INFRASTRUCTURE = "infrastructure"
    #: There is too much load: the server has no free slot, a pool is exhausted, or load is shed.
    OVERLOAD = "overload"
    #: Another transaction was in the way: a serialization failure, a deadlock, or a lock that could
    #: not be taken.
    CONFLICT = "conflict"
    #: Everything else: it is the application's own matter.
    APPLICATION = "application"


class ErrorKind(Enum):
    """How an exception is dealt with: its category, and whether `run` tries again."""

    LOST = Category.INFRASTRUCTURE, True, "connection lost"
    SHUTDOWN = Category.INFRASTRUCTURE, True, "the server is shutting down or starting"
    STANDBY = Category.INFRASTRUCTURE, True, "a standby was asked to write"
    ABSENT = Category.INFRASTRUCTURE, True, "no host available"
    REFUSED = Category.INFRASTRUCTURE, False, "login refused"
    BREAKER = Category.INFRASTRUCTURE, False, "breaker open"
    UNKNOWN = Category.INFRASTRUCTURE, False, "outcome of a commit unknown"
    FULL = Category.OVERLOAD, True, "no slot at the server"
    EXHAUSTED = Category.OVERLOAD, True, "pool exhausted"
    SHED = Category.OVERLOAD, False, "load shed"
    CONFLICT = Category.CONFLICT, True, "conflict with another transaction"
    LOCKED = Category.CONFLICT, False, "lock not available"
    #: The server refuses the question for a transaction's id; the work is done again without it.
    NO_MARK = Category.APPLICATION, True, "the outcome of commits cannot be found out"
    #: The session or the lease has reached a limit set for it, and would reach it again.
    LIMIT = Category.APPLICATION, False, "a limit of the session's own"
    OTHER = Category.APPLICATION, False, "the application's"

    @property
    def category(self) -> Category:
        """The category of such exceptions."""
        return self.value[0]

    @property
    def retried(self) -> bool:
        """Whether `run` tries again, unless the exception came in answer to COMMIT."""
        return self.value[1]


# https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_SQLSTATE: Final = MappingProxyType(
    {
        "40001": ErrorKind.CONFLICT,
        "40P01": ErrorKind.CONFLICT,
        "53300": ErrorKind.FULL,
        "55P03": ErrorKind.LOCKED,
        "57P01": ErrorKind.SHUTDOWN,
        "57P02": ErrorKind.SHUTDOWN,
        "57P03": ErrorKind.SHUTDOWN,
    }
)
_BY_FAILURE: Final = MappingProxyType(
    {
        Failure.BROKEN: ErrorKind.LOST,
        Failure.FULL: ErrorKind.FULL,
        Failure.REFUSED: ErrorKind.REFUSED,
        Failure.LIMIT: ErrorKind.LIMIT,
    }
)
_OURS: Final = (
    (OverloadedError, ErrorKind.SHED),
    (RateLimitedError, ErrorKind.SHED),
    (BreakerOpenError, ErrorKind.BREAKER),
    (CommitUnknownError, ErrorKind.UNKNOWN),
    (LeaseTerminatedError, ErrorKind.LIMIT),
    (StaleReadError, ErrorKind.CONFLICT),
)
#: SQLSTATEs with which a standby refuses a write, or a question about its own WAL position.
_OF_A_STANDBY: Final = frozenset({"25006", "55000"})


class ErrorRules:
    """Classifies exceptions: hasql's own, and the driver's by SQLSTATE and by what was lost."""

    def __init__(self, driver: Driver[Any, Any], origins: ErrorOrigins) -> None:
        self._driver = driver
        self._origins = origins

    def sqlstate(self, error: BaseException) -> str | None:
        """Return the server's code; empty: an error of the driver itself; None: any other."""
        return sqlstate_of(self._driver, error)

    def kind(self, error: BaseException) -> ErrorKind:
        """Say how to deal with an exception, as far as it and its lease tell."""
        if not isinstance(error, Exception):
            return ErrorKind.OTHER  # a cancellation, or the end of the program
        if isinstance(error, HasqlError) and not isinstance(error, NameResolutionError):
            return _of_ours(error)
        code = self.sqlstate(error) or ""
        if code in _BY_SQLSTATE:
            return _BY_SQLSTATE[code]
        if code in _OF_A_STANDBY:
            on_standby = self._origins.is_noted(error, ErrorOrigin.STANDBY)
            return ErrorKind.STANDBY if on_standby else ErrorKind.OTHER
        terminated = self._origins.is_noted(error, ErrorOrigin.TERMINATED_LEASE)
        sound = self._origins.is_noted(error, ErrorOrigin.SOUND_CONNECTION)
        if sound or (is_own_limit(error) and not terminated):
            return ErrorKind.OTHER
        lost = self._origins.is_noted(error, ErrorOrigin.LOST_CONNECTION)
        failure = Failure.BROKEN if lost else judge_error(self._driver, error)
        return _BY_FAILURE.get(Failure.LIMIT if terminated else failure, ErrorKind.OTHER)

    def kind_in_use(self, error: BaseException, *, closed: bool) -> ErrorKind:
        """Say how to deal with an exception raised while a connection was in use.

        `closed` tells whether the connection is closed by now. If it is not, an error that looks
        like a lost connection is about another one, of another database or service. If it is, any
        error that the driver itself raises is taken for the loss of this connection.
        """
        kind = self.kind(error)
        if kind is ErrorKind.LOST and not closed:
            if self.sqlstate(error) is None:
                self._origins.note(error, ErrorOrigin.SOUND_CONNECTION)
            return ErrorKind.OTHER
        if kind is ErrorKind.OTHER and closed and self.sqlstate(error) == "":
            return ErrorKind.LOST
        return kind

    def note_on_standby(self, error: BaseException) -> None:
        """Note that the server of a master's lease has said that it is a standby."""
        if self.sqlstate(error) in _OF_A_STANDBY:
            self._origins.note(error, ErrorOrigin.STANDBY)


def _of_ours(error: HasqlError) -> ErrorKind:
    for of, kind in _OURS:
        if isinstance(error, of):
            return kind
    if isinstance(error, NotAvailableError):
        return ErrorKind.EXHAUSTED if error.exhausted else ErrorKind.ABSENT
    return ErrorKind.OTHER
