"""The transaction around a unit of work over psycopg 3, which is one of psycopg's own.

So `Connection.transaction()` within the work makes a savepoint, and psycopg itself refuses
`commit()` and `rollback()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from psycopg import AsyncTransaction, Error, IsolationLevel, OperationalError, Rollback, Transaction
from psycopg.pq import TransactionStatus

from hasql._adapters.psycopg.server import ask, ask_in_thread, first_row
from hasql.driver.transactions import TaskTransaction, ThreadTransaction, TransactionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from psycopg import BaseConnection

    from hasql.driver.transactions import TransactionModes

__all__ = ("PsycopgThreadTransaction", "PsycopgTransaction", "state_of")

_IDLE = TransactionStatus.IDLE
_STATES: dict[int, TransactionState] = {
    _IDLE: TransactionState.ENDED,
    TransactionStatus.ACTIVE: TransactionState.BUSY,
    TransactionStatus.INTRANS: TransactionState.OPEN,
    TransactionStatus.INERROR: TransactionState.FAILED,
    # The connection is lost, so that COMMIT will fail.
    TransactionStatus.UNKNOWN: TransactionState.OPEN,
}


def state_of(connection: BaseConnection[Any]) -> TransactionState:
    """Return the state of the transaction that was begun on a connection."""
    return _STATES[connection.pgconn.transaction_status]


def _level_of(modes: TransactionModes) -> IsolationLevel | None:
    level = modes.isolation
    return None if level is None else IsolationLevel[level.upper().replace(" ", "_")]


def _is_entered(transaction: Transaction | AsyncTransaction) -> bool:
    """Tell whether psycopg takes it for open. It does so even if SQL has ended it."""
    return transaction.status is transaction.Status.ACTIVE


def _check_left(transaction: Transaction | AsyncTransaction) -> None:
    """Raise OperationalError if the connection was lost: psycopg itself does not raise then."""
    if transaction.status is transaction.Status.FAILED:
        raise OperationalError("the connection was lost")


class _PsycopgTransactionBase:
    """What the classes for tasks and threads share; `_of` is psycopg's class of transactions."""

    _of: ClassVar[type[Any]]

    def __init__(self, connection: Any, modes: TransactionModes) -> None:
        self._connection = connection
        self._modes = modes
        self._transaction = self._of(connection)
        self._before: tuple[IsolationLevel | None, bool | None] | None = None
        if modes.isolation or modes.read_only:
            self._before = connection.isolation_level, connection.read_only

    @property
    def state(self) -> TransactionState:
        return state_of(self._connection)


class PsycopgTransaction(_PsycopgTransactionBase, TaskTransaction):
    """The transaction of a task."""

    _of = AsyncTransaction

    def begin(self) -> Awaitable[None]:
        # Not a coroutine function: each additional coroutine would cost every run some time.
        if self._before is not None:
            return self._begin_as(*self._before)
        begun: Awaitable[None] = self._transaction.__aenter__()
        return begun

    async def _begin_as(self, level: IsolationLevel | None, read_only: bool | None) -> None:  # noqa: FBT001  # as below
        await self._set(_level_of(self._modes) or level, self._modes.read_only or read_only)
        await self._transaction.__aenter__()

    async def _set(self, level: IsolationLevel | None, read_only: bool | None) -> None:  # noqa: FBT001  # as psycopg takes it
        await self._connection.set_isolation_level(level)
        await self._connection.set_read_only(read_only)

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        return first_row(await ask(self._connection, sql))

    async def commit(self) -> bool:
        await self._transaction.__aexit__(None, None, None)
        _check_left(self._transaction)
        if self._before is not None:
            await self._restore()
        return True  # `commit` is not called for a transaction that has failed or was ended within

    async def roll_back(self) -> None:
        connection = self._connection
        connection.used_by_hasql = True  # so a cancelled task does not wait for the server
        if _is_entered(self._transaction):
            await self._transaction.__aexit__(Rollback, Rollback(), None)
        if connection.pgconn.transaction_status != _IDLE:
            await connection.rollback()
        await self._restore()

    async def _restore(self) -> None:
        if self._before is not None:
            try:
                await self._set(*self._before)
            except Error:
                self._connection.abort()  # lost just now; it must not be leased with these modes


class PsycopgThreadTransaction(_PsycopgTransactionBase, ThreadTransaction):
    """The transaction of a thread."""

    _of = Transaction

    def begin(self) -> None:
        if self._before is not None:
            level, read_only = self._before
            self._set(_level_of(self._modes) or level, self._modes.read_only or read_only)
        self._transaction.__enter__()

    def _set(self, level: IsolationLevel | None, read_only: bool | None) -> None:  # noqa: FBT001  # as psycopg takes it
        self._connection.isolation_level = level
        self._connection.read_only = read_only

    def fetch_row(self, sql: str) -> Sequence[str | None]:
        return first_row(ask_in_thread(self._connection, sql))

    def commit(self) -> bool:
        self._transaction.__exit__(None, None, None)
        _check_left(self._transaction)
        if self._before is not None:
            self._restore()
        return True  # as above

    def roll_back(self) -> None:
        connection = self._connection
        if _is_entered(self._transaction):
            self._transaction.__exit__(Rollback, Rollback(), None)
        if connection.pgconn.transaction_status != _IDLE:
            connection.rollback()
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            try:
                self._set(*self._before)
            except Error:
                self._connection.abort()  # as above
