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


def _raw(value: str | None, cursor: object) -> str | None:
    del cursor
    return value


#: Leaves what a probe asks for as it came: boolean, bigint, integer, text, float, numeric.
_RAW = extensions.new_type((16, 20, 23, 25, 701, 1700), "HASQL_RAW", _raw)


class AiopgSession:
    """A reserved connection."""

    def __init__(self, connection: aiopg.Connection, on_lost: Callable[[], None]) -> None:
        self._connection = connection
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
        # Not a class of the user's, whose rows may be anything.
        async with self._connection.cursor(cursor_factory=extensions.cursor) as cursor:
            await cursor.execute(sql)
            return tuple(await cursor.fetchone() or ())

    def kill(self) -> None:
        self._connection.raw.on_end = None
        break_off(self._connection)
