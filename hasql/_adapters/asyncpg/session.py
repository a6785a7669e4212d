"""The reserved connection over asyncpg."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from hasql._adapters.asyncpg.connection import (
    RawConnection,
    count_rows,
    guard_from_forks,
    in_hot_standby,
)
from hasql._adapters.asyncpg.row import fetch_row
from hasql._adapters.reserved_session import BEGIN_PROBE, ReservedSession
from hasql.driver.addressed_loop import LoopProxy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

__all__ = ("AsyncpgSession", "ErrorRetrievingLoop")


class ErrorRetrievingLoop(LoopProxy):
    """The event loop, with futures whose errors count as retrieved.

    When a COPY is begun after the server has said why it ends the connection, asyncpg raises an
    error and leaves a future behind, which fails when the socket closes. No code awaits that
    future, so asyncio would log its error as never retrieved.
    """

    def create_future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future


class AsyncpgSession(ReservedSession):
    """A reserved connection over asyncpg."""

    def __init__(
        self, connection: RawConnection, on_lost: Callable[[], None], address: str | None = None
    ) -> None:
        super().__init__(address)
        self._connection = connection
        self._killed = False
        guard_from_forks(connection)
        connection.add_termination_listener(lambda _: None if self._killed else on_lost())

    @property
    def closed(self) -> bool:
        return self._connection.is_closed()

    @property
    def in_hot_standby(self) -> bool | None:
        return in_hot_standby(self._connection)

    @property
    def login_pid(self) -> int | None:
        return self._connection.get_server_pid()

    # What follows calls the methods of asyncpg's own class: the application's `connect` may have
    # made a connection of another class, which overrides them.

    async def has_row(self, sql: str) -> bool:
        # This costs the server a quarter less than a COPY.
        return bool(await self._run(sql, partial(count_rows, self._connection)))

    async def _ask(self, sql: str) -> Sequence[str | None]:
        return await fetch_row(self._connection, sql)

    async def _ask_in_transaction(self, sql: str) -> Sequence[str | None]:
        # This takes three round trips, because asyncpg sends COPY as a message of its own. So a
        # session does this only once it is known to need it. If this is cancelled, the probe is
        # cancelled, and then the session is killed.
        await self._execute(f"BEGIN; {BEGIN_PROBE}")
        try:
            row = await self._ask(sql)
        except asyncpg.PostgresError:
            if not self.closed:
                await self._execute("ROLLBACK")
            raise
        await self._execute("COMMIT")
        return row

    async def _execute(self, sql: str) -> None:
        await asyncpg.Connection.execute(self._connection, sql)

    def kill(self) -> None:
        self._killed = True
        self._connection.terminate()
