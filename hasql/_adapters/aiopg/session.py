"""The reserved connection that a monitor probes over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg2 import extensions  # type: ignore[import-untyped]

from hasql._adapters.aiopg.connection import break_off, in_hot_standby

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import aiopg

__all__ = ("AiopgSession",)

#: `closed` of a psycopg2 connection that was lost, not closed by us.
_LOST = 2


class AiopgSession:
    """A reserved connection."""

    def __init__(self, connection: aiopg.Connection, on_lost: Callable[[], None]) -> None:
        self._connection = connection
        connection.raw.on_end = lambda raw: on_lost() if raw.closed == _LOST else None

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    @property
    def in_hot_standby(self) -> bool | None:
        return in_hot_standby(self._connection)

    async def fetch_row(self, sql: str) -> Sequence[object]:
        # Not a class of the user's, whose rows may be anything.
        async with self._connection.cursor(cursor_factory=extensions.cursor) as cursor:
            await cursor.execute(sql)
            return tuple(await cursor.fetchone() or ())

    def kill(self) -> None:
        self._connection.raw.on_end = None
        break_off(self._connection)
