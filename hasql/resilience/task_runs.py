"""Units of work of tasks: each runs in a transaction, and is tried again where that is safe."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from types import CoroutineType
from typing import Any, Final, Generic, TypeVar

from hasql._leasing.async_lease import AsyncLease
from hasql._leasing.loop_binding import LoopBinding
from hasql.driver import AsyncPool, ConnT, PoolT
from hasql.driver.transactions import TaskTransaction
from hasql.resilience.attempt import Attempt
from hasql.resilience.commit_outcome import CommitMark, Outcome, outcome_of_all
from hasql.resilience.run_means import RunMeans
from hasql.resilience.run_options import RunOptions
from hasql.resilience.runs import Runs, no_work, within_another
from hasql.resilience.unit_of_work import Phase, UnitOfWork

__all__ = ("TaskAttempt", "TaskRuns")

_T = TypeVar("_T")

_COMMITTED: Final = Phase.COMMITTED


class TaskAttempt(Attempt[PoolT, ConnT], Generic[PoolT, ConnT]):
    """One attempt of a task."""

    _runs: "TaskRuns[PoolT, ConnT]"
    lease: AsyncLease[PoolT, ConnT]
    pool: AsyncPool[PoolT, ConnT]
    transaction: TaskTransaction

    def leave(self, error: BaseException) -> Awaitable[None]:
        """Give the lease back because an error has ended its use."""
        return self.lease.__aexit__(type(error), error, None)

    async def exchange(self, acquire: Callable[[float], AsyncLease[PoolT, ConnT]]) -> None:
        """Give the connection back, and go on in a new transaction on another one."""
        if self.has_connection:
            await self._runs.roll_back(self)
            await self.lease.__aexit__(None, None, None)
        self.lease = lease = acquire(self.unit.begin_exchange())
        lease.sets_locally = True
        self.take_connection(await self.lease.__aenter__())
        await self.transaction.begin()
        if (settings := self.lease.local_settings) is not None:
            await self.transaction.fetch_row(settings)


class TaskRuns(Runs[PoolT, ConnT], Generic[PoolT, ConnT]):
    """The runs of one manager for tasks.

    Args:
        means: What the manager provides for them.
        binding: The event loop that they run in.
    """

    def __init__(self, means: RunMeans, binding: LoopBinding) -> None:
        super().__init__(means)
        self._binding = binding

    # long: one coroutine, because each layer of coroutines costs every run a microsecond
    async def run(  # noqa: C901, PLR0912  # as above
        self,
        work: Callable[[Any], Awaitable[_T]],
        options: RunOptions,
        acquire: Callable[[float], AsyncLease[PoolT, ConnT]],
        *,
        on_attempt: bool = False,
    ) -> _T:
        """Do the work on a connection. `acquire` makes a lease to acquire within so many seconds.

        With `on_attempt` the work is passed the `TaskAttempt` instead of the connection, and may
        exchange the connection as long as it has only read.
        """
        if not callable(work):
            raise no_work(work)
        task = self._binding.current_task()
        if task in self._within:
            raise within_another()
        unit = UnitOfWork(options, self._means)
        seconds = options.policy.seconds
        try:
            self._within.add(task)
            while True:
                try:
                    attempt = TaskAttempt(self, unit, acquire(seconds))
                    try:
                        attempt.take_connection(await attempt.lease.__aenter__())
                        await attempt.transaction.begin()
                        if (settings := attempt.lease.local_settings) is not None:
                            await attempt.transaction.fetch_row(settings)
                        working = work(attempt if on_attempt else attempt.connection)
                        if type(working) is not CoroutineType:
                            _check_awaitable(working)
                        result = await working
                        if attempt.asks_for_mark():
                            attempt.read_mark(await attempt.transaction.fetch_row(CommitMark.SQL))
                        attempt.begin_commit(result)
                        if not await attempt.transaction.commit():
                            unit.not_committed()
                    except BaseException as error:
                        await self._fail(attempt, error)
                        raise
                    unit.phase = _COMMITTED
                    await attempt.lease.__aexit__(None, None, None)
                except Exception as error:
                    if unit.is_committed(error) or (
                        unit.outcome_is_open and await self._is_done(unit, error)
                    ):
                        return unit.result  # type: ignore[no-any-return]  # the work's
                    pause = unit.pause(error)
                    if pause is None:
                        self._check_doubt(unit, error)
                        raise
                else:
                    return result
                await asyncio.sleep(pause)
                seconds = unit.begin_again()
        finally:
            self._within.discard(task)
            self._end(unit)

    async def _fail(self, attempt: TaskAttempt[PoolT, ConnT], error: BaseException) -> None:
        """Roll back or break the connection, and give it back."""
        if not attempt.has_connection:
            # The lease got a connection, but was interrupted before the attempt took it over.
            if attempt.lease.connection is not None:
                await attempt.leave(error)
            return
        try:
            if attempt.note_error(error):
                await self.roll_back(attempt)
            attempt.note_rollback(error)
        except BaseException as instead:
            await attempt.leave(instead)
            raise
        await attempt.leave(error)

    async def roll_back(self, attempt: TaskAttempt[PoolT, ConnT]) -> None:
        """Roll back within `release_timeout`; failing that, break the connection instead."""
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
        self._end_question(unit)
        return self._take_outcome(unit, outcome, error)

    async def _find_again(self, marks: Sequence[CommitMark | None], seconds: float) -> Outcome:
        find, deadline = self._means.finder.find, self._means.clock() + seconds
        return outcome_of_all([await find(mark, deadline) for mark in marks])


def _check_awaitable(result: object) -> None:
    """Raise TypeError if the work has returned something that cannot be awaited."""
    if not isawaitable(result):
        msg = f"work must be a coroutine function; this one has returned {type(result).__name__}"
        raise TypeError(msg)
