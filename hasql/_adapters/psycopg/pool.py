"""A pool of psycopg 3 with all that the core needs of one."""

# long: acquire, check and release share what the pool has met

from __future__ import annotations

import asyncio
from contextlib import suppress
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

from psycopg import AsyncConnection, OperationalError
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed

from hasql._adapters.psycopg.connects import Connects, LostError
from hasql._adapters.psycopg.pooled import Pooled
from hasql._adapters.psycopg.server import count_rows, in_hot_standby, is_read_only
from hasql._adapters.psycopg.workers import Workers, despite_cancellation, first_step
from hasql.driver.deadline import cancellations
from hasql.driver.destinations import Destinations
from hasql.driver.stepping import Begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from hasql._adapters.psycopg.connection import Watched
    from hasql.driver import PoolSizes

__all__ = ("Connection", "Pool", "PsycopgPool")

Connection: TypeAlias = AsyncConnection[TupleRow]
Pool: TypeAlias = AsyncConnectionPool[Connection]
_Lent: TypeAlias = Any  # one of the class below, which the core knows as a Connection

#: What `next` returns for work that has ended: cheaper than to catch StopIteration.
_DONE: Any = object()
_BAD, _IDLE = ConnStatus.BAD, TransactionStatus.IDLE


class PsycopgPool:
    """One psycopg pool, and all connections it has opened.

    Knowing them, by the pool's public `connection_class`, is what lets it be purged at once, and
    filled again without the pool's back-off.
    """

    count_rows = staticmethod(count_rows)
    in_hot_standby = staticmethod(in_hot_standby)
    released = None
    hold, is_anothers = methodcaller("hold"), methodcaller("is_anothers")
    note_release = methodcaller("note_release")

    def __init__(self, dsn: str, kwargs: Mapping[str, Any], sizes: PoolSizes) -> None:
        self.sizes = sizes
        self._configure, self._check = kwargs.get("configure"), kwargs.get("check")
        self._reset = kwargs.get("reset")
        self._open: WeakSet[Watched] = WeakSet()
        self.destinations = Destinations()
        #: What the check of an acquire has found: a dead connection, or the one to be returned.
        self._met_lost = False
        self._checked: Watched | None = None
        workers = kwargs.get("num_workers", 3)
        self._connects = Connects(workers)
        self.end_connects, self.host_answers = self._connects.end, self._connects.host_answers
        users = kwargs.get("connection_class", AsyncConnection)
        ours: dict[str, Any] = {
            "check": self._check_one,
            "configure": None,
            "connection_class": type(users.__name__, (Pooled, users), {"owner": self}),
            "max_size": sizes.maximum,
            "min_size": sizes.minimum,
            "num_workers": sizes.maximum + workers,
            "open": False,
            "reset": None,  # which the pool would leave to a worker
        }
        self.pool: Pool = AsyncConnectionPool(dsn, **{**kwargs, **ours})
        self._workers = Workers(self.pool)

    async def open(self) -> PsycopgPool:
        try:
            await self._workers.start()
            await self._connects.wait(self.pool.wait())
        except BaseException:
            self.terminate()
            raise
        return self

    async def connect(self, connect: Callable[[], Awaitable[Watched]]) -> Watched | None:
        """Connect for the pool; None when it is closed."""
        connection = await self._connects.run(connect, self._configure)
        if connection is not None:
            self._open.add(connection)
            flag, read_only = in_hot_standby(connection), is_read_only(connection)
            self.destinations.opened(connection, flag, read_only=read_only)
        return connection

    def forget(self, connection: Watched) -> None:
        """Count a connection no more."""
        self._open.discard(connection)
        self.destinations.closed(connection)

    def key(self, connection: _Lent) -> Watched | None:
        return None if self.is_closed(connection) else connection

    @property
    def size(self) -> int:
        return len(self._open)

    def idle(self) -> int:
        return self.pool.get_stats()["pool_available"]

    async def acquire(self, **kwargs: Any) -> Connection:
        connection: _Lent = None
        while connection is None:
            getting = self.pool.getconn(**kwargs) if kwargs else self.pool.getconn()
            steps = getting.__await__()
            self._met_lost = False
            paused_on = next(steps, _DONE)
            if paused_on is _DONE:
                connection = self._checked
            elif self._met_lost:
                # The pool has discarded it and means to pause before it takes the next.
                steps.close()
            else:
                connection = await self._wait(Begun(steps, paused_on))
            self._checked = None
        connection.ours = False
        if connection.held_before is not None:
            connection.hold()
        return connection  # type: ignore[no-any-return]  # as said above

    async def _wait(self, getting: Awaitable[_Lent]) -> _Lent:
        before = cancellations()
        connection = None
        with suppress(LostError):
            connection = await self._connects.wait(getting)
        if cancellations() > before:
            if connection is not None:
                await despite_cancellation(self.pool.putconn(connection))
            raise asyncio.CancelledError
        return connection

    async def _check_one(self, connection: Watched) -> None:
        if not (connection.was_sound() or connection.is_sound()):
            self._met_lost = True
            await connection.close()
            if self._connects.awaited:
                raise LostError
            raise OperationalError("the connection was lost while it was idle")
        if self._check is not None:
            try:
                await self._check(connection)
            except asyncio.CancelledError:
                await connection.close()  # the pool would have to say that it was busy
                raise
        self._checked = connection  # the pool returns it now, without a pause

    def leave_block(self, connection: _Lent, error: BaseException | None) -> Any:
        if connection.pgconn.transaction_status == _IDLE:
            return None
        connection.ours = True
        return connection.__aexit__(type(error) if error else None, error, None)

    async def release(self, connection: _Lent, **kwargs: Any) -> None:
        connection.ours = True
        try:
            if connection.lost or connection.pgconn.transaction_status != _IDLE:
                await connection.clean()
            if self._reset is not None and not connection.lost:
                await self._connects.reset(connection, self._reset)
            steps = self.pool.putconn(connection, **kwargs).__await__()
        except BaseException:
            await connection.close()
            await despite_cancellation(self.pool.putconn(connection))
            raise
        paused_on = next(steps, _DONE)
        if paused_on is not _DONE:
            await asyncio.shield(Begun(steps, paused_on))

    def is_closed(self, connection: _Lent) -> bool:
        return bool(connection.lost or connection.pgconn.status == _BAD)

    def abort(self, connection: _Lent) -> None:
        self.forget(connection)
        self._connects.resets.end(connection)
        connection.sever()

    def purge(self, lent: Iterable[_Lent]) -> None:
        self._connects.give_up()
        kept = {id(connection) for connection in lent}
        for connection in tuple(self._open):
            if id(connection) not in kept:
                self.abort(connection)
        for _ in range(self.idle()):
            first_step(self.pool.getconn())  # which has the check discard it

    async def close(self) -> None:
        self._connects.close()
        await self.pool.close()

    def terminate(self) -> None:
        self._connects.close()
        for connection in tuple(self._open):
            self.abort(connection)
        self._workers.stop()
        self._connects.tell(PoolClosed(f"the pool {self.pool.name!r} is closed"))
