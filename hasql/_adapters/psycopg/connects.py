"""The connects of a psycopg pool: when one is worth a try, and who hears how it went."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from hasql._adapters.hooks import Hooks
from hasql.driver.connects import PendingConnects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hasql._adapters.psycopg.connection import Watched

    _Hook: TypeAlias = Callable[[Watched], Awaitable[None]]

__all__ = ("Connects", "LostError")

_T = TypeVar("_T")

#: Seconds that a new connection's hook may go on after an acquire has waited for it in vain.
_LINGER = 2.0


class LostError(BaseException):
    """Ends a wait that was given a connection which was lost while it was idle.

    No Exception: the pool would pause after one, and then have the same task wait on, though its
    cancellation may have been lost (see `cancellations`) and nobody connects for it any more.
    """


class Connects:
    """Connects for the workers of a pool, as often and as late as it takes.

    psycopg_pool's workers tell nobody why they cannot connect, and try later and later. They find
    no fault here: those who wait for a connection hear of it, and then a try is due again when
    somebody else comes to wait, or when the host has answered a probe. As each worker may have to
    wait for that, there have to be more of them than connections.
    """

    def __init__(self, at_a_time: int) -> None:
        self._pending = PendingConnects()
        self._logins = asyncio.Semaphore(at_a_time)
        #: Who waits for a connection, and the errors that are to end the waits.
        self._waiting: dict[asyncio.Task[Any] | None, asyncio.Timeout] = {}
        self._told: dict[asyncio.Task[Any] | None, BaseException] = {}
        #: The tries that are not due, and how many are under way.
        self._parked: deque[asyncio.Future[None]] = deque()
        self._tries = 0
        #: Whether nothing has connected since a connect failed, or the host was given up.
        self._ailing = False
        self._closed = False
        #: The user's hooks that run on new connections, and on those that are given back.
        self._configuring, self.resets = Hooks(), Hooks()

    async def run(
        self, connect: Callable[[], Awaitable[Watched]], configure: _Hook | None
    ) -> Watched | None:
        """Connect, and have the user's hook make the connection ready.

        None when that is not wanted any more.
        """
        while not self._closed:
            try:
                await self._turn()
                connection = await self._pending.run(self._log_in(connect, configure))
            except asyncio.CancelledError:
                self._closed = True  # the pool cancels no worker: the loop is coming to its end
            except Exception as error:  # noqa: BLE001  # judged by whoever waits
                self._ailing = True
                self.tell(error)
            else:
                self._ailing = False
                self._start_one()
                return connection
            finally:
                self._tries -= 1
        return None

    async def _log_in(
        self, connect: Callable[[], Awaitable[Watched]], configure: _Hook | None
    ) -> Watched:
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

    def reset(self, connection: Watched, hook: _Hook) -> asyncio.Future[None]:
        """Have the user's hook reset a connection, in a task of its own.

        It may use time limits, which belong to a task, and the core may change that of a release.
        """

        async def reset() -> None:
            await self.resets.run(connection, hook(connection))
            connection.check_idle("reset")

        return asyncio.shield(asyncio.create_task(reset()))

    async def _turn(self) -> None:
        """Wait until a try is due: at once, unless the last one failed."""
        # Who was told of a failure waits no more, though it leaves only in its next turn.
        if not self._ailing or self._tries < len(self._waiting) - len(self._told):
            self._tries += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._parked.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._tries += turn.cancelled()  # else it was counted when it was started
            raise

    def _start_one(self) -> None:
        while self._parked:
            turn = self._parked.popleft()
            if not turn.done():
                self._tries += 1
                turn.set_result(None)
                return

    async def wait(self, work: Awaitable[_T]) -> _T:
        """Wait for what needs a connection. Raises the error of a connect that fails meanwhile.

        Raises LostError if it was given one that was lost: there may be another.
        """
        task, wait = asyncio.current_task(), asyncio.timeout(None)
        try:
            async with wait:
                self._waiting[task] = wait
                self._start_one()
                return await work
        except TimeoutError:
            if task not in self._told:
                raise
            raise self._told[task] from None
        except asyncio.CancelledError:
            loop = asyncio.get_running_loop()
            loop.call_later(_LINGER, self._configuring.end_those_before, monotonic())
            raise
        finally:
            del self._waiting[task]
            self._told.pop(task, None)

    @property
    def awaited(self) -> bool:
        """Whether the task that runs is one of those who wait."""
        return asyncio.current_task() in self._waiting

    def tell(self, error: BaseException) -> None:
        """End all waits with an error."""
        for task, wait in self._waiting.items():
            if task not in self._told:
                self._told[task] = error
                wait.reschedule(0.0)

    def host_answers(self) -> None:
        """Try again what is not due; one success leads to the next."""
        if not self._tries:
            self._start_one()

    def end(self) -> None:
        """End those under way with a ConnectionError, and all waits: one may be for a check."""
        self._pending.end()
        self.tell(ConnectionError("the host was given up while it was waited for"))

    def give_up(self) -> None:
        """End those under way, and begin none but for who waits until the host answers."""
        self._ailing = True
        self.end()

    def close(self) -> None:
        """End all, and let those who connect for the pool know that it is not needed."""
        self._closed = True
        self._pending.end()
        while self._parked:
            self._start_one()
