"""One unit of work: how much time it has left, and what follows each failure."""

import logging
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NoReturn

from hasql._leasing.hints import is_on_standby
from hasql._leasing.lease import Lease
from hasql._leasing.return_rules import TERMINATED, lease_was_terminated
from hasql._routing.node import Node
from hasql._routing.request import MASTER
from hasql.cluster.host import HostSpec
from hasql.cluster.probe import UnreadableAnswerError
from hasql.diagnostics import about
from hasql.driver.transactions import TransactionState
from hasql.errors import HasqlError, RolledBackError, StaleReadError
from hasql.resilience.commit_outcome import CommitMark, Outcome
from hasql.resilience.error_rules import Category, ErrorKind
from hasql.resilience.run_means import RunMeans
from hasql.resilience.run_options import RunOptions

__all__ = ("Phase", "UnitOfWork")

log = logging.getLogger("hasql")

_IN_FAILED_TRANSACTION: Final = "25P02"
#: SQLSTATE classes with which a server refuses the question for the mark: it forbids the question,
#: or has no such function.
_NOT_IN_THIS_STATE: Final = "55000"
_REFUSALS: Final = ("0A", "42", _NOT_IN_THIS_STATE, "XX")
#: SQLSTATE class of errors that a pooler raises itself, on a connection that it keeps open.
_SYSTEM_ERROR: Final = "58"
#: SQLSTATE class of violated constraints.
_VIOLATIONS: Final = "23"


_GIVEN_BACK: Final = (
    "the work gave its own connection back, and what it had open is rolled back; let run() give "
    "it back"
)
_MISTAKES: Final = MappingProxyType(
    {
        TransactionState.ENDED: (
            "the work ended its own transaction: what it committed stays, and nothing is tried "
            "again; let run() commit, and raise an exception to roll back"
        ),
        TransactionState.BUSY: (
            "the work returned while a statement was still running on its connection, and is "
            "rolled back; wait for each statement to end"
        ),
    }
)


class Phase(Enum):
    """How far an attempt has got."""

    #: No connection yet.
    WAITING = "waiting for a connection"
    #: From the connection to the end of the work.
    WORKING = "at work"
    #: Reading the mark, by which the outcome of the commit can be found out later.
    MARKING = "about to commit"
    #: COMMIT may have been sent.
    COMMITTING = "committing"
    #: COMMIT was answered: the work is done, whatever happens to the connection.
    COMMITTED = "committed"


class UnitOfWork:
    """Makes the decisions for tasks and threads alike; its caller waits and does the I/O.

    An attempt writes its progress directly into `phase`, `node`, `mark` and `result`, which saves a
    call for each step. When an exception ends the attempt, the caller calls `note_error` and
    `note_rollback` while the lease is still out, and then `pause`, which says what comes next.
    """

    # Class defaults, because a unit is made for each run and most units never set them.

    #: How many attempts have reached a server.
    attempts = 0
    phase = Phase.WAITING
    #: The node that the attempt's connection is on; None: the attempt has no connection yet.
    node: Node[Any, Any] | None = None
    #: What was read before COMMIT; None: nothing was read, or nothing was written.
    mark: CommitMark | None = None
    #: What the work returned in the attempt that is committing.
    result: Any = None
    #: The categories of the errors after which the work was tried again.
    retried: tuple[Category, ...] = ()
    #: The marks of commits whose outcome is unknown, and the host of the last one. The work was
    #: tried again all the same if it is idempotent.
    in_doubt: tuple[CommitMark | None, ...] = ()
    host_in_doubt: HostSpec | None = None
    #: Whether the finder of commits was told that this unit is about to ask.
    asks = False
    _kind = ErrorKind.OTHER
    _answered = True
    _on_standby = False
    _last: Exception | None = None

    def __init__(self, options: RunOptions, means: RunMeans) -> None:
        self.options = options
        self._means = means
        #: Whether it is certain that nothing was written.
        self.wrote_nothing = options.read_only
        #: From this time on, by the clock, nothing new is begun.
        self.deadline = means.clock() + options.policy.seconds

    @property
    def host(self) -> HostSpec:
        """The host that the last attempt was on."""
        assert self.node is not None  # noqa: S101  # it had a connection
        return self.node.host

    # One attempt

    def begin_again(self) -> float:
        """Begin another attempt; return how many seconds are left to get a connection."""
        if self.node is not None:
            self.phase, self.node, self.mark, self.result = Phase.WAITING, None, None, None
            self._answered, self._kind = True, ErrorKind.OTHER
        self.wrote_nothing = self.options.read_only
        return max(0.0, self.deadline - self._means.clock())

    def begin_exchange(self) -> float:
        """Note that the attempt moves to another connection; return the seconds left to get it."""
        self.attempts -= 1  # the attempt counts once, on the connection where it ends
        return self.begin_again()

    def check(self, state: TransactionState, *, is_out: bool) -> None:
        """Refuse to commit unless the transaction is intact and its connection is still out.

        Raises RolledBackError, or HasqlError for a mistake in the work.
        """
        if not is_out:
            raise HasqlError(_GIVEN_BACK)
        if state is TransactionState.FAILED:
            raise _rolled_back()
        if state is not TransactionState.NOT_BEGUN:
            raise HasqlError(_MISTAKES[state])
        self.wrote_nothing = True

    def not_committed(self) -> NoReturn:
        """Raise RolledBackError: the server has answered COMMIT with a rollback."""
        raise _rolled_back()

    def note_error(
        self, error: BaseException, lease: Lease[Any, Any], connection: object, *, closed: bool
    ) -> bool:
        """Note the error that ended an attempt; tell whether to break its connection.

        The connection is broken if COMMIT was sent and not answered, so that the server does not
        go on with it. An error that closed the connection is no answer, whoever sent it: a server
        that cannot flush its log goes down with the commit in that log, and a pooler's limit ends
        the wait for a COMMIT that the server still carries out.
        """
        node, self._answered = self.node, True
        assert node is not None  # noqa: S101  # it has a connection
        self._on_standby = lease.request is MASTER and is_on_standby(node, connection)
        if self._on_standby:
            self._means.rules.note_on_standby(error)
        if self.phase is Phase.COMMITTING and not isinstance(error, RolledBackError):
            rules = self._means.rules
            code = rules.sqlstate(error) or ""
            lost = closed or rules.kind(error) in {ErrorKind.LOST, ErrorKind.SHUTDOWN}
            self._answered = bool(code) and not lost and not code.startswith(_SYSTEM_ERROR)
        return not self._answered

    def note_rollback(self, error: BaseException, *, closed: bool, terminated: bool) -> None:
        """Note that the attempt is rolled back, and classify the error that ended it.

        `closed` tells whether the connection is closed. `terminated` tells whether `leak_action`
        ended the lease: the work would run into that limit again. Raises RolledBackError or
        LeaseTerminatedError in place of an error that says no more than that.
        """
        kind = self._means.rules.kind_in_use(error, closed=closed)
        if terminated and isinstance(error, Exception):
            kind = self._terminated(error, kind)
        if not self._answered and isinstance(error, Exception) and kind is not ErrorKind.LIMIT:
            kind = ErrorKind.LOST
        self._kind = kind
        if self.phase is Phase.MARKING:
            code = self._means.rules.sqlstate(error)
            if code == _IN_FAILED_TRANSACTION:
                raise _rolled_back() from error
            unreadable = isinstance(error, UnreadableAnswerError)
            if unreadable or (code and code.startswith(_REFUSALS) and not closed):
                self._kind = self._kind_of_refusal(code, error)

    def _terminated(self, error: Exception, kind: ErrorKind) -> ErrorKind:
        """Classify an error on a terminated lease.

        Raises LeaseTerminatedError if the error answered hasql's own question, not the work's.
        """
        if self.phase is Phase.MARKING:
            self._kind = ErrorKind.LIMIT
            raise lease_was_terminated() from error
        if kind is not ErrorKind.LOST and self._answered:
            return kind
        if not isinstance(error, HasqlError):
            error.add_note(f"hasql: {TERMINATED}")
        return ErrorKind.LIMIT

    def _kind_of_refusal(self, code: str | None, error: BaseException) -> ErrorKind:
        """Tell why the question for the mark was refused.

        A standby in recovery refuses it. Behind a pooler or a service name that standby may be
        another server than the one the monitor sees, which answers such questions.
        """
        answers = self.node is not None and self.node.server is not None
        if self._on_standby or (code == _NOT_IN_THIS_STATE and answers):
            self._means.rules.note_on_standby(error)
            return ErrorKind.STANDBY
        return ErrorKind.NO_MARK

    def check_stale(self, error: BaseException) -> None:
        """Treat a violated constraint, after a read on a replica, as a conflict.

        Raises StaleReadError if the error is one.
        """
        if (self._means.rules.sqlstate(error) or "").startswith(_VIOLATIONS):
            self._kind = ErrorKind.CONFLICT
            raise StaleReadError(
                "a constraint is violated by values that were computed from what was read on a "
                "replica"
            ) from error

    # What comes next

    def is_committed(self, error: Exception) -> bool:
        """Tell whether the work is committed and the error only concerns its connection.

        The connection may have been broken right after COMMIT was answered, for example by
        `leak_action`. An exception that a signal handler raises is not hidden in this way.
        """
        if self.phase is not Phase.COMMITTED:
            return False
        ours = isinstance(error, HasqlError | ConnectionError)
        return ours or self._means.rules.sqlstate(error) is not None

    @property
    def outcome_is_open(self) -> bool:
        """Whether the outcome of the attempt that has just failed is unknown.

        An attempt that has written nothing does not count: it is simply done again.
        """
        return not self._answered and not self.wrote_nothing

    def take_outcome(self, outcome: Outcome) -> bool | None:
        """Take the outcome found; tell whether the work is done. None: unknown, so the run ends."""
        if outcome is Outcome.UNKNOWN:
            self.in_doubt, self.host_in_doubt = (*self.in_doubt, self.mark), self.host
            if not self.options.idempotent:
                return None
        return outcome is Outcome.COMMITTED

    @property
    def mark_was_refused(self) -> bool:
        """Whether the server has refused the question for the mark, which hasql itself asked."""
        return self._kind is ErrorKind.NO_MARK

    def pause(self, error: Exception) -> float | None:
        """Return how many seconds to wait before the next attempt; None: there is none."""
        if self.phase is Phase.WAITING:
            self._kind = self._means.rules.kind_in_use(error, closed=True)
            if self._last is not None and error.__cause__ is None:
                error.__cause__ = self._last
        self._last = error
        if self.mark_was_refused:
            self.attempts -= 1
            return 0.0
        if not self._kind.retried or self.attempts >= self.options.policy.attempts:
            self._give_up(error)
            return None
        pause = self.options.policy.pause(len(self.retried) + 1, self._means.chance)
        if pause >= self.deadline - self._means.clock():
            self._give_up(error)
            return None
        self.retried += (self._kind.category,)
        self._tell(error, pause)
        return pause

    def leaves_in_doubt(self, error: Exception) -> bool:
        """Tell whether an error that ends the run would wrongly suggest that nothing was done.

        That is so if an earlier commit is in doubt. An error that the work itself raises is the
        application's, and is passed on as it is.
        """
        if not self.in_doubt:
            return False
        ours = self.phase is Phase.WAITING or self._kind is not ErrorKind.OTHER
        return ours or isinstance(error, RolledBackError)

    @property
    def has_failed(self) -> bool:
        """Whether an attempt has failed, so that there is something to `forget`."""
        return self._last is not None

    def forget(self) -> None:
        """Drop the last error: its traceback refers to this object."""
        self._last = None

    def _give_up(self, error: Exception) -> None:
        if self.retried and self.phase is not Phase.COMMITTED:
            error.add_note(f"hasql: run gave up after attempt {self.attempts}")

    def _tell(self, error: Exception, pause: float) -> None:
        host = None if self.node is None else self.node.host
        log.info(
            "run: %s, attempt %d, %s; again in %s s: %s",
            host or "no host yet",
            self.attempts,
            self._kind.value[2],
            f"{pause:.3f}",
            self._means.hide(f"{type(error).__name__}: {error}"),
            extra=about(
                "run_retried",
                host=host,
                attempt=self.attempts,
                phase=self.phase.value,
                category=self._kind.category.value,
                sqlstate=self._means.rules.sqlstate(error) or None,
                pause=pause,
            ),
        )


def _rolled_back() -> RolledBackError:
    """Make the error for work whose COMMIT was, or would be, answered with a rollback."""
    return RolledBackError(
        "the server rolled the work back: one of its statements failed, and the work caught the "
        "error and went on; let the error out, or put that statement into a savepoint"
    )
