"""One attempt at a unit of work, as far as tasks and threads have it alike."""

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

# By a name of the module, as an enumeration looks its members up.
_OPEN: Final = TransactionState.OPEN
_WORKING, _MARKING, _COMMITTING = Phase.WORKING, Phase.MARKING, Phase.COMMITTING


class Attempt(Generic[PoolT, ConnT]):
    """What an attempt has leased, its transaction there, and what becomes of both.

    It may go on on another connection, as long as it has only read. Each face says what it leases,
    and does the waiting and the I/O.

    What every run comes through makes few calls: between two round trips the processor has
    forgotten all of it, and then each function, however short, takes half a microsecond.
    """

    #: What it has leased, or is about to.
    lease: Any
    connection: ConnT
    pool: Any
    modes: TransactionModes
    transaction: Any
    #: Whether what it writes may come of a replica's past.
    has_read = False

    def __init__(self, runs: Runs[PoolT, ConnT], unit: UnitOfWork, lease: Any) -> None:  # noqa: ANN401  # by face
        self._runs = runs
        self.unit = unit
        self.lease = lease
        lease.sets_locally = True

    @property
    def has_connection(self) -> bool:
        """Whether it has one, and is not about to get the first or another one."""
        return self.unit.phase is not Phase.WAITING

    @property
    def may_write(self) -> bool:
        """Whether it is on the master."""
        return self.has_connection and self.lease.request is MASTER

    def took(self, connection: ConnT) -> None:
        """Take over the connection that its lease has just got."""
        self.connection = connection
        lease, unit = self.lease, self.unit
        node = lease.node
        options, unasked = unit.options, unit.wrote_nothing or node.without_marks
        modes = options.modes if unasked else options.modes_to_mark
        if lease.request is not MASTER:
            unit.wrote_nothing = True
            # The guard of such a lease is the transaction, whichever server it is on.
            guarded = lease.settings is not None and lease.settings.guards_reads
            modes = options.modes_to_read if guarded else options.modes
        self.modes = modes
        self.pool = pool = node.pool
        self.transaction = pool.transaction(connection, modes)
        unit.attempts += 1
        unit.node = node
        unit.phase = _WORKING  # last: a thread interrupted before has nothing to roll back

    def asks_for_mark(self) -> bool:
        """Refuse to commit what the work has not left to be committed; else tell what comes next.

        That is the question for the mark, or COMMIT. Raises RolledBackError, or HasqlError for a
        mistake.
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
            self._runs.saw(mark)

    def committing(self, result: object) -> None:
        """Take note that COMMIT is sent next, with what the work has returned.

        Raises ConnectionError where the connection is known to be lost: it is sure what that means.
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
        """Whether the connection is the lease's still: the work may have given it back."""
        return self.lease.connection is self.connection and not self.lease.returning

    def met(self, error: BaseException) -> bool:
        """Take note of what has ended it on a connection; tell whether it is to be rolled back.

        Where the server is not to go on with what it was sent, the connection is broken here.
        """
        closed = self.pool.is_closed(self.connection)
        broken = self.unit.met(error, self.lease, self.connection, closed=closed)
        if self.unit.outcome_is_open:
            self._runs.expect_to_ask(self.unit)  # while the lease is out, so that closing waits
        if not self.is_out:
            return False
        if broken:
            self.pool.abort(self.connection)
        return not broken

    def ended(self, error: BaseException) -> None:
        """Take note that all is rolled back.

        Raises RolledBackError or LeaseTerminatedError in place of an error that only says so, and
        StaleReadError for a constraint that is violated by what a replica has shown: COMMIT may
        find that out.
        """
        closed, terminated = self.pool.is_closed(self.connection), self.lease.terminated
        self.unit.ended(error, closed=closed, terminated=terminated)
        if self.has_read:
            self.unit.check_stale(error)
        if isinstance(error, Exception):
            self._runs.note_refusal(self.unit, error)
