"""The reserved connection over asyncpg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from hasql._adapters.asyncpg.connection import RawConnection, guard_from_forks, in_hot_standby
from hasql._adapters.reserved import TRANSACTION, is_kept_from_us

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

__all__ = ("AsyncpgSession", "HeedingLoop")


class HeedingLoop:
    """The event loop, but for futures whose error nobody has to ask for.

    Asked to COPY when the server has said its last words, asyncpg raises an error and leaves a
    future behind, which fails when the socket closes: asyncio would report that error as lost.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def create_future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future


class AsyncpgSession:
    """A reserved connection."""

    def __init__(self, connection: RawConnection, on_lost: Callable[[], None]) -> None:
        self._connection = connection
        self._in_transactions = False
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

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        if self._in_transactions:
            return await self._copy_in_transaction(sql)
        try:
            return await self._copy(sql)
        except asyncpg.PostgresError as error:
            if self.closed or not is_kept_from_us(error):
                raise
            row = await self._copy_in_transaction(sql)
            self._in_transactions = True  # it was for a setting
            return row

    async def _copy_in_transaction(self, sql: str) -> Sequence[str | None]:
        # Three round trips, as a COPY of asyncpg's goes alone: not before it is known to be needed.
        # If it is cancelled, so is the probe, and that kills the session.
        await self._execute(f"BEGIN; {TRANSACTION}")
        try:
            row = await self._copy(sql)
        except asyncpg.PostgresError:
            if not self.closed:
                await self._execute("ROLLBACK")
            raise
        await self._execute("COMMIT")
        return row

    # asyncpg's own methods, whatever the class that a `connect` of the application's has made.

    async def _execute(self, sql: str) -> None:
        await asyncpg.Connection.execute(self._connection, sql)

    async def _copy(self, sql: str) -> Sequence[str | None]:
        # COPY, as asyncpg has no other way past its codecs. It also does without a prepared
        # statement, which a pooler may not have where it is looked for.
        data = bytearray()

        async def take(chunk: bytes) -> None:
            data.extend(chunk)

        await asyncpg.Connection.copy_from_query(self._connection, sql, output=take)
        if not data:
            return ()
        row = data.decode("utf-8", "backslashreplace").split("\n")[0]
        return tuple(None if value == "\\N" else value for value in row.split("\t"))

    def kill(self) -> None:
        self._killed = True
        self._connection.terminate()
