"""aiopg.sa: aiopg's pool as an engine, whose connections execute SQLAlchemy's expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiopg
from aiopg.sa import Engine, SAConnection
from aiopg.sa.engine import get_dialect

from hasql._adapters.aiopg.connection import in_transaction
from hasql._adapters.aiopg.driver import AiopgDriver
from hasql._adapters.aiopg.pool import AiopgPool
from hasql._adapters.aiopg.transactions import AiopgSaTransaction
from hasql._adapters.aiopg.watched_connection import ignore_drop
from hasql.cluster.dsn import Dsn

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql.driver.transactions import TransactionModes

__all__ = ("AiopgSaDriver",)


class _LeasingEngine:
    """Stands in for the engine of a leased connection, which releases itself to it when closed.

    So a connection that was closed or given back stays closed for good, and the aiopg connection
    inside it can be leased again without going through aiopg's pool.
    """

    def __init__(self, dialect: Any, take_back: Callable[[SAConnection], None]) -> None:
        self.dialect = dialect
        self._take_back = take_back

    async def release(self, connection: SAConnection) -> None:
        self._take_back(connection)


class _LeasedSAConnection(SAConnection):
    """The connection of a lease, not one that the user has taken from the engine directly."""

    #: Called if the connection is dropped.
    dropped = staticmethod(ignore_drop)

    def __del__(self) -> None:
        if getattr(self, "connection", None) is not None:
            self.dropped(id(self), lambda: self)


class AiopgSaPool(AiopgPool[Engine, SAConnection]):
    """The adapter of an engine.

    Its slots are the SQLAlchemy connections that the engine makes; for each lease of a slot the
    user gets another connection object.
    """

    def inner_of(self, connection: SAConnection) -> aiopg.Connection | None:
        inner: aiopg.Connection | None = connection.connection
        return inner

    def transaction(self, connection: SAConnection, modes: TransactionModes) -> AiopgSaTransaction:
        return AiopgSaTransaction(connection, self.inner_of(connection), modes)

    def _hand_out(self, slot: SAConnection) -> SAConnection:
        engine = _LeasingEngine(self.pool.dialect, self.take_back)
        leased = _LeasedSAConnection(slot.connection, engine)  # type: ignore[no-untyped-call]
        leased.dropped = self._dropped
        return leased

    def _is_of_another_lease(self, connection: SAConnection, inner: aiopg.Connection) -> bool:
        leased = isinstance(connection, _LeasedSAConnection)
        return leased and super()._is_of_another_lease(connection, inner)

    async def _roll_back(self, connection: Any, inner: aiopg.Connection) -> None:
        while connection.in_transaction:
            # A transaction that is begun within another only refers to the other: rolling it back
            # rolls the other back, the innermost savepoint first. A two-phase transaction cannot be
            # rolled back: aiopg.sa 1.4.0 raises, and `release` closes the connection.
            transaction = await connection.begin()
            await transaction.rollback()
        if in_transaction(inner):
            await super()._roll_back(connection, inner)

    async def _give_back(self, connection: Any) -> None:
        await connection.close()


#: One dialect for all hosts, because SQLAlchemy caches compiled statements by dialect.
_DIALECT = get_dialect()  # type: ignore[no-untyped-call]


async def _create_engine(dsn: str, dialect: Any = _DIALECT, **kwargs: Any) -> Engine:
    # aiopg's own `create_engine` takes a connection before it returns, only to get the DSN without
    # its password. If it is cancelled in its last step, the pool with that connection is lost.
    pool = await aiopg.create_pool(dsn, **kwargs)
    return Engine(dialect, pool, str(Dsn.parse(dsn)))  # type: ignore[no-untyped-call]


class AiopgSaDriver(AiopgDriver[Engine, SAConnection]):
    """aiopg.sa as a whole; its `create_engine` also takes one of SQLAlchemy's dialects."""

    def __init__(self) -> None:
        super().__init__(lambda sizes: AiopgSaPool(sizes, _create_engine), extra=("dialect",))
