"""The transaction around a unit of work over SQLAlchemy: what `Connection.begin()` begins.

So `begin_nested()` within it makes a savepoint. The library beneath begins the transaction with the
first statement, and is asked for the state of the transaction.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from hasql.driver.transactions import TaskTransaction, ThreadTransaction, TransactionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from hasql._adapters.sqlalchemy.leases import EngineLease
    from hasql._adapters.sqlalchemy.library import DbapiLibrary
    from hasql._adapters.sqlalchemy.thread_leases import EngineThreadLease
    from hasql._adapters.sqlalchemy.thread_library import ThreadLibrary
    from hasql.driver.transactions import TransactionModes

__all__ = ("EngineThreadTransaction", "EngineTransaction")


#: A statement that makes SQLAlchemy, or the library beneath, begin the transaction.
_BEGINNING = "SELECT"


def _options(adapted: Any, modes: TransactionModes) -> dict[str, Any]:
    """Return options to begin in these modes; giving the connection back undoes them."""
    if modes.isolation:
        return {"isolation_level": modes.isolation.upper()}
    if adapted.autocommit:
        return {"isolation_level": "READ COMMITTED"}  # otherwise there would be no transaction
    return {}


class _Library(Protocol):
    def is_closed(self, connection: Any, /) -> bool: ...

    def state_of(self, connection: Any, /) -> TransactionState: ...


def _state(library: _Library, raw: Any, transaction: Any, *, used: bool) -> TransactionState:
    if library.is_closed(raw):
        return TransactionState.OPEN  # as far as is known; COMMIT will fail
    if not transaction.is_active:
        return TransactionState.ENDED
    state = library.state_of(raw)
    return TransactionState.NOT_BEGUN if state is TransactionState.ENDED and not used else state


class EngineTransaction(TaskTransaction):
    """The transaction of a unit of work in a task."""

    def __init__(
        self,
        connection: AsyncConnection,
        lease: EngineLease,
        library: DbapiLibrary,
        modes: TransactionModes,
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._library = library
        self._modes = modes
        self._transaction: Any = None
        self._before: bool | None = None

    def begin(self) -> Awaitable[object]:
        self._lease.last_task = None
        options = _options(self._lease.adapted, self._modes)
        if options or self._modes.read_only:
            return self._begin_with(options)
        # Without a coroutine around it: each such layer would slow every run down.
        self._transaction = transaction = self._connection.begin()
        return transaction

    async def _begin_with(self, options: dict[str, Any]) -> None:
        if options:
            _ = await self._connection.execution_options(**options)
        if self._modes.read_only:
            self._before = self._library.read_only(self._lease.adapted)
            await self._library.set_read_only(self._lease.adapted, value=True)
        self._transaction = await self._connection.begin()

    @property
    def state(self) -> TransactionState:
        lease = self._lease
        used = lease.last_task is not None
        return _state(self._library, lease.raw, self._transaction, used=used)

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        if self.state is TransactionState.NOT_BEGUN:
            await self._connection.exec_driver_sql(_BEGINNING)
        return await self._library.fetch_row(self._lease.raw, sql)

    async def commit(self) -> bool:
        library, raw = self._library, self._lease.raw
        # If nothing was begun here, no COMMIT is sent, and the last answer is from before.
        began = not library.was_rolled_back(raw) or self.state is not TransactionState.NOT_BEGUN
        await self._transaction.commit()
        if self._modes.read_only:
            await self._restore()
        return not (began and library.was_rolled_back(raw))

    async def roll_back(self) -> None:
        if self._connection.in_transaction():
            await self._connection.rollback()
        await self._restore()

    async def _restore(self) -> None:
        if self._modes.read_only and not self._library.is_closed(self._lease.raw):
            try:
                await self._library.set_read_only(self._lease.adapted, self._before)
            except Exception:  # noqa: BLE001  # lost just now, and not to be used like this
                self._library.abort(self._lease.raw)


class EngineThreadTransaction(ThreadTransaction):
    """The transaction of a unit of work in a thread."""

    def __init__(
        self,
        connection: Connection,
        lease: EngineThreadLease,
        library: ThreadLibrary,
        modes: TransactionModes,
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._library = library
        self._modes = modes
        self._transaction: Any = None
        self._before: bool | None = None

    def begin(self) -> None:
        self._lease.used = False
        if options := _options(self._lease.raw, self._modes):
            self._connection.execution_options(**options)
        if self._modes.read_only:
            self._before = self._library.read_only(self._lease.raw)
            self._library.set_read_only(self._lease.raw, value=True)
        self._transaction = self._connection.begin()

    @property
    def state(self) -> TransactionState:
        lease = self._lease
        return _state(self._library, lease.raw, self._transaction, used=lease.used)

    def fetch_row(self, sql: str) -> Sequence[str | None]:
        if self.state is TransactionState.NOT_BEGUN:
            self._connection.exec_driver_sql(_BEGINNING)
        return self._library.fetch_row(self._lease.raw, sql)

    def commit(self) -> bool:
        self._transaction.commit()
        self._restore()
        return True  # if it has failed, or was ended within, this is not called in the first place

    def roll_back(self) -> None:
        if self._connection.in_transaction():
            self._connection.rollback()
        self._restore()

    def _restore(self) -> None:
        if self._modes.read_only:
            with suppress(Exception):  # lost just now, which is noticed when it is lent next
                self._library.set_read_only(self._lease.raw, self._before)
