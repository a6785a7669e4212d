"""Units of work of tasks: each in a transaction, which is done again where that is safe."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Generic, TypeVar

from hasql._leasing.async_lease import AsyncLease
from hasql.driver import AsyncPool, ConnT, PoolT
from hasql.driver.transactions import TaskTransaction
from hasql.resilience.commit_outcome import CommitMark, Outcome
from hasql.resilience.runs import Runs, is_out
from hasql.resilience.unit_of_work import RunOptions, UnitOfWork

__all__ = ("TaskRuns",)

_T = TypeVar("_T")


class TaskRuns(Runs[PoolT, ConnT], Generic[PoolT, ConnT]):
    """The runs of one manager for tasks."""

    async def run(
        self,
        work: Callable[[ConnT], Awaitable[_T]],
        options: RunOptions,
        acquire: Callable[[float], AsyncLease[PoolT, ConnT]],
    ) -> _T:
        """Do the work; `acquire` makes a lease that has so many seconds."""
        task = asyncio.current_task()
        unit = self._begin(task, work, options)
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
        work: Callable[[ConnT], Awaitable[_T]],
        acquire: Callable[[float], AsyncLease[PoolT, ConnT]],
    ) -> _T:
        lease = acquire(unit.begin_attempt())
        connection = await lease.__aenter__()
        try:
            result = await self._transact(unit, lease, connection, work)
        except BaseException as error:
            await lease.__aexit__(type(error), error, error.__traceback__)
            raise
        await lease.__aexit__(None, None, None)
        return result

    async def _transact(
        self,
        unit: UnitOfWork,
        lease: AsyncLease[PoolT, ConnT],
        connection: ConnT,
        work: Callable[[ConnT], Awaitable[_T]],
    ) -> _T:
        """Do the work on a connection and commit it, or roll back."""
        node = lease.node
        assert node is not None  # noqa: S101  # it is lent, so it has both
        pool: AsyncPool[PoolT, ConnT] = node.pool  # type: ignore[assignment]  # its face's
        unit.took(node)
        transaction = pool.transaction(connection, unit.modes)
        try:
            await transaction.begin()
            if lease.local_settings is not None:
                await transaction.fetch_row(lease.local_settings)
            result = await _awaitable(work(connection))
            unit.may_commit(lease, connection, transaction.state)
            if self._has_mark(unit, node.host):
                row = await transaction.fetch_row(CommitMark.SQL)
                self._read_mark(unit, node.host, row)
            unit.committing(result)
            unit.committed(done=await transaction.commit())
        except BaseException as error:
            if unit.met(error, lease, connection) and is_out(lease, connection):
                pool.abort(connection)
            elif is_out(lease, connection):
                await self._roll_back(pool, connection, transaction)
            unit.ended(error, closed=pool.is_closed(connection))
            if isinstance(error, Exception):
                self._note_refusal(unit, node.host, error)
            raise
        return result

    async def _roll_back(
        self, pool: AsyncPool[PoolT, ConnT], connection: ConnT, transaction: TaskTransaction
    ) -> None:
        """Roll back in the time that a release has; else break the connection, to the same end."""
        if pool.is_closed(connection):
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._means.release_timeout, pool.abort, connection)
        try:
            await transaction.roll_back()
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
    if not isawaitable(result):
        msg = f"work must be a coroutine function; this one has returned {type(result).__name__}"
        raise TypeError(msg)
    return result
