"""Units of work of threads: each in a transaction, which is done again where that is safe."""

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from inspect import isawaitable, iscoroutine
from threading import Event, get_ident
from typing import Any, Generic, Protocol, TypeVar

from hasql._leasing.lease import Lease
from hasql._leasing.thread_lease import ThreadLease
from hasql.driver import ConnT, PoolT, ThreadPool
from hasql.driver.transactions import ThreadTransaction
from hasql.resilience.commit_outcome import CommitMark, Outcome
from hasql.resilience.runs import RunMeans, Runs, is_out
from hasql.resilience.unit_of_work import RunOptions, UnitOfWork

__all__ = ("ThreadRuns",)

_T = TypeVar("_T")


class _InLoop(Protocol):
    """Does some work in the manager's event loop and waits for it."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, _T]], /) -> _T: ...


class ThreadRuns(Runs[PoolT, ConnT], Generic[PoolT, ConnT]):
    """The runs of one manager for threads.

    Args:
        means: What the manager has for them.
        in_loop: Does some work in the manager's event loop, and waits for it.
        limited: Aborts a lease's connection if what is done within takes so many seconds.
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
        work: Callable[[ConnT], _T],
        options: RunOptions,
        acquire: Callable[[float], ThreadLease[PoolT, ConnT]],
    ) -> _T:
        """Do the work; `acquire` makes a lease that has so many seconds."""
        thread = get_ident()
        unit = self._begin(thread, work, options)
        try:
            while True:
                try:
                    return self._attempt(unit, work, acquire)
                except Exception as error:
                    if unit.outcome_is_open and self._is_done(unit, error):
                        return unit.result  # type: ignore[no-any-return]  # the work's
                    pause = unit.pause(error)
                    if pause is None:
                        raise
                Event().wait(pause)
        finally:
            self._end(thread, unit)

    def _attempt(
        self,
        unit: UnitOfWork,
        work: Callable[[ConnT], _T],
        acquire: Callable[[float], ThreadLease[PoolT, ConnT]],
    ) -> _T:
        lease = acquire(unit.begin_attempt())
        with lease as connection:
            return self._transact(unit, lease, connection, work)

    def _transact(
        self,
        unit: UnitOfWork,
        lease: ThreadLease[PoolT, ConnT],
        connection: ConnT,
        work: Callable[[ConnT], _T],
    ) -> _T:
        """Do the work on a connection and commit it, or roll back."""
        node = lease.node
        assert node is not None  # noqa: S101  # it is lent, so it has both
        pool: ThreadPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # its face's
        unit.took(node)
        transaction = pool.transaction(connection, unit.modes)
        try:
            transaction.begin()
            if lease.local_settings is not None:
                transaction.fetch_row(lease.local_settings)
            result = _value(work(connection))
            unit.may_commit(lease, connection, transaction.state)
            if self._has_mark(unit, node.host):
                row = transaction.fetch_row(CommitMark.SQL)
                self._read_mark(unit, node.host, row)
            unit.committing(result)
            unit.committed(done=transaction.commit())
        except BaseException as error:
            if unit.met(error, lease, connection) and is_out(lease, connection):
                pool.abort(connection)
            elif is_out(lease, connection):
                self._roll_back(pool, lease, connection, transaction)
            unit.ended(error, closed=pool.is_closed(connection))
            if isinstance(error, Exception):
                self._note_refusal(unit, node.host, error)
            raise
        return result

    def _roll_back(
        self,
        pool: ThreadPool[PoolT, ConnT],
        lease: ThreadLease[PoolT, ConnT],
        connection: ConnT,
        transaction: ThreadTransaction,
    ) -> None:
        """Roll back in the time that a release has; else break the connection, to the same end."""
        if pool.is_closed(connection):
            return
        try:
            with self._limited(lease, self._means.release_timeout):
                transaction.roll_back()
        except BaseException as error:
            pool.abort(connection)
            if not isinstance(error, Exception):
                raise

    def _is_done(self, unit: UnitOfWork, error: Exception) -> bool:
        """Find out whether a commit was done. Raises CommitUnknownError."""
        mark, outcome = unit.mark, Outcome.UNKNOWN
        if mark is not None:
            outcome = self._find(mark, unit.deadline)
        return self._found_out(unit, outcome, error)

    def _find(self, mark: CommitMark | None, deadline: float) -> Outcome:
        return self._in_loop(lambda: self._means.finder.find(mark, deadline))

    def _find_again(self, mark: CommitMark | None, seconds: float) -> Outcome:
        return self._find(mark, self._means.clock() + seconds)


def _value(result: _T) -> _T:
    """Return what a work has returned. Raises TypeError for a coroutine, which nobody waits for."""
    if isawaitable(result):
        if iscoroutine(result):
            result.close()
        raise TypeError(
            "work must be a function, not a coroutine function: this manager is for threads"
        )
    return result
