"""The transactions around a unit of work over aiopg: BEGIN and COMMIT, as aiopg itself has none.

A transaction of aiopg's is a cursor's, and one that is begun within would end this one: savepoints
are a matter of SQL there. `aiopg.sa` has transactions, and savepoints by `begin_nested()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg2 import extensions

from hasql._adapters.psycopg2.transactions import AS_TEXT, STATES
from hasql.driver.transactions import TaskTransaction, TransactionState

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiopg
    from aiopg.sa import SAConnection

    from hasql.driver.transactions import TransactionModes

__all__ = ("AiopgSaTransaction", "AiopgTransaction")

_ROLLED_BACK = "ROLLBACK"


class AiopgTransaction(TaskTransaction):
    """One on a connection of aiopg's."""

    def __init__(self, connection: aiopg.Connection | None, modes: TransactionModes) -> None:
        assert connection is not None  # noqa: S101  # it is lent, and nobody has closed it yet
        self._connection = connection
        self._modes = modes

    async def begin(self) -> None:
        await self._execute(f"BEGIN{self._modes.sql}")

    @property
    def state(self) -> TransactionState:
        raw = self._connection.raw
        if raw.closed:
            return TransactionState.OPEN  # as far as anybody knows: COMMIT will fail
        return STATES[raw.info.transaction_status]

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        async with self._connection.cursor(cursor_factory=extensions.cursor) as cursor:
            extensions.register_type(AS_TEXT, cursor.raw)
            await cursor.execute(sql)
            return tuple(await cursor.fetchone() or ())

    async def commit(self) -> bool:
        return await self._execute("COMMIT") != _ROLLED_BACK

    async def roll_back(self) -> None:
        if self.state is not TransactionState.ENDED:
            await self._execute("ROLLBACK")

    async def _execute(self, sql: str) -> str:
        async with self._connection.cursor(cursor_factory=extensions.cursor) as cursor:
            await cursor.execute(sql)
            tag: str = cursor.raw.statusmessage
            return tag


class AiopgSaTransaction(AiopgTransaction):
    """One on a connection of `aiopg.sa`."""

    def __init__(
        self, connection: SAConnection, inner: aiopg.Connection | None, modes: TransactionModes
    ) -> None:
        super().__init__(inner, modes)
        self._of_sa: Any = connection
        self._transaction: Any = None

    async def begin(self) -> None:
        level, read_only = self._modes.isolation, self._modes.read_only
        self._transaction = await self._of_sa.begin(level and level.upper(), read_only)

    @property
    def state(self) -> TransactionState:
        state = super().state
        ended = not self._connection.raw.closed and not self._transaction.is_active
        return TransactionState.ENDED if ended else state

    async def commit(self) -> bool:
        await self._transaction.commit()
        return True  # what has failed, or was ended within, is not committed in the first place

    async def roll_back(self) -> None:
        if self._transaction is not None and self._transaction.is_active:
            await self._transaction.rollback()
        await super().roll_back()  # of what was begun since
