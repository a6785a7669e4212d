"""aiopg.sa: aiopg's pool as an engine, with connections that take SQLAlchemy's expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiopg
from aiopg.sa import Engine, SAConnection
from aiopg.sa.engine import get_dialect

from hasql._adapters.aiopg.connection import in_transaction
from hasql._adapters.aiopg.driver import AiopgDriver
from hasql._adapters.aiopg.pool import AiopgPool
from hasql.cluster.dsn import Dsn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("AiopgSaDriver",)


class _LeasingEngine:
    """What a connection takes for the engine that it is from, to be given back to when closed.

    So a connection that was closed or given back is closed for good, and what is behind it may be
    lent again without a detour through aiopg's pool.
    """

    def __init__(self, dialect: Any, take_back: Callable[[SAConnection], None]) -> None:
        self.dialect = dialect
        self._take_back = take_back

    async def release(self, connection: SAConnection) -> None:
        self._take_back(connection)


class _LeasedSAConnection(SAConnection):
    """What was made by us, not taken from an engine directly."""


class AiopgSaPool(AiopgPool[Engine, SAConnection]):
    """An engine: its slots are connections of its own making, and the user gets one of ours."""

    def behind(self, connection: SAConnection) -> aiopg.Connection | None:
        inner: aiopg.Connection | None = connection.connection
        return inner

    def _lend(self, slot: SAConnection) -> SAConnection:
        lender = _LeasingEngine(self.pool.dialect, self.take_back)
        return _LeasedSAConnection(slot.connection, lender)  # type: ignore[no-untyped-call]

    def _is_anothers(self, connection: SAConnection, inner: aiopg.Connection) -> bool:
        return isinstance(connection, _LeasedSAConnection) and super()._is_anothers(
            connection, inner
        )

    async def _roll_back(self, connection: Any, inner: aiopg.Connection) -> None:
        while connection.in_transaction:
            # One that is begun within another stands for that, savepoints first. One in two phases
            # cannot be rolled back: aiopg.sa 1.4.0 fails, so `release` closes the connection.
            transaction = await connection.begin()
            await transaction.rollback()
        if in_transaction(inner):
            await super()._roll_back(connection, inner)

    async def _let_go(self, connection: Any) -> None:
        await connection.close()


#: As SQLAlchemy keeps what it has compiled with the dialect, one for all hosts.
_DIALECT = get_dialect()  # type: ignore[no-untyped-call]


async def _create_engine(dsn: str, dialect: Any = _DIALECT, **kwargs: Any) -> Engine:
    # aiopg's own `create_engine` connects before it returns, if only to ask for the DSN without its
    # password, and loses the pool with that connection when it is cancelled on its last step.
    pool = await aiopg.create_pool(dsn, **kwargs)
    return Engine(dialect, pool, str(Dsn.parse(dsn)))  # type: ignore[no-untyped-call]


class AiopgSaDriver(AiopgDriver[Engine, SAConnection]):
    """aiopg.sa as a whole; its `create_engine` takes a dialect of SQLAlchemy's as well."""

    def __init__(self) -> None:
        super().__init__(lambda sizes: AiopgSaPool(sizes, _create_engine), extra=("dialect",))
