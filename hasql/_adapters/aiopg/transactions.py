"""The transactions around a unit of work over aiopg.

An aiopg connection has no transactions of its own, so hasql runs BEGIN and COMMIT. In aiopg a
transaction belongs to a cursor, and one begun within the work would end hasql's: savepoints must be
made by SQL there. `aiopg.sa` has transactions, and savepoints by `begin_nested()`.
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
    """The transaction of a task on an aiopg connection."""

    def __init__(self, connection: aiopg.Connection | None, modes: TransactionModes) -> None:
        assert connection is not None  # noqa: S101  # it is leased and not closed yet
        self._connection = connection
        self._modes = modes

    async def begin(self) -> None:
        await self._execute(f"BEGIN{self._modes.sql}")

    @property
    def state(self) -> TransactionState:
        raw = self._connection.raw
        if raw.closed:
            return TransactionState.OPEN  # the connection is lost, so that COMMIT will fail
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
    """The transaction of a task on an `aiopg.sa` connection."""

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
        if self._transaction is None:  # it could not be begun
            return state
        ended = not self._connection.raw.closed and not self._transaction.is_active
        return TransactionState.ENDED if ended else state

    async def commit(self) -> bool:
        await self._transaction.commit()
        return True  # `commit` is not called for a transaction that has failed or was ended within

    async def roll_back(self) -> None:
        if self._transaction is not None and self._transaction.is_active:
            await self._transaction.rollback()
        await super().roll_back()  # `state` is ENDED by now, unless the connection is lost
