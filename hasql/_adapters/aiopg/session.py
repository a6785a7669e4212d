"""The reserved connection that a monitor probes over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg2  # type: ignore[import-untyped]
from psycopg2 import extensions

from hasql._adapters.aiopg.connection import break_off, in_hot_standby
from hasql._adapters.reserved import TRANSACTION, is_kept_from_us

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import aiopg

__all__ = ("AiopgSession",)

#: `closed` of a psycopg2 connection that was lost, not closed by us.
_LOST = 2


def _raw(value: str | None, cursor: object) -> str | None:
    del cursor
    return value


#: Leaves what a probe asks for as it came: boolean, bigint, integer, text, float, numeric.
_RAW = extensions.new_type((16, 20, 23, 25, 701, 1700), "HASQL_RAW", _raw)


class AiopgSession:
    """A reserved connection."""

    def __init__(
        self,
        connection: aiopg.Connection,
        on_lost: Callable[[], None],
        *,
        in_transactions: bool = False,
    ) -> None:
        self._connection = connection
        self._in_transactions = in_transactions
        extensions.register_type(_RAW, connection.raw)  # before those of the application for all
        connection.raw.on_end = lambda raw: on_lost() if raw.closed == _LOST else None

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    @property
    def in_hot_standby(self) -> bool | None:
        return in_hot_standby(self._connection)

    @property
    def login_pid(self) -> int | None:
        pid: int = self._connection.raw.get_backend_pid()
        return pid

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        if self._in_transactions:
            return await self._ask(f"{TRANSACTION}; {sql}")
        try:
            return await self._ask(sql)
        except psycopg2.Error as error:
            if self.closed or not is_kept_from_us(error):
                raise
            row = await self._ask(f"{TRANSACTION}; {sql}")
            self._in_transactions = True  # it was for a setting
            return row

    async def _ask(self, sql: str) -> Sequence[str | None]:
        # Not a class of the user's, whose rows may be anything. Of several statements psycopg2
        # keeps the answer to the last.
        async with self._connection.cursor(cursor_factory=extensions.cursor) as cursor:
            await cursor.execute(sql)
            return tuple(await cursor.fetchone() or ())

    def kill(self) -> None:
        self._connection.raw.on_end = None
        break_off(self._connection)
