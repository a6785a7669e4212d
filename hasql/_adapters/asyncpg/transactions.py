"""The transaction around a unit of work over asyncpg: one of asyncpg's own.

So `Connection.transaction()` within it makes a savepoint.
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
"""The tag of an answer to COMMIT, where the transaction had failed."""


def state_of(connection: RawConnection) -> TransactionState:
    """Return the state of the transaction that was begun on a connection, failed or not."""
    if connection.is_closed() or connection.is_in_transaction():
        return TransactionState.OPEN  # on one that is closed COMMIT will fail
    return TransactionState.ENDED


class _Answered:
    """Stands for a connection in a transaction of asyncpg's, which drops the answer to COMMIT.

    What that asks a connection for is asked for by the same name here, once, and the class has a
    property of this name from then on: looking for what is not there costs a microsecond.
    """

    __slots__ = ("connection", "tag")

    def __init__(self, connection: RawConnection) -> None:
        self.connection = connection
        #: How the server has called what it did last.
        self.tag = ""

    def __getattr__(self, name: str) -> Any:
        def assign(answered: _Answered, value: object) -> None:
            setattr(answered.connection, name, value)

        setattr(_Answered, name, property(attrgetter(f"connection.{name}"), assign))
        return getattr(self.connection, name)

    async def execute(self, query: str) -> str:
        """Run what asyncpg begins or ends the transaction with."""
        # The method is asyncpg's own: the application's class may have changed it.
        self.tag = tag = await asyncpg.Connection.execute(self.connection, query)
        return tag


class AsyncpgTransaction(TaskTransaction):
    """One of a task's."""

    def __init__(self, connection: Connection, modes: TransactionModes) -> None:
        raw = _raw_of(connection)
        self._connection = raw
        #: None: the question before COMMIT tells whether it has failed.
        self._answered = None if modes.asked else _Answered(raw)
        level: Any = modes.isolation and modes.isolation.replace(" ", "_")
        answered: Any = self._answered or raw
        # For `transaction()` of an application's class there is no telling what it makes.
        self._transaction: Any = Transaction(answered, level, modes.read_only, deferrable=False)
        # asyncpg's own method: a method around it would slow every run down.
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
        # Also where the application has ended it: asyncpg would take it for open.
        ended: Awaitable[None] = self._transaction.rollback()
        return ended


def _raw_of(connection: Connection) -> RawConnection:
    # A proxy's class takes no attribute, and asyncpg's transactions set one.
    for each in gc.get_referents(connection):
        if isinstance(each, asyncpg.Connection):
            return each
    raise asyncpg.InterfaceError("connection is closed")
