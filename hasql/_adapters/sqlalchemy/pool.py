"""An engine of SQLAlchemy with all that the core needs of a driver's pool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from hasql._adapters.sqlalchemy.connections import Connections
from hasql._adapters.sqlalchemy.loans import Loan, Loans, raw_of
from hasql._adapters.sqlalchemy.passing import MAY_PASS, PassedError
from hasql._adapters.sqlalchemy.work import Work
from hasql.driver.holder import NeverHeldBefore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import URL
    from sqlalchemy.pool import QueuePool

    from hasql._adapters.sqlalchemy.beneath import Beneath
    from hasql.driver import PoolSizes

__all__ = ("EnginePool",)


#: How often an acquire goes for a connection that was given back while it had one opened: others
#: may be quicker.
_CHANCES = 3


class EnginePool(NeverHeldBefore):
    """One engine, what it has opened, and what it has lent."""

    released = None

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        dsn: str,
        url: URL,
        kwargs: Mapping[str, Any],
        sizes: PoolSizes,
        beneath: Beneath,
        report: Callable[[AsyncConnection, BaseException], None],
    ) -> None:
        self.sizes = sizes
        self._beneath = beneath
        self._opened = Connections(dsn, beneath, lifo=bool(kwargs.get("pool_use_lifo")))
        self.end_connects = self._opened.end_connects
        self.destinations = self._opened.destinations
        creator = {"async_creator_fn": self._opened.connect}
        arguments = {**kwargs.get("connect_args", {}), **creator}
        self.pool: AsyncEngine = create_async_engine(url, **{**kwargs, "connect_args": arguments})
        self._engine = self.pool.sync_engine
        self._opened.watch(self._engine)
        self._loans = Loans(self._engine, report)
        self._work = Work(self._discard)

    @property
    def size(self) -> int:
        return len(self._opened)

    def idle(self) -> int:
        return self._opened.idle()

    async def acquire(self, **kwargs: Any) -> AsyncConnection:
        pool: QueuePool = self._engine.pool  # type: ignore[assignment]  # the one hasql allows
        for left in range(pool.checkedin() + _CHANCES, -1, -1):
            passing = MAY_PASS.set(left > 0)
            try:
                connecting = self.pool.connect(**kwargs)
                connection = await self._work.run(connecting, self._opened.give_up)
                break
            except PassedError:
                continue
            except exc.InvalidRequestError as error:
                # Each that it has opened was broken at once, and SQLAlchemy has had enough.
                raise ConnectionError("the connection was lost as soon as it was made") from error
            finally:
                MAY_PASS.reset(passing)
        raw = raw_of(connection)
        if pool is not self._engine.pool or raw is None:
            await self._discard(connection)
            raise ConnectionError("the host was given up while connecting to it")
        self._loans.enter(connection, raw, pool)
        return connection

    def leave_block(self, *_: object) -> None:
        """What was not committed is rolled back by SQLAlchemy when the connection is closed."""

    async def release(self, connection: AsyncConnection, **kwargs: Any) -> None:
        loan = self._loans.of(connection)
        if loan is None:
            if (raw := raw_of(connection)) is None:
                await connection.close()
                return
            loan = Loan(connection, raw)
        try:
            back = self._give_back(connection, loan, kwargs)
            await self._work.run(back, lambda _: self.abort(connection), connection)
            if ending := self._beneath.ending(loan.raw):
                await asyncio.wait({ending})
        finally:
            self._loans.strike(connection)
            self._opened.let_go(loan.raw, loan.adapted)

    async def _give_back(
        self, connection: AsyncConnection, loan: Loan, kwargs: dict[str, Any]
    ) -> None:
        if (
            self.is_closed(connection)
            # A rollback would wait for another task's statement.
            or self._beneath.in_use(loan.raw)
            # One whose pool the application has disposed of would lie there for ever.
            or (loan.pool is not None and loan.pool is not self._engine.pool)
        ):
            await self._discard(connection)
            return
        try:
            if (
                loan.is_shared()
                and connection.in_transaction()
                and self._beneath.is_clean(loan.raw)
            ):
                # With AUTOCOMMIT there is no rollback that would fail.
                await self._beneath.check_unused(loan.raw)
            await connection.close(**kwargs)
        except BaseException:
            await self._discard(connection)
            raise

    async def _discard(self, connection: AsyncConnection) -> None:
        """Close a connection for good, without I/O."""
        raw = raw_of(connection)
        if raw is not None:
            self._opened.break_off(raw)
            await self._beneath.settle(raw)
            await connection.invalidate()
        await connection.close()

    def _raw_of(self, connection: AsyncConnection) -> Any:
        loan = self._loans.of(connection)
        return loan.raw if loan is not None and loan.holds() else raw_of(connection)

    def in_hot_standby(self, connection: AsyncConnection) -> bool | None:
        raw = self._raw_of(connection)
        return None if raw is None else self._beneath.in_hot_standby(raw)

    def key(self, connection: AsyncConnection) -> Any:
        return None if self.is_closed(connection) else self._raw_of(connection)

    async def count_rows(self, connection: AsyncConnection, sql: str) -> int:
        return await self._beneath.count_rows(raw_of(connection), sql)

    def is_closed(self, connection: AsyncConnection) -> bool:
        loan = self._loans.of(connection)
        if loan is not None:
            return loan.aborted or not loan.holds() or self._beneath.is_closed(loan.raw)
        raw = raw_of(connection)
        return raw is None or self._beneath.is_closed(raw)

    def abort(self, connection: AsyncConnection) -> None:
        raw = raw_of(connection)
        loan = self._loans.of(connection)
        if raw is not None:
            self._loans.abort(connection, raw)
            self._opened.break_off(raw)
        elif loan is not None and self._beneath.ending(loan.raw):
            self._opened.break_off(loan.raw)  # SQLAlchemy has let go of it
        self._work.end(connection)

    def host_answers(self) -> None:
        """See `DriverPool`: it keeps no connection at least."""

    def purge(self, lent: Iterable[AsyncConnection]) -> None:
        self._opened.purge({raw_of(connection) for connection in lent})
        self._replace()

    def _replace(self) -> None:
        # The pool that is put in place has no records of connections that are broken.
        self._engine.dispose(close=False)

    async def close(self) -> None:
        await self.pool.dispose()
        self._opened.close()

    def terminate(self) -> None:
        self._opened.close()
        self._replace()
        self._loans.detach()
