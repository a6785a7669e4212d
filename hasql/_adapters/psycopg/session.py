"""The reserved connection over psycopg 3."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from psycopg.rows import tuple_row

from hasql._adapters.psycopg.server import first_row, in_hot_standby
from hasql._adapters.reserved_session import ReservedSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hasql._adapters.psycopg.connection import PsycopgConnection

__all__ = ("PsycopgSession",)


class PsycopgSession(ReservedSession):
    """A reserved connection whose socket the event loop watches while no query runs."""

    def __init__(
        self,
        connection: PsycopgConnection,
        on_lost: Callable[[], None],
        address: str | None = None,
        *,
        in_transactions: bool = False,
    ) -> None:
        super().__init__(address, in_transactions=in_transactions)
        self._connection = connection
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._socket = connection.fileno()
        self._watching = False
        self._busy = False
        self._killed = False
        self._loss_told = False
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
        self._stop_watching()  # psycopg itself watches the socket while it waits
        self._busy = True
        try:
            return await super().fetch_row(sql)
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
                pass  # only the last statement's row is needed
            return first_row(cursor.pgresult)

    def _watch(self) -> None:
        # If libpq has closed its socket during the query, another thread may since have opened a
        # file that got the same descriptor. Watching that would be wrong, and it would seem alive.
        # So a closed connection is not looked at.
        if not self.closed and self._connection.is_alive():
            self._loop.add_reader(self._socket, self._on_readable)
            self._watching = True
        else:
            self._finish()
            if not self._loss_told:
                self._loss_told = True
                self._on_lost()

    def _on_readable(self) -> None:
        self._stop_watching()  # first: `_watch` may find it lost and close the socket
        self._watch()

    def _stop_watching(self) -> None:
        if self._watching:  # if not, the descriptor may belong to another socket
            self._watching = False
            self._loop.remove_reader(self._socket)

    def _finish(self) -> None:
        self._connection.lost = True
        self._connection.pgconn.finish()

    def kill(self) -> None:
        self._killed = True
        self._connection.abort()
        if not self._busy:
            self._stop_watching()
            self._finish()
