"""The transaction around a unit of work over SQLAlchemy: what `Connection.begin()` begins.

So `begin_nested()` within it makes a savepoint. The library beneath begins it with the first
statement, and is asked what has become of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hasql.driver.transactions import TaskTransaction, ThreadTransaction, TransactionState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from hasql._adapters.sqlalchemy.leases import EngineLease
    from hasql._adapters.sqlalchemy.library import DbapiLibrary
    from hasql._adapters.sqlalchemy.thread_leases import EngineThreadLease
    from hasql._adapters.sqlalchemy.thread_library import ThreadLibrary
    from hasql.driver.transactions import TransactionModes

__all__ = ("EngineThreadTransaction", "EngineTransaction")


def _options(adapted: Any, modes: TransactionModes) -> dict[str, Any]:
    """Return the options with which SQLAlchemy begins it so; it undoes them on return."""
    options: dict[str, Any] = {}
    if modes.isolation:
        options["isolation_level"] = modes.isolation.upper()
    elif adapted.autocommit:
        options["isolation_level"] = "READ COMMITTED"  # there would be no transaction at all
    if modes.read_only:
        options["postgresql_readonly"] = True
    return options


class _Library(Protocol):
    def is_closed(self, connection: Any, /) -> bool: ...

    def state_of(self, connection: Any, /) -> TransactionState: ...


def _state(library: _Library, raw: Any, transaction: Any, *, stated: bool) -> TransactionState:
    if library.is_closed(raw):
        return TransactionState.OPEN  # as far as anybody knows: COMMIT will fail
    if not transaction.is_active:
        return TransactionState.ENDED
    state = library.state_of(raw)
    return TransactionState.NOT_BEGUN if state is TransactionState.ENDED and not stated else state


class EngineTransaction(TaskTransaction):
    """One of a task's."""

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

    async def begin(self) -> None:
        self._lease.user = None
        if options := _options(self._lease.adapted, self._modes):
            _ = await self._connection.execution_options(**options)
        self._transaction = await self._connection.begin()

    @property
    def state(self) -> TransactionState:
        lease = self._lease
        stated = lease.user is not None
        return _state(self._library, lease.raw, self._transaction, stated=stated)

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        return await self._library.fetch_row(self._lease.raw, sql)

    async def commit(self) -> bool:
        began = self.state is not TransactionState.NOT_BEGUN
        await self._transaction.commit()
        return not (began and self._library.was_rolled_back(self._lease.raw))

    async def roll_back(self) -> None:
        if self._connection.in_transaction():
            await self._connection.rollback()


class EngineThreadTransaction(ThreadTransaction):
    """One of a thread's."""

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

    def begin(self) -> None:
        self._lease.stated = False
        if options := _options(self._lease.raw, self._modes):
            self._connection.execution_options(**options)
        self._transaction = self._connection.begin()

    @property
    def state(self) -> TransactionState:
        lease = self._lease
        return _state(self._library, lease.raw, self._transaction, stated=lease.stated)

    def fetch_row(self, sql: str) -> Sequence[str | None]:
        return self._library.fetch_row(self._lease.raw, sql)

    def commit(self) -> bool:
        self._transaction.commit()
        return True  # what has failed, or was ended within, is not committed in the first place

    def roll_back(self) -> None:
        if self._connection.in_transaction():
            self._connection.rollback()
