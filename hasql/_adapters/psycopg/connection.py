"""A connection of psycopg 3 that can be broken at once, and found broken for free."""

# long: waiting, cancelling and closing are one state

from __future__ import annotations

import asyncio
import select
import sys
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import ref

from psycopg import AsyncConnection, Error, ProgrammingError, capabilities, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import CancellationTimeout, QueryCanceled
from psycopg.pq import Conninfo, TransactionStatus

from hasql._adapters.inherited import cut_off_in_children
from hasql._adapters.libpq import of_pool, shut_down
from hasql._adapters.psycopg.cancel import request_cancel
from hasql._adapters.psycopg.statement import heed_last_words, remaining_results, wait_for
from hasql.driver.holder import Held

if TYPE_CHECKING:
    from psycopg.abc import PQGen

__all__ = ("Watched", "is_of_libpq")

_T = TypeVar("_T")

#: Seconds for which nobody asks the kernel again: as long as a busy event loop takes for a turn.
_A_MOMENT = 0.001
#: Seconds after which a statement that is cancelled has ended, or its connection is broken.
_TO_END = 3.0
_IN_TRANSACTION = frozenset({TransactionStatus.INTRANS, TransactionStatus.INERROR})

#: Tells whether a parameter is one of this libpq's.
is_of_libpq = frozenset(option.keyword.decode() for option in Conninfo.get_defaults()).__contains__


class Watched(AsyncConnection[Any], Held):
    """A connection that can be broken at once, and found broken without asking the server."""

    #: Whether it was broken by us, or the server has said its last words on it. Not the same as
    #: `closed`: as long as psycopg takes it for open, ending its transaction raises an error.
    lost = False
    #: Whether it serves us, not the application: who is cancelled then waits for no server.
    ours = True
    #: Who waits for a statement of the application's, and whether it is to wait no more.
    _user: asyncio.Task[Any] | None = None
    #: What has interrupted its wait.
    _interruption: BaseException | None = None
    _abandoned = False
    #: Asks the server to end a statement whose task was cancelled, and waits until it has ended.
    ending: asyncio.Task[None] | None = None
    #: Ends a cancel request that is under way.
    _request: asyncio.Timeout | None = None
    #: When it was last known to be fine, in seconds of time.monotonic().
    _sound_at = float("-inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop = asyncio.get_running_loop()
        self.lost = self.closed
        if not self.lost:
            sockets = select.poll()
            sockets.register(self.fileno(), select.POLLIN)
            self._readable = sockets.poll
            cut_off_in_children(self, AsyncConnection.fileno)
        # By a weak reference, so that it goes as soon as nobody needs it.
        self.add_notice_handler(partial(heed_last_words, ref(self)))

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect, as psycopg does."""
        given: dict[str, Any] = conninfo_to_dict(conninfo)
        watched = make_conninfo(**of_pool(given, is_of_libpq))
        return await super().connect(watched, **kwargs)

    async def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Wait for what is running. psycopg does so for each statement."""
        if self.ending is not None:
            await self.ended()
        if self.ours and not (args or kwargs):
            result = await wait_for(gen, self.fileno(), self.sever)
        else:
            try:
                wanted = next(gen)
            except StopIteration as done:  # nothing to wait for, as there is no transaction to end
                at_once: _T = done.value
                return at_once
            # The loop is kept, as asking for it is a system call up to Python 3.11.
            self._user, self._interruption = asyncio.current_task(self._loop), None
            try:
                rest = self._unless_abandoned(gen, wanted)
                result = await super().wait(rest, *args, **kwargs)
            except Exception:
                if (
                    self._interruption is not None
                ):  # psycopg before 3.3 lets what comes after it win
                    raise self._interruption from None
                raise
            finally:
                self._user = self._interruption = None
        self._sound_at = monotonic()
        return result

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Cancel what is running. psycopg does so when its task is cancelled, and waits for it."""
        if self.ours:
            self._abandoned = True
            self.sever()  # the server may be silent
        elif self._user is not asyncio.current_task():  # the application itself
            await self._request_cancel(timeout)
        else:
            self._interruption = sys.exc_info()[1]
            # If that is cancelled as well, psycopg closes the connection, with what runs there.
            self.ending = asyncio.create_task(self._end())
            self._abandoned = True
            with suppress(asyncio.CancelledError):
                await asyncio.shield(self.ending)

    async def _request_cancel(self, timeout: float) -> None:
        request = asyncio.timeout(timeout or None)
        try:
            async with request:
                self._request = request
                if capabilities.has_cancel_safe():
                    await super().cancel_safe(timeout=timeout)
                elif pq.__impl__ != "python":
                    self.sever()  # compiled, libpq's old way to ask stops the whole process
                elif not self.closed:
                    await request_cancel(self.pgconn)
        except TimeoutError:
            raise CancellationTimeout("cancellation timeout expired") from None
        finally:
            self._request = None

    def _unless_abandoned(self, gen: PQGen[_T], wanted: Any) -> PQGen[_T]:
        try:
            while True:
                ready = yield wanted
                if self._abandoned:
                    self._abandoned = False
                    raise QueryCanceled  # then psycopg lets the task's cancellation go on
                wanted = gen.send(ready)
        except StopIteration as done:
            result: _T = done.value
            return result

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(_TO_END):
                await self._request_cancel(_TO_END)
                await wait_for(remaining_results(self.pgconn), self.fileno(), self.sever)
        except Exception:  # noqa: BLE001  # whatever it was: there is nobody to be told
            self.sever()
        finally:
            self.ending = None
            if self.lost and self._user is None:  # closed meanwhile; else psycopg still looks at it
                self.pgconn.finish()

    async def ended(self) -> None:
        """Wait until no statement runs any more whose task was cancelled."""
        if self.ending is not None:
            await asyncio.shield(self.ending)

    def sever(self) -> None:
        """Break it, whoever waits on it; psycopg closes it when it next uses it."""
        self.lost = True
        if self._request is not None and not self._request.expired():
            self._request.reschedule(0.0)
        if not self.closed:
            shut_down(self.fileno())

    async def close(self) -> None:
        """Close it, as psycopg does.

        A task whose statement runs there would wait on a socket that is none any more, for ever.
        """
        self.lost = True
        if self.ending is not None:
            return  # that closes it, once the statement has ended
        if self.lock.locked():
            self.sever()
            for _ in range(3):
                if self.lock.locked():
                    await asyncio.sleep(0)  # a task that waits on its socket notices first
        await super().close()

    async def clean(self) -> None:
        """Roll back what is open, or close it."""
        await self.ended()
        if not self.lost and self.pgconn.transaction_status in _IN_TRANSACTION:
            await self.rollback()
            return
        self.sever()
        await self.close()

    def check_idle(self, hook: str) -> None:
        """Raise if a hook of the user's has left a transaction open."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            raise ProgrammingError(f"the {hook} function has left a transaction open")

    def was_sound(self) -> bool:
        """Tell whether it was fine a moment ago, which is cheaper to know."""
        return not self.lost and monotonic() - self._sound_at < _A_MOMENT

    def is_sound(self) -> bool:
        """Tell whether an idle connection can be used, as far as that can be seen from here."""
        if self.lost or (self._readable(0) and not self._take_in()):
            return False
        self._sound_at = monotonic()
        return True

    def _take_in(self) -> bool:
        """Take in what the server has sent, which may be its last words."""
        try:
            while not self.lost and self._readable(0):
                self.pgconn.consume_input()
                self.pgconn.is_busy()  # makes libpq read it
        except Error:
            self.lost = True
        return not self.lost
