"""One attempt at a unit of work: the part that tasks and threads share."""

from collections.abc import Sequence
from typing import Any, Final, Generic

from hasql._leasing.return_rules import lease_was_terminated
from hasql._routing.request import MASTER
from hasql.driver import ConnT, PoolT
from hasql.driver.transactions import TransactionModes, TransactionState
from hasql.resilience.commit_outcome import CommitMark
from hasql.resilience.runs import Runs
from hasql.resilience.unit_of_work import Phase, UnitOfWork

__all__ = ("Attempt",)

# Bound to names of the module, because looking up a member of an enumeration is slower.
_OPEN: Final = TransactionState.OPEN
_WORKING, _MARKING, _COMMITTING = Phase.WORKING, Phase.MARKING, Phase.COMMITTING


class Attempt(Generic[PoolT, ConnT]):
    """The lease of an attempt, its transaction there, and what happens to both.

    An attempt may move to another connection as long as it has only read. The subclass for each
    face defines the lease, and does the waiting and the I/O.

    The code that every run passes through makes few calls. Between two round trips the processor's
    caches lose this code, and then every function call, however short, takes half a microsecond.
    """

    #: The lease that the attempt has, or is about to acquire.
    lease: Any
    connection: ConnT
    pool: Any
    modes: TransactionModes
    transaction: Any
    #: Whether the attempt may have read from a replica, so that its writes may rest on stale data.
    has_read = False

    def __init__(self, runs: Runs[PoolT, ConnT], unit: UnitOfWork, lease: Any) -> None:  # noqa: ANN401  # by face
        self._runs = runs
        self.unit = unit
        self.lease = lease
        lease.sets_locally = True

    @property
    def has_connection(self) -> bool:
        """Whether the attempt has a connection now, and is not waiting for one."""
        return self.unit.phase is not Phase.WAITING

    @property
    def may_write(self) -> bool:
        """Whether the attempt is on the master."""
        return self.has_connection and self.lease.request is MASTER

    def take_connection(self, connection: ConnT) -> None:
        """Take over the connection that the lease has just acquired."""
        self.connection = connection
        lease, unit = self.lease, self.unit
        node = lease.node
        options, unasked = unit.options, unit.wrote_nothing or node.lacks_commit_marks
        modes = options.modes if unasked else options.modes_to_mark
        if lease.request is not MASTER:
            unit.wrote_nothing = True
            # The transaction is what guards such a lease against writes, whatever its server.
            guarded = lease.settings is not None and lease.settings.enforce_read_only
            modes = options.modes_to_read if guarded else options.modes
        self.modes = modes
        self.pool = pool = node.pool
        self.transaction = pool.transaction(connection, modes)
        unit.attempts += 1
        unit.node = node
        unit.phase = _WORKING  # last: a thread interrupted before this has nothing to roll back

    def asks_for_mark(self) -> bool:
        """Check that the work may be committed; tell whether to ask for the mark before COMMIT.

        Raises RolledBackError, or HasqlError for a mistake in the work.
        """
        unit, state, is_out = self.unit, self.transaction.state, self.is_out
        if state is not _OPEN or not is_out:
            unit.check(state, is_out=is_out)
        if not self.modes.asked or unit.wrote_nothing:
            return False
        unit.phase = _MARKING
        return True

    def read_mark(self, row: Sequence[str | None]) -> None:
        """Read the answer to the question for the mark."""
        unit = self.unit
        unit.mark = mark = CommitMark.read(unit.host, row)
        if mark is None:
            unit.wrote_nothing = True
        else:
            self._runs.note_mark(mark)

    def begin_commit(self, result: object) -> None:
        """Note that COMMIT is sent next, and what the work has returned.

        Raises ConnectionError or LeaseTerminatedError if the connection is known to be closed: as
        COMMIT was not sent, it is certain that nothing was committed.
        """
        if self.pool.is_closed(self.connection):
            if self.lease.terminated:
                raise lease_was_terminated()
            raise ConnectionError("the connection was lost before COMMIT was sent")
        unit = self.unit
        unit.result = result
        unit.phase = _COMMITTING

    @property
    def is_out(self) -> bool:
        """Whether the lease still has the connection: the work may have given it back."""
        return self.lease.connection is self.connection and not self.lease.returning

    def note_error(self, error: BaseException) -> bool:
        """Note the error that ended the attempt on a connection; tell whether to roll back.

        If the server must not go on with what it was sent, the connection is broken here instead.
        """
        closed = self.pool.is_closed(self.connection)
        broken = self.unit.note_error(error, self.lease, self.connection, closed=closed)
        if self.unit.outcome_is_open:
            # While the lease is still out, so that closing the manager waits.
            self._runs.expect_question(self.unit)
        if not self.is_out:
            return False
        if broken:
            self.pool.abort(self.connection)
        return not broken

    def note_rollback(self, error: BaseException) -> None:
        """Note that the attempt is rolled back.

        Raises RolledBackError or LeaseTerminatedError in place of an error that says no more than
        that, and StaleReadError for a constraint that is violated because of what a replica has
        shown, even if only COMMIT detects the violation.
        """
        closed, terminated = self.pool.is_closed(self.connection), self.lease.terminated
        self.unit.note_rollback(error, closed=closed, terminated=terminated)
        if self.has_read:
            self.unit.check_stale(error)
        if isinstance(error, Exception):
            self._runs.note_refusal(self.unit, error)
