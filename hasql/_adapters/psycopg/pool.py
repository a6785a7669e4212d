"""A psycopg 3 pool, with everything that the core needs of a pool."""

# long: it is one class, with what the core asks of a pool and nothing else.

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg import AsyncConnection, OperationalError
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed

from hasql._adapters.psycopg.connect_attempts import ConnectAttempts, LostWhileIdleError
from hasql._adapters.psycopg.drops import DropReportMixin
from hasql._adapters.psycopg.pooled_connections import OpenConnections
from hasql._adapters.psycopg.server import count_rows, in_hot_standby, is_read_only
from hasql._adapters.psycopg.transactions import PsycopgTransaction
from hasql._adapters.psycopg.workers import Workers, first_step, put_despite_cancellation
from hasql.driver import AsyncPool
from hasql.driver.deadline import cancel_again, cancellations
from hasql.driver.holder import ReusesObjects
from hasql.driver.stepping import Begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from hasql._adapters.psycopg.connection import PsycopgConnection
    from hasql.driver import Endpoint, PoolSizes

__all__ = ("Connection", "Pool", "PsycopgPool")

Connection: TypeAlias = AsyncConnection[TupleRow]
Pool: TypeAlias = AsyncConnectionPool[Connection]
_Pooled: TypeAlias = Any  # the class comes from `OpenConnections`; to the core it is a Connection

#: What `next` returns for work that has ended: cheaper than catching StopIteration.
_DONE: Any = object()
_BAD, _IDLE = ConnStatus.BAD, TransactionStatus.IDLE


class PsycopgPool(DropReportMixin, ReusesObjects, AsyncPool[Pool, Connection]):
    """One psycopg pool, and all connections that it has opened."""

    count_rows: Any = staticmethod(count_rows)
    in_hot_standby = staticmethod(in_hot_standby)
    transaction: Any = PsycopgTransaction
    is_read_only: Any = staticmethod(is_read_only)

    def __init__(self, endpoint: Endpoint, kwargs: Mapping[str, Any], sizes: PoolSizes) -> None:
        self.sizes = sizes
        self._check = kwargs.get("check")
        #: What the check of an acquire has found: a dead connection, or the one to return.
        self._found_dead = False
        self._checked: PsycopgConnection | None = None
        workers = kwargs.get("num_workers", 3)
        self._connects = ConnectAttempts(workers)
        self.end_connects: Any = self._connects.end
        self.host_answers: Any = self._connects.host_answers
        self._opened = OpenConnections(endpoint, self._connects, kwargs.get("configure"))
        self.destinations = self._opened.destinations
        self._reset = self._opened.resetting(kwargs.get("reset"))
        ours: dict[str, Any] = {
            "check": self._check_one,
            "configure": None,
            "connection_class": self._opened.class_of(
                kwargs.get("connection_class", AsyncConnection)
            ),
            "max_size": sizes.maximum,
            "min_size": sizes.minimum,
            "num_workers": sizes.maximum + workers,
            "open": False,
            "reset": None,  # the pool would leave it to a worker
        }
        self.pool: Pool = AsyncConnectionPool(endpoint.dsn, **{**kwargs, **ours})
        self._workers = Workers(self.pool)

    async def open(self) -> PsycopgPool:
        try:
            await self._workers.start()
            await self._connects.wait(self.pool.wait())
        except BaseException:
            self.terminate()
            raise
        return self

    @property
    def size(self) -> int:
        return len(self._opened)

    def idle(self) -> int:
        return self.pool.get_stats()["pool_available"]

    async def acquire(self, **kwargs: Any) -> Connection:
        connection: _Pooled = None
        while connection is None:
            getting = self.pool.getconn(**kwargs) if kwargs else self.pool.getconn()
            steps = getting.__await__()
            self._found_dead = False
            paused_on = next(steps, _DONE)
            if paused_on is _DONE:
                connection = self._checked
            elif self._found_dead:
                # The pool has discarded the connection and would pause before it takes the next.
                steps.close()
            else:
                connection = await self._wait(Begun(steps, paused_on))
            self._checked = None
        connection.used_by_hasql = False
        if connection.held_before is not None:
            connection.hold()
        return connection  # type: ignore[no-any-return]  # as said above

    async def _wait(self, getting: Awaitable[_Pooled]) -> _Pooled:
        before = cancellations()
        connection = None
        with suppress(LostWhileIdleError):
            connection = await self._connects.wait(getting)
        if cancellations() > before:
            if connection is not None:
                await put_despite_cancellation(self.pool.putconn(connection))
            await cancel_again()
        return connection

    async def _check_one(self, connection: PsycopgConnection) -> None:
        if not (connection.was_just_alive() or connection.is_alive()):
            self._found_dead = True
            await connection.close()
            if self._connects.awaited:
                raise LostWhileIdleError
            raise OperationalError("the connection was lost while it was idle")
        if self._check is not None:
            try:
                await self._check(connection)
            except asyncio.CancelledError:
                await connection.close()  # otherwise the pool would warn that it was in use
                raise
        self._checked = connection  # the pool now returns it without a pause

    def leave_block(self, connection: _Pooled, error: BaseException | None) -> Any:
        if connection.pgconn.transaction_status == _IDLE:
            return None
        connection.used_by_hasql = True
        return connection.__aexit__(type(error) if error else None, error, None)

    async def roll_back(self, connection: _Pooled) -> None:
        connection.used_by_hasql = True
        if connection.lost or connection.pgconn.transaction_status != _IDLE:
            await connection.roll_back_or_close()

    async def release(self, connection: _Pooled, **kwargs: Any) -> None:
        connection.used_by_hasql = True
        try:
            if connection.lost or connection.pgconn.transaction_status != _IDLE:
                await connection.roll_back_or_close()
            if self._reset is not None and not connection.lost:
                await self._connects.reset(connection, self._reset)
            steps = self.pool.putconn(connection, **kwargs).__await__()
        except BaseException:
            await connection.close()
            await put_despite_cancellation(self.pool.putconn(connection))
            raise
        paused_on = next(steps, _DONE)
        if paused_on is not _DONE:
            await asyncio.shield(Begun(steps, paused_on))

    def is_closed(self, connection: _Pooled) -> bool:
        return bool(connection.lost or connection.pgconn.status == _BAD)

    def abort(self, connection: _Pooled) -> None:
        self._opened.forget(connection)
        self._connects.resets.end(connection)
        connection.abort()

    def purge(self, leased: Iterable[_Pooled]) -> None:
        self._connects.give_up()
        kept = {id(connection) for connection in leased}
        for connection in self._opened.all():
            if id(connection) not in kept:
                self.abort(connection)
        for _ in range(self.idle()):
            first_step(self.pool.getconn())  # its check discards the aborted connection

    def drain(self, leased: Iterable[_Pooled], has_left: Callable[[str | None], bool]) -> None:
        self._connects.end()
        kept = {id(connection) for connection in leased}
        for connection in self._opened.all():
            if id(connection) not in kept and has_left(self._address_of(connection)):
                self.abort(connection)

    async def keep(self, sizes: PoolSizes) -> None:
        self.sizes = sizes
        room = sizes.maximum - self.pool.get_stats().get("pool_size", 0)
        if room >= sizes.minimum:  # otherwise psycopg's pool would open too many
            await self.pool.resize(sizes.minimum, sizes.maximum)

    async def close(self) -> None:
        self._connects.close()
        await self.pool.close()

    def terminate(self) -> None:
        self._connects.close()
        for connection in self._opened.all():
            self.abort(connection)
        self._workers.stop()
        self._connects.end_waits(PoolClosed(f"the pool {self.pool.name!r} is closed"))
