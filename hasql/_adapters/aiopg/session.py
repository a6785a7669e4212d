"""The reserved connection over aiopg, by which a monitor probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg2 import extensions

from hasql._adapters.aiopg.connection import LOST, abort_connection, address_of, in_hot_standby
from hasql._adapters.psycopg2.transactions import AS_TEXT
from hasql._adapters.reserved_session import ReservedSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import aiopg

__all__ = ("AiopgSession",)


class AiopgSession(ReservedSession):
    """A reserved connection over aiopg."""

    def __init__(
        self,
        connection: aiopg.Connection,
        on_lost: Callable[[], None],
        *,
        in_transactions: bool = False,
    ) -> None:
        super().__init__(address_of(connection), in_transactions=in_transactions)
        self._connection = connection
        # This takes precedence over types that the application has registered for all connections.
        extensions.register_type(AS_TEXT, connection.raw)
        connection.raw.on_end = lambda raw: on_lost() if raw.closed == LOST else None

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

    async def _ask(self, sql: str) -> Sequence[str | None]:
        # The cursor is psycopg2's own, because rows of a user's cursor class may be anything. Of
        # several statements, psycopg2 keeps the result of the last.
        async with self._connection.cursor(cursor_factory=extensions.cursor) as cursor:
            await cursor.execute(sql)
            return tuple(await cursor.fetchone() or ())

    def kill(self) -> None:
        self._connection.raw.on_end = None
        abort_connection(self._connection)
