"""The transaction around a unit of work over asyncpg: one of asyncpg's own transactions.

So the application's `Connection.transaction()` within it makes a savepoint.
"""

from __future__ import annotations

import gc
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg.transaction import Transaction

from hasql._adapters.asyncpg.row import fetch_row
from hasql.driver.transactions import TaskTransaction, TransactionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from hasql._adapters.asyncpg.connection import Connection, RawConnection
    from hasql.driver.transactions import TransactionModes

__all__ = ("ROLLED_BACK", "AsyncpgTransaction", "state_of")

ROLLED_BACK = "ROLLBACK"
"""The command tag with which a server answers COMMIT if the transaction had failed."""


def state_of(connection: RawConnection) -> TransactionState:
    """Return the state of the transaction that was begun on a connection, failed or not."""
    if connection.is_closed() or connection.is_in_transaction():
        return TransactionState.OPEN  # if the connection is closed, COMMIT will fail
    return TransactionState.ENDED


class _Answered:
    """Stands for the connection in a transaction of asyncpg's, and keeps the answer to COMMIT.

    asyncpg drops that answer. Attributes of the connection that the transaction uses are looked up
    here. The first look-up of each goes through `__getattr__`, which costs a microsecond, and adds
    a property of that name to this class, which serves all later ones.
    """

    __slots__ = ("connection", "tag")

    def __init__(self, connection: RawConnection) -> None:
        self.connection = connection
        #: The command tag of the last answer.
        self.tag = ""

    def __getattr__(self, name: str) -> Any:
        def assign(answered: _Answered, value: object) -> None:
            setattr(answered.connection, name, value)

        setattr(_Answered, name, property(attrgetter(f"connection.{name}"), assign))
        return getattr(self.connection, name)

    async def execute(self, query: str) -> str:
        """Run the statement with which asyncpg begins or ends the transaction."""
        # This calls asyncpg's own method: the application's connection class may override it.
        self.tag = tag = await asyncpg.Connection.execute(self.connection, query)
        return tag


class AsyncpgTransaction(TaskTransaction):
    """The transaction of a unit of work in a task."""

    def __init__(self, connection: Connection, modes: TransactionModes) -> None:
        raw = _raw_of(connection)
        self._connection = raw
        #: None: a question right before COMMIT tells whether the transaction has failed.
        self._answered = None if modes.asked else _Answered(raw)
        level: Any = modes.isolation and modes.isolation.replace(" ", "_")
        answered: Any = self._answered or raw
        # Not by the connection's `transaction()`, which the application's class may override.
        self._transaction: Any = Transaction(answered, level, modes.read_only, deferrable=False)
        # Bound directly to asyncpg's method: a method around it would slow every run down.
        self.begin: Any = self._transaction.start

    @property
    def state(self) -> TransactionState:
        return state_of(self._connection)

    def fetch_row(self, sql: str) -> Awaitable[Sequence[str | None]]:
        return fetch_row(self._connection, sql)

    async def commit(self) -> bool:
        await self._transaction.commit()
        return self._answered is None or bool(self._answered.tag != ROLLED_BACK)

    def roll_back(self) -> Awaitable[None]:
        # Called even if the application has ended it: asyncpg would take it for open otherwise.
        ended: Awaitable[None] = self._transaction.rollback()
        return ended


def _raw_of(connection: Connection) -> RawConnection:
    # asyncpg's transactions set an attribute on the connection, which a pool's proxy refuses.
    for each in gc.get_referents(connection):
        if isinstance(each, asyncpg.Connection):
            return each
    raise asyncpg.InterfaceError("connection is closed")
