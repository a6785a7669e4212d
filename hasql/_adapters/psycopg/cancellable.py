"""A psycopg 3 connection on which a cancelled task does not have to wait for a silent server."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import AsyncConnection, capabilities, pq
from psycopg.errors import CancellationTimeout, QueryCanceled

from hasql._adapters.libpq import shut_down
from hasql._adapters.psycopg.cancel_request import request_cancel
from hasql._adapters.psycopg.socket_wait import remaining_results, wait_for
from hasql.driver.holder import HolderNotes
from hasql.errors import UnknownConnectionError

if TYPE_CHECKING:
    from psycopg.abc import PQGen

__all__ = ("CancellableConnection",)

_T = TypeVar("_T")

#: Seconds that a cancelled statement has to end; after that its connection is aborted.
_CANCEL_LIMIT = 3.0


class CancellableConnection(AsyncConnection[Any], HolderNotes):
    """A connection that itself decides what happens when a task that waits for it is cancelled.

    On psycopg's own connections the cancelled task waits until the server has ended the statement:
    11 s, if the server is silent. On this one, another task ends a statement of the application's,
    and a statement that hasql itself has begun is ended by aborting the connection.
    """

    #: Whether the connection was aborted, or the server has said that it ends the connection. This
    #: is not `closed`: as long as psycopg takes the connection for open, ending its transaction
    #: raises an error.
    lost = False
    #: Whether hasql uses the connection, not the application. If so, a cancelled task does not wait
    #: for the server.
    used_by_hasql = True
    #: The task that waits for a statement of the application's.
    _waiting_task: asyncio.Task[Any] | None = None
    #: What interrupted that wait.
    _interruption: BaseException | None = None
    #: Whether that wait must end without a result, because its task was cancelled.
    _wait_is_over = False
    #: Asks the server to cancel a statement and waits until the statement has ended.
    pending_cancel: asyncio.Task[None] | None = None
    #: The time limit of a cancel request that is under way.
    _request_limit: asyncio.Timeout | None = None
    #: When the connection was last known to be alive, in seconds of time.monotonic().
    _alive_at = float("-inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Cached: up to Python 3.11 asking for the loop costs a system call.
        self._loop = asyncio.get_running_loop()

    async def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Wait for the operation that is running. psycopg calls this for each statement."""
        if self.pending_cancel is not None:
            await self.wait_for_cancel()
        if self.used_by_hasql and not (args or kwargs):
            result = await wait_for(gen, self.fileno(), self.abort)
        else:
            if (
                self.held_before is not None
                and not self.used_by_hasql
                and self.is_held_by_another()
            ):
                # The worst case would be a commit: it would commit what the other task has done so
                # far.
                raise UnknownConnectionError(
                    "this task gave the connection back, and it is now lent to another task"
                )
            try:
                wanted = next(gen)
            except StopIteration as done:  # nothing to wait for: there is no transaction to end
                at_once: _T = done.value
                return at_once
            self._waiting_task, self._interruption = asyncio.current_task(self._loop), None
            try:
                rest = self._until_wait_is_over(gen, wanted)
                result = await super().wait(rest, *args, **kwargs)
            except Exception:
                if self._interruption is not None:
                    # psycopg before 3.3 raises the error that followed the interruption instead.
                    raise self._interruption from None
                raise
            finally:
                self._waiting_task = self._interruption = None
        self._alive_at = monotonic()
        return result

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Cancel what is running. psycopg calls and awaits this when its task is cancelled."""
        if self.used_by_hasql:
            self._wait_is_over = True
            self.abort()  # the server may be silent
        elif self._waiting_task is not asyncio.current_task():  # the application itself calls
            await self._request_cancel(timeout)
        else:
            self._interruption = sys.exc_info()[1]
            # If the task is cancelled once more while it waits here, psycopg closes the connection,
            # which ends the statement, too.
            self.pending_cancel = asyncio.create_task(self._end_statement())
            self._wait_is_over = True
            with suppress(asyncio.CancelledError):
                await asyncio.shield(self.pending_cancel)

    async def _request_cancel(self, timeout: float) -> None:
        request = asyncio.timeout(timeout or None)
        try:
            async with request:
                self._request_limit = request
                if capabilities.has_cancel_safe():
                    await super().cancel_safe(timeout=timeout)
                elif pq.__impl__ != "python":
                    # libpq before 17 sends a cancel request by a blocking call, in which the
                    # compiled psycopg holds the interpreter's lock: the whole process would stop.
                    self.abort()
                elif not self.closed:
                    await request_cancel(self.pgconn)
        except TimeoutError:
            raise CancellationTimeout("cancellation timeout expired") from None
        finally:
            self._request_limit = None

    def _until_wait_is_over(self, gen: PQGen[_T], wanted: Any) -> PQGen[_T]:
        try:
            while True:
                ready = yield wanted
                if self._wait_is_over:
                    self._wait_is_over = False
                    raise QueryCanceled  # psycopg then lets the task's cancellation go on
                wanted = gen.send(ready)
        except StopIteration as done:
            result: _T = done.value
            return result

    async def _end_statement(self) -> None:
        try:
            async with asyncio.timeout(_CANCEL_LIMIT):
                await self._request_cancel(_CANCEL_LIMIT)
                await wait_for(remaining_results(self.pgconn), self.fileno(), self.abort)
        except Exception:  # noqa: BLE001  # no task waits for an error of it
            self.abort()
        finally:
            self.pending_cancel = None
            # If the connection was closed meanwhile, `close` has left the closing to this task. If
            # a task still waits in psycopg, psycopg itself notices the loss and closes it.
            if self.lost and self._waiting_task is None:
                self.pgconn.finish()

    async def wait_for_cancel(self) -> None:
        """Wait until the statement of a cancelled task has ended, if one still runs."""
        if self.pending_cancel is not None:
            await asyncio.shield(self.pending_cancel)

    def abort(self) -> None:
        """Shut the socket down, even if a task waits for it; psycopg closes it at its next use."""
        self.lost = True
        if self._request_limit is not None and not self._request_limit.expired():
            self._request_limit.reschedule(0.0)
        if not self.closed:
            shut_down(self.fileno())
