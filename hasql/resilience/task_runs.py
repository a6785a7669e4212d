"""Units of work of tasks: each in a transaction, which is done again where that is safe."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from inspect import isawaitable
from types import CoroutineType
from typing import Any, Generic, TypeVar

from hasql._leasing.async_lease import AsyncLease
from hasql._routing.request import MASTER
from hasql.driver import AsyncPool, ConnT, PoolT
from hasql.driver.transactions import TaskTransaction, TransactionModes
from hasql.resilience.commit_outcome import CommitMark, Outcome
from hasql.resilience.run_options import RunOptions
from hasql.resilience.runs import Runs, check_open, check_work, is_out
from hasql.resilience.unit_of_work import UnitOfWork

__all__ = ("TaskAttempt", "TaskRuns")

_T = TypeVar("_T")


class TaskAttempt(Generic[PoolT, ConnT]):
    """One attempt at a unit of work: what it has leased, and its transaction there."""

    lease: AsyncLease[PoolT, ConnT] | None = None
    connection: ConnT
    pool: AsyncPool[PoolT, ConnT]
    modes: TransactionModes
    transaction: TaskTransaction

    def __init__(self, runs: "TaskRuns[PoolT, ConnT]", unit: UnitOfWork) -> None:
        self._runs = runs
        self.unit = unit

    @property
    def may_write(self) -> bool:
        """Whether it is on the master."""
        return self.lease is not None and self.lease.request is MASTER

    async def take(self, lease: AsyncLease[PoolT, ConnT]) -> None:
        """Lease a connection."""
        self.connection = await lease.__aenter__()
        self.lease, node, unit = lease, lease.node, self.unit
        assert node is not None  # noqa: S101  # it is lent, so it has both
        unit.took(node)
        if lease.request is not MASTER:
            unit.only_reads()
        self.pool = node.pool  # type: ignore[assignment]  # its face's
        self.modes = self._runs.modes(unit, node.host)
        self.transaction = self.pool.transaction(self.connection, self.modes)

    async def begin(self) -> None:
        """Begin its transaction, in which it sets what a pooler keeps from the session."""
        await self.transaction.begin()
        if self.lease is not None and self.lease.local_settings is not None:
            await self.transaction.fetch_row(self.lease.local_settings)

    async def leave(self, error: BaseException | None) -> None:
        """Give back what is leased, if anything is."""
        lease, self.lease = self.lease, None
        if lease is not None:
            await lease.__aexit__(type(error) if error else None, error, None)

    async def exchange(self, acquire: Callable[[float], AsyncLease[PoolT, ConnT]]) -> None:
        """Go on in a transaction on another connection, once the first one is given back."""
        await self._runs.roll_back(self)
        await self.leave(None)
        await self.take(acquire(self.unit.exchanging()))
        await self.begin()


class TaskRuns(Runs[PoolT, ConnT], Generic[PoolT, ConnT]):
    """The runs of one manager for tasks."""

    def run(
        self,
        work: Callable[[ConnT], Awaitable[_T]],
        options: RunOptions,
        acquire: Callable[[float], AsyncLease[PoolT, ConnT]],
    ) -> Coroutine[Any, Any, _T]:
        """Do the work; `acquire` makes a lease that has so many seconds."""
        check_work(work)
        return self.run_attempts(lambda attempt: work(attempt.connection), options, acquire)

    async def run_attempts(
        self,
        work: Callable[[TaskAttempt[PoolT, ConnT]], Awaitable[_T]],
        options: RunOptions,
        acquire: Callable[[float], AsyncLease[PoolT, ConnT]],
    ) -> _T:
        """Do work that may exchange its connection, as long as it has only read."""
        task = asyncio.current_task()
        unit = self._begin(task, options)
        try:
            while True:
                try:
                    return await self._attempt(unit, work, acquire)
                except Exception as error:
                    if unit.outcome_is_open and await self._is_done(unit, error):
                        return unit.result  # type: ignore[no-any-return]  # the work's
                    pause = unit.pause(error)
                    if pause is None:
                        raise
                await asyncio.sleep(pause)
        finally:
            self._end(task, unit)

    async def _attempt(
        self,
        unit: UnitOfWork,
        work: Callable[[TaskAttempt[PoolT, ConnT]], Awaitable[_T]],
        acquire: Callable[[float], AsyncLease[PoolT, ConnT]],
    ) -> _T:
        attempt = TaskAttempt(self, unit)
        await attempt.take(acquire(unit.begin_attempt()))
        try:
            result = await self._transact(attempt, work)
        except BaseException as error:
            await attempt.leave(error)
            raise
        await attempt.leave(None)
        return result

    async def _transact(
        self,
        attempt: TaskAttempt[PoolT, ConnT],
        work: Callable[[TaskAttempt[PoolT, ConnT]], Awaitable[_T]],
    ) -> _T:
        """Do the work on a connection and commit it, or roll back."""
        unit = attempt.unit
        try:
            await attempt.begin()
            result = await _awaitable(work(attempt))
            transaction = attempt.transaction
            unit.may_commit(attempt.lease, attempt.connection, transaction.state)
            if attempt.modes.asked and not unit.wrote_nothing:
                unit.marking()
                row = await transaction.fetch_row(CommitMark.SQL)
                self._read_mark(unit, unit.host, row)
            check_open(attempt.pool, attempt.connection)
            unit.committing(result)
            unit.committed(done=await transaction.commit())
        except BaseException as error:
            lease, connection, pool = attempt.lease, attempt.connection, attempt.pool
            if lease is None:  # it was about to get another one
                raise
            if unit.met(error, lease, connection) and is_out(lease, connection):
                pool.abort(connection)
            elif is_out(lease, connection):
                await self.roll_back(attempt)
            unit.ended(error, closed=pool.is_closed(connection))
            if isinstance(error, Exception):
                self._note_refusal(unit, unit.host, error)
            raise
        return result

    async def roll_back(self, attempt: TaskAttempt[PoolT, ConnT]) -> None:
        """Roll back in the time that a release has; else break the connection, to the same end."""
        pool, connection = attempt.pool, attempt.connection
        if pool.is_closed(connection):
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._means.release_timeout, pool.abort, connection)
        try:
            await attempt.transaction.roll_back()
        except BaseException as error:
            pool.abort(connection)
            if not isinstance(error, Exception):
                raise
        finally:
            timer.cancel()

    async def _is_done(self, unit: UnitOfWork, error: Exception) -> bool:
        """Find out whether a commit was done. Raises CommitUnknownError."""
        mark, outcome = unit.mark, Outcome.UNKNOWN
        if mark is not None:
            outcome = await self._means.finder.find(mark, unit.deadline)
        return self._found_out(unit, outcome, error)

    async def _find_again(self, mark: CommitMark | None, seconds: float) -> Outcome:
        return await self._means.finder.find(mark, self._means.clock() + seconds)


def _awaitable(result: Awaitable[_T]) -> Awaitable[_T]:
    """Return what a work is waited for by. Raises TypeError if that is nothing to wait for."""
    if type(result) is not CoroutineType and not isawaitable(result):
        msg = f"work must be a coroutine function; this one has returned {type(result).__name__}"
        raise TypeError(msg)
    return result
