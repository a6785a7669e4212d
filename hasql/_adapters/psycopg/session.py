"""The reserved connection over psycopg 3."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from psycopg import Error
from psycopg.rows import tuple_row

from hasql._adapters.psycopg.server import in_hot_standby
from hasql._adapters.reserved import TRANSACTION, is_kept_from_us

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg.pq.abc import PGresult

    from hasql._adapters.psycopg.connection import Watched

__all__ = ("PsycopgSession",)


class PsycopgSession:
    """A reserved connection, watched through the event loop while it is idle."""

    def __init__(
        self, connection: Watched, on_lost: Callable[[], None], *, in_transactions: bool = False
    ) -> None:
        self._connection = connection
        self._in_transactions = in_transactions
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._socket = connection.fileno()
        self._listening = False
        self._busy = False
        self._killed = False
        self._told = False
        self._watch()

    @property
    def closed(self) -> bool:
        return self._connection.lost or self._connection.closed

    @property
    def in_hot_standby(self) -> bool | None:
        return in_hot_standby(self._connection)

    @property
    def login_pid(self) -> int | None:
        return self._connection.pgconn.backend_pid

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        # psycopg watches the same socket while it waits.
        self._listen_no_more()
        self._busy = True
        try:
            if self._in_transactions:
                return await self._ask(f"{TRANSACTION}; {sql}")
            try:
                return await self._ask(sql)
            except Error as error:
                if self.closed or not is_kept_from_us(error):
                    raise
                row = await self._ask(f"{TRANSACTION}; {sql}")
                self._in_transactions = True  # it was for a setting
                return row
        finally:
            self._busy = False
            if self._killed:
                self._finish()
            else:
                self._watch()

    async def _ask(self, sql: str) -> Sequence[str | None]:
        async with self._connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(sql.encode(), prepare=False)
            while cursor.nextset():
                pass  # only the last statement asks for something
            return _first_row(cursor.pgresult)

    def _watch(self) -> None:
        if self._connection.is_sound():
            self._loop.add_reader(self._socket, self._take_in)
            self._listening = True
        else:
            self._finish()
            if not self._told:
                self._told = True
                self._on_lost()

    def _take_in(self) -> None:
        self._listen_no_more()  # before libpq may close it
        self._watch()

    def _listen_no_more(self) -> None:
        if self._listening:  # else the number may be another socket's by now
            self._listening = False
            self._loop.remove_reader(self._socket)

    def _finish(self) -> None:
        self._connection.lost = True
        self._connection.pgconn.finish()

    def kill(self) -> None:
        self._killed = True
        self._connection.sever()
        if not self._busy:
            self._listen_no_more()
            self._finish()


def _first_row(result: PGresult | None) -> Sequence[str | None]:
    # Not by the cursor, whose loaders are the application's where it has some for all connections.
    if result is None or not result.ntuples:
        return ()
    values = (result.get_value(0, column) for column in range(result.nfields))
    return tuple(v if v is None else v.decode("utf-8", "backslashreplace") for v in values)
