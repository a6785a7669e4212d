"""An engine of SQLAlchemy, with everything that the core needs of a driver's pool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from hasql._adapters.sqlalchemy.checkout_retry import MAY_RETRY, RetryCheckoutError
from hasql._adapters.sqlalchemy.connections import EngineConnections
from hasql._adapters.sqlalchemy.leases import EngineLease, EngineLeases, raw_of
from hasql._adapters.sqlalchemy.raw_questions import RawConnectionMixin
from hasql._adapters.sqlalchemy.shielded import ShieldedOperations
from hasql._adapters.sqlalchemy.transactions import EngineTransaction
from hasql.driver import AsyncPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import URL
    from sqlalchemy.pool import QueuePool

    from hasql._adapters.sqlalchemy.library import DbapiLibrary
    from hasql.driver import Endpoint, PoolSizes
    from hasql.driver.transactions import TransactionModes

__all__ = ("EnginePool",)


#: How often an acquire asks the pool again because a connection was given back while it waited for
#: a new one. Each time, another acquire may take that connection first.
_RETRIES = 3


class EnginePool(RawConnectionMixin, AsyncPool[AsyncEngine, AsyncConnection]):
    """One engine, the connections that it has opened, and its leases."""

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        endpoint: Endpoint,
        url: URL,
        kwargs: Mapping[str, Any],
        sizes: PoolSizes,
        library: DbapiLibrary,
        report: Callable[[AsyncConnection, BaseException], None],
    ) -> None:
        self.sizes = sizes
        self._library = library
        self._opened = EngineConnections(endpoint, library, lifo=bool(kwargs.get("pool_use_lifo")))
        self.end_connects: Any = self._opened.end_connects
        self.destinations = self._opened.destinations
        given = kwargs.get("connect_args", {})
        arguments = {**given, "async_creator_fn": self._opened.connect}
        self.pool: AsyncEngine = create_async_engine(url, **{**kwargs, "connect_args": arguments})
        self._engine = self.pool.sync_engine
        self._opened.watch(self._engine)
        self._leases = EngineLeases(self.pool, report, library.ended_by_limit)
        self._shielded = ShieldedOperations(self._discard)

    @property
    def size(self) -> int:
        return len(self._opened)

    def idle(self) -> int:
        return self._opened.idle()

    async def acquire(self, **kwargs: Any) -> AsyncConnection:
        pool: QueuePool = self._engine.pool  # type: ignore[assignment]  # the one hasql allows
        for left in range(pool.checkedin() + _RETRIES, -1, -1):
            token = MAY_RETRY.set(left > 0)
            try:
                connecting = self.pool.connect(**kwargs)
                connection = await self._shielded.run(connecting, self._opened.give_up)
                break
            except RetryCheckoutError:
                continue
            except exc.InvalidRequestError as error:
                # SQLAlchemy gave up, because each connection that it opened was lost at once.
                raise ConnectionError("the connection was lost as soon as it was made") from error
            finally:
                MAY_RETRY.reset(token)
        raw = raw_of(connection)
        if pool is not self._engine.pool or raw is None:
            await self._discard(connection)
            raise ConnectionError("hasql gave up on the host while connecting to it")
        self._leases.add(connection, raw, pool)
        return connection

    async def release(self, connection: AsyncConnection, **kwargs: Any) -> None:
        lease = self._leases.of(connection)
        if lease is None:
            if (raw := raw_of(connection)) is None:
                await connection.close()
                return
            lease = EngineLease(connection, raw)
        try:
            back = self._give_back(connection, lease, kwargs)
            await self._shielded.run(back, lambda _: self.abort(connection), connection)
            if pending := self._library.pending_cancel(lease.raw):
                await asyncio.wait({pending})
        finally:
            self._leases.remove(connection)
            self._opened.abort_unless_returned(lease.raw, lease.adapted)

    async def _give_back(
        self, connection: AsyncConnection, lease: EngineLease, kwargs: dict[str, Any]
    ) -> None:
        if (
            self.is_closed(connection)
            # Another task's statement runs, and a rollback would wait for its end.
            or self._library.in_use(lease.raw)
            # The application has disposed of the pool, so the connection would never be used again.
            or (lease.pool is not None and lease.pool is not self._engine.pool)
        ):
            await self._discard(connection)
            return
        try:
            shared = lease.is_shared() and connection.in_transaction()
            if shared and self._library.is_clean(lease.raw):
                # A rollback fails if another task's statement runs. With AUTOCOMMIT there is no
                # rollback, so ask the library.
                await self._library.check_unused(lease.raw)
            await connection.close(**kwargs)
        except BaseException:
            await self._discard(connection)
            raise

    async def _discard(self, connection: AsyncConnection) -> None:
        """Close a connection for good, without a word to the server."""
        raw = raw_of(connection)
        if raw is not None:
            self._opened.abort(raw)
            await self._library.wait_until_unused(raw)
            await connection.invalidate()
        await connection.close()

    def _raw_of(self, connection: AsyncConnection) -> Any:
        lease = self._leases.of(connection)
        return lease.raw if lease is not None and lease.is_intact() else raw_of(connection)

    def in_hot_standby(self, connection: AsyncConnection) -> bool | None:
        raw = self._raw_of(connection)
        return None if raw is None else self._library.in_hot_standby(raw)

    def key(self, connection: AsyncConnection) -> Any:
        return None if self.is_closed(connection) else self._raw_of(connection)

    def transaction(
        self, connection: AsyncConnection, modes: TransactionModes
    ) -> EngineTransaction:
        lease = self._leases.of(connection) or EngineLease(connection, raw_of(connection))
        return EngineTransaction(connection, lease, self._library, modes)

    def watch_drops(self, dropped: Callable[[int, Callable[[], AsyncConnection]], bool]) -> bool:
        self._leases.dropped = dropped
        return True

    def is_closed(self, connection: AsyncConnection) -> bool:
        lease = self._leases.of(connection)
        if lease is not None:
            return lease.aborted or not lease.is_intact() or self._library.is_closed(lease.raw)
        raw = raw_of(connection)
        return raw is None or self._library.is_closed(raw)

    def abort(self, connection: AsyncConnection) -> None:
        raw = raw_of(connection)
        lease = self._leases.of(connection)
        if raw is not None:
            self._leases.note_abort(connection, raw)
            self._opened.abort(raw)
        elif lease is not None and self._library.pending_cancel(lease.raw):
            self._opened.abort(lease.raw)  # SQLAlchemy is already closing it
        self._shielded.end(connection)

    def purge(self, leased: Iterable[AsyncConnection]) -> None:
        self._opened.purge({raw_of(connection) for connection in leased})
        self._replace_pool()

    def drain(
        self, leased: Iterable[AsyncConnection], has_left: Callable[[str | None], bool]
    ) -> None:
        self._opened.purge({raw_of(connection) for connection in leased}, has_left)

    def _replace_pool(self) -> None:
        # SQLAlchemy makes a new pool for the engine, without records of the aborted connections.
        self._engine.dispose(close=False)

    async def close(self) -> None:
        await self.pool.dispose()
        self._opened.close()

    def terminate(self) -> None:
        self._opened.close()
        self._replace_pool()
        self._leases.detach()
