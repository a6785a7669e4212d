"""Units of work of threads: each runs in a transaction, and is tried again where that is safe."""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from inspect import isawaitable, iscoroutine
from threading import Event, get_ident
from typing import Any, Generic, Protocol, TypeVar

from hasql._leasing.lease import Lease
from hasql._leasing.thread_lease import ThreadLease
from hasql.driver import ConnT, PoolT, ThreadPool
from hasql.driver.transactions import ThreadTransaction
from hasql.errors import PoolManagerClosedError
from hasql.resilience.attempt import Attempt
from hasql.resilience.commit_outcome import CommitMark, Outcome, outcome_of_all
from hasql.resilience.run_means import RunMeans
from hasql.resilience.run_options import RunOptions
from hasql.resilience.runs import Runs, no_work, within_another
from hasql.resilience.unit_of_work import Phase, UnitOfWork

__all__ = ("ThreadAttempt", "ThreadRuns")

_T = TypeVar("_T")


class _InLoop(Protocol):
    """Runs a coroutine in the manager's event loop and waits for its result."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, _T]], /) -> _T: ...


class ThreadAttempt(Attempt[PoolT, ConnT], Generic[PoolT, ConnT]):
    """One attempt of a thread."""

    _runs: "ThreadRuns[PoolT, ConnT]"
    lease: ThreadLease[PoolT, ConnT]
    pool: ThreadPool[PoolT, ConnT]
    transaction: ThreadTransaction

    def begin(self) -> None:
        """Begin the transaction, and set in it what a pooler keeps the session from setting."""
        self.transaction.begin()
        settings = self.lease.local_settings
        if settings is not None:
            self.transaction.fetch_row(settings)

    def leave(self, error: BaseException) -> None:
        """Give the lease back because an error has ended its use."""
        self.lease.__exit__(type(error), error, None)

    def exchange(self, acquire: Callable[[float], ThreadLease[PoolT, ConnT]]) -> None:
        """Give the connection back, and go on in a new transaction on another one."""
        if self.has_connection:
            self._runs.roll_back(self)
            self.lease.__exit__(None, None, None)
        self.lease = lease = acquire(self.unit.begin_exchange())
        lease.sets_locally = True
        self.take_connection(self.lease.__enter__())
        self.begin()


class ThreadRuns(Runs[PoolT, ConnT], Generic[PoolT, ConnT]):
    """The runs of one manager for threads.

    Args:
        means: What the manager provides for them.
        in_loop: Runs a coroutine in the manager's event loop, and waits for its result.
        limited: Aborts a lease's connection if its block takes longer than so many seconds.
    """

    def __init__(
        self,
        means: RunMeans,
        in_loop: _InLoop,
        limited: Callable[[Lease[PoolT, ConnT], float], AbstractContextManager[object]],
    ) -> None:
        super().__init__(means)
        self._in_loop = in_loop
        self._limited = limited

    def run(
        self,
        work: Callable[[Any], _T],
        options: RunOptions,
        acquire: Callable[[float], ThreadLease[PoolT, ConnT]],
        *,
        on_attempt: bool = False,
    ) -> _T:
        """Do the work on a connection. `acquire` makes a lease to acquire within so many seconds.

        With `on_attempt` the work is passed the `ThreadAttempt` instead of the connection, and may
        exchange the connection as long as it has only read.
        """
        if not callable(work):
            raise no_work(work)
        thread = get_ident()
        if thread in self._within:
            raise within_another()
        unit = UnitOfWork(options, self._means)
        seconds = options.policy.seconds
        try:
            self._within.add(thread)
            while True:
                try:
                    attempt = ThreadAttempt(self, unit, acquire(seconds))
                    return self._do(attempt, work, on_attempt=on_attempt)
                except Exception as error:
                    if unit.is_committed(error) or (
                        unit.outcome_is_open and self._is_done(unit, error)
                    ):
                        return unit.result  # type: ignore[no-any-return]  # the work's
                    pause = unit.pause(error)
                    if pause is None:
                        self._check_doubt(unit, error)
                        raise
                Event().wait(pause)
                seconds = unit.begin_again()
        finally:
            # Directly here: a Python function could be interrupted before it got to this.
            self._within.discard(thread)
            with self._means.guard:
                self._end(unit)

    def _do(
        self, attempt: ThreadAttempt[PoolT, ConnT], work: Callable[[Any], _T], *, on_attempt: bool
    ) -> _T:
        """Do the work on a connection, commit or roll back, and give the connection back."""
        try:
            result = self._work(attempt, work, on_attempt=on_attempt)
            attempt.lease.__exit__(None, None, None)
        except BaseException as error:
            if attempt.lease.connection is not None and not attempt.lease.returning:
                attempt.leave(error)  # giving it back was interrupted before it began
            raise
        return result

    def _work(
        self, attempt: ThreadAttempt[PoolT, ConnT], work: Callable[[Any], _T], *, on_attempt: bool
    ) -> _T:
        try:
            attempt.take_connection(attempt.lease.__enter__())
            attempt.begin()
            result = work(attempt if on_attempt else attempt.connection)
            if result is not None:
                _check_value(result)
            if attempt.asks_for_mark():
                attempt.read_mark(attempt.transaction.fetch_row(CommitMark.SQL))
            attempt.begin_commit(result)
            if not attempt.transaction.commit():
                attempt.unit.not_committed()
        except BaseException as error:
            self._fail(attempt, error)
            raise
        attempt.unit.phase = Phase.COMMITTED
        return result

    def _fail(self, attempt: ThreadAttempt[PoolT, ConnT], error: BaseException) -> None:
        """Roll back or break the connection, and give it back."""
        if not attempt.has_connection:
            return
        try:
            if attempt.note_error(error):
                self.roll_back(attempt)
            attempt.note_rollback(error)
        except BaseException as instead:
            attempt.leave(instead)
            raise
        attempt.leave(error)

    def roll_back(self, attempt: ThreadAttempt[PoolT, ConnT]) -> None:
        """Roll back within `release_timeout`; failing that, break the connection instead."""
        pool, connection = attempt.pool, attempt.connection
        if pool.is_closed(connection):
            return
        try:
            with self._limited(attempt.lease, self._means.release_timeout):
                attempt.transaction.roll_back()
        except BaseException as error:
            pool.abort(connection)
            if not isinstance(error, Exception):
                raise

    def _is_done(self, unit: UnitOfWork, error: Exception) -> bool:
        """Find out whether a commit was done. Raises CommitUnknownError."""
        mark, outcome = unit.mark, Outcome.UNKNOWN
        if mark is not None:
            outcome = self._find(mark, unit.deadline)
        self._end_question(unit)
        return self._take_outcome(unit, outcome, error)

    def _find(self, mark: CommitMark | None, deadline: float) -> Outcome:
        try:
            return self._in_loop(lambda: self._means.finder.find(mark, deadline))
        except PoolManagerClosedError:
            return Outcome.UNKNOWN  # the manager's loop has ended, so no server can be asked

    def _find_again(self, marks: Sequence[CommitMark | None], seconds: float) -> Outcome:
        deadline = self._means.clock() + seconds
        return outcome_of_all([self._find(mark, deadline) for mark in marks])


def _check_value(result: object) -> None:
    """Raise TypeError if the work has returned an awaitable, which no thread would await."""
    if isawaitable(result):
        if iscoroutine(result):
            result.close()
        raise TypeError(
            "work must be a function, not a coroutine function: this manager is for threads"
        )
