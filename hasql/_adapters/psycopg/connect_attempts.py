"""The connects of a psycopg pool: when one is tried, and which tasks are told that it failed."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from hasql._adapters.hooks import RunningHooks
from hasql.driver.connects import PendingConnects
from hasql.driver.deadline import cancellations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hasql._adapters.psycopg.connection import PsycopgConnection

    _Connect: TypeAlias = Callable[[], Awaitable[PsycopgConnection]]
    _Hook: TypeAlias = Callable[[PsycopgConnection], Awaitable[None]]

__all__ = ("ConnectAttempts", "LostWhileIdleError")

_T = TypeVar("_T")

#: Seconds that a hook may still run on a new connection once the acquire for it is cancelled.
_LIMIT_UNAWAITED = 2.0


class LostWhileIdleError(BaseException):
    """Ends a wait that was given a connection which had been lost while it was idle.

    It is no Exception: after one the pool would pause, and then let the same task wait on. But the
    task may have been cancelled without noticing (see `cancellations`), and then no connect would
    serve it any more.
    """


class ConnectAttempts:
    """Connects for the workers of a pool: as often as needed, but only when it is worth a try.

    psycopg_pool's workers do not tell why a connect failed, and retry at growing intervals. Here a
    failure does not reach the worker; the tasks that wait for a connection are told of it. The
    worker tries again when another task begins to wait, or when the host has answered a probe.
    Because each worker may have to wait for that, the pool needs more workers than connections.
    """

    def __init__(self, at_a_time: int) -> None:
        self._pending = PendingConnects()
        self._logins = asyncio.Semaphore(at_a_time)
        #: The tasks that wait for a connection, and the errors that end their waits.
        self._waiting: dict[asyncio.Task[Any] | None, asyncio.Timeout] = {}
        self._errors: dict[asyncio.Task[Any] | None, BaseException] = {}
        #: The attempts that wait until they are due, and how many attempts are under way.
        self._not_due: deque[asyncio.Future[None]] = deque()
        self._under_way = 0
        #: Whether nothing has connected since a connect failed or the host was given up.
        self._failing = False
        self._closed = False
        #: The user's hooks that run on new connections, and on connections that are given back.
        self._configuring, self.resets = RunningHooks(), RunningHooks()

    async def run(self, connect: _Connect, configure: _Hook | None) -> PsycopgConnection | None:
        """Connect, and have the user's hook configure the connection.

        Returns None if the pool is closed, or its event loop ends, before that has succeeded.
        """
        while not self._closed:
            try:
                await self._wait_until_due()
                logging_in = self._log_in(connect, configure)
                connection = await self._pending.run(logging_in, lambda x: x.pgconn.finish())
            except asyncio.CancelledError:
                # The pool never cancels its workers. So either the event loop is ending, or a hook
                # of the application's has raised this.
                self._closed = cancellations() > 0
                self._fail(ConnectionError("a hook of the application was cancelled"))
            except Exception as error:  # noqa: BLE001  # the waiting tasks judge it
                self._fail(error)
            else:
                self._failing = False
                self._start_one()
                return connection
            finally:
                self._under_way -= 1
        return None

    def _fail(self, error: Exception) -> None:
        self._failing = True
        self.end_waits(error)

    async def _log_in(self, connect: _Connect, configure: _Hook | None) -> PsycopgConnection:
        async with self._logins:
            connection = await connect()
            try:
                if configure is not None:
                    await self._configuring.run(connection, configure(connection))
                    connection.check_idle("configure")
            except BaseException:
                await connection.close()
                raise
            return connection

    def reset(self, connection: PsycopgConnection, hook: _Hook) -> asyncio.Future[None]:
        """Run the user's hook that resets a connection, in a task of its own.

        The hook may use time limits, which belong to one task, whereas the core may let another
        task finish the release that the hook is part of.
        """

        async def reset() -> None:
            await self.resets.run(connection, hook(connection))
            connection.check_idle("reset")

        return asyncio.shield(asyncio.create_task(reset()))

    async def _wait_until_due(self) -> None:
        """Wait until an attempt is due: at once, unless the last one failed."""
        # A task that was told of a failure no longer waits, but it leaves `_waiting` only when it
        # runs next. Until then it is in `_errors` as well, and is subtracted here.
        if not self._failing or self._under_way < len(self._waiting) - len(self._errors):
            self._under_way += 1
            return
        due = asyncio.get_running_loop().create_future()
        self._not_due.append(due)
        try:
            await due
        except asyncio.CancelledError:
            # `run` is going to decrement `_under_way`. If the attempt was not started, `_start_one`
            # has not incremented it: that is done here.
            self._under_way += due.cancelled()
            raise

    def _start_one(self) -> None:
        while self._not_due:
            due = self._not_due.popleft()
            if not due.done():
                self._under_way += 1
                due.set_result(None)
                return

    async def wait(self, work: Awaitable[_T]) -> _T:
        """Wait for work that needs a connection, or raise the error of a connect that fails.

        Raises LostWhileIdleError if the work got a lost connection: there may be another one.
        """
        task, wait = asyncio.current_task(), asyncio.timeout(None)
        try:
            async with wait:
                self._waiting[task] = wait
                self._start_one()
                return await work
        except TimeoutError:
            if task not in self._errors:
                raise
            raise self._errors[task] from None
        except asyncio.CancelledError:
            loop = asyncio.get_running_loop()
            loop.call_later(_LIMIT_UNAWAITED, self._configuring.end_begun_before, monotonic())
            raise
        finally:
            del self._waiting[task]
            self._errors.pop(task, None)

    @property
    def awaited(self) -> bool:
        """Whether the current task is one of those that wait."""
        return asyncio.current_task() in self._waiting

    def end_waits(self, error: BaseException) -> None:
        """End every wait with an error."""
        for task, wait in self._waiting.items():
            if task not in self._errors:
                self._errors[task] = error
                wait.reschedule(0.0)

    def host_answers(self) -> None:
        """Start one of the attempts that wait; if it succeeds, it starts the next one."""
        if not self._under_way:
            self._start_one()

    def end(self) -> None:
        """End every connect under way, and every wait, with a ConnectionError.

        A wait may be for the user's check of an idle connection, which ending connects cannot end.
        """
        self._pending.end()
        self.end_waits(ConnectionError("hasql gave up on the host while this acquire waited"))

    def give_up(self) -> None:
        """Do as `end` does; then connect only for waiting tasks, until the host answers."""
        self._failing = True
        self.end()

    def close(self) -> None:
        """End every connect, and let every worker return."""
        self._closed = True
        self._pending.end()
        while self._not_due:
            self._start_one()
