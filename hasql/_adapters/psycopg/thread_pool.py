"""A pool of psycopg 3 for threads, with all that the core needs of one."""

from __future__ import annotations

import asyncio
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg import Connection, generators
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from hasql._adapters.psycopg.server import in_hot_standby
from hasql._adapters.psycopg.thread_connections import ThreadConnections
from hasql._adapters.psycopg.thread_connects import ThreadConnects
from hasql._adapters.psycopg.thread_slots import HeldPool
from hasql.driver import ThreadPool
from hasql.driver.deadline import OutOfTimeError
from hasql.driver.holder import ReusesObjects
from hasql.driver.threads import in_thread, wait_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hasql._adapters.psycopg.thread_connection import ThreadConnection
    from hasql.driver import Endpoint, PoolSizes
    from hasql.driver.patience import Patience

__all__ = ("PsycopgThreadPool", "SyncConnection", "SyncPool")

SyncConnection: TypeAlias = Connection[TupleRow]
SyncPool: TypeAlias = ConnectionPool[SyncConnection]
_Pooled: TypeAlias = Any  # of the class of `ThreadConnections`, which the core knows as its own

_BAD, _IDLE = ConnStatus.BAD, TransactionStatus.IDLE
#: Seconds within which a thread finds the connection in the pool that it has a claim on.
_AT_ONCE = 0.05
#: Seconds that the pool's own threads have to end.
_LAST_WORDS = 5.0


class LostConnectionError(BaseException):
    """Has psycopg's pool return without the connection that it took, as that was lost.

    It is no Exception: after one the pool would pause.
    """


class PsycopgThreadPool(ReusesObjects, ThreadPool[SyncPool, SyncConnection]):
    """One psycopg pool, and all connections it has opened."""

    in_hot_standby = staticmethod(in_hot_standby)

    def __init__(self, endpoint: Endpoint, kwargs: Mapping[str, Any], sizes: PoolSizes) -> None:
        self.sizes = sizes
        self._check, self._reset = kwargs.get("check"), kwargs.get("reset")
        #: What threads have taken out of psycopg's pool, and not returned yet.
        self._taken: dict[int, ThreadConnection] = {}
        self._opened = ThreadConnections(endpoint, kwargs)
        self._idle = self._opened.idle
        self.destinations = self._opened.destinations
        self._connects = ThreadConnects(self._opened, kwargs.get("num_workers", 3))
        self.end_connects: Any = self._connects.end
        self.host_answers: Any = self._connects.host_answers
        ours: dict[str, Any] = {
            "check": self._check_one,
            "configure": None,
            "connection_class": self._opened.connection_class,
            "kwargs": None,
            "max_size": sizes.maximum,
            "min_size": sizes.minimum,
            "on_missing": self._connects.fill_unless_failing,
            "open": False,
            "reset": None,  # which the pool would leave to a worker
        }
        self._held = HeldPool(endpoint.dsn, **{**kwargs, **ours})
        self._connects.pool = self._held
        self.pool: SyncPool = self._held

    async def open(self) -> PsycopgThreadPool:
        try:
            self.pool.open()
            await asyncio.wrap_future(self._connects.fill())
        except BaseException:
            self.terminate()
            raise
        return self

    @property
    def size(self) -> int:
        return len(self._opened)

    def idle(self) -> int:
        return len(self._idle)

    def acquire(self, patience: Patience, **kwargs: Any) -> SyncConnection:
        if self._check is None:
            return self._acquire(patience, kwargs)
        # A check may wait for a silent server, or for anything.
        acquire = partial(self._acquire, patience, kwargs)
        return wait_in_thread(patience, acquire, "hasql check", self.release)

    def _acquire(self, patience: Patience, kwargs: dict[str, Any]) -> _Pooled:
        thread = get_ident()
        try:
            while True:
                if not self._idle.claim():
                    self._connects.wait(patience)
                try:
                    connection: _Pooled = self.pool.getconn(timeout=_AT_ONCE, **kwargs)
                except (LostConnectionError, PoolTimeout):
                    if not patience.seconds:
                        raise OutOfTimeError from None
                else:
                    del self._taken[thread]
                    break
        except BaseException:
            self._abandon(thread)
            raise
        if connection.held_before is not None:
            connection.hold()
        return connection

    def _abandon(self, thread: int) -> None:
        """Leave nothing behind of an acquire that was interrupted."""
        with self._idle.lock:
            self._idle.give_up_claim()
        connection = self._taken.pop(thread, None)
        if connection is not None:
            self.abort(connection)
            self.release(connection)

    def _check_one(self, connection: ThreadConnection) -> None:
        self._idle.taken(connection)
        if not connection.is_alive():
            connection.close()
            raise LostConnectionError
        if self._check is not None:
            self._check(connection)
        self._taken[get_ident()] = connection

    def leave_block(self, connection: _Pooled, error: BaseException | None) -> None:
        if connection.pgconn.transaction_status != _IDLE:
            connection.__exit__(type(error) if error else None, error, None)

    def release(self, connection: _Pooled, **kwargs: Any) -> None:
        if kwargs:
            raise TypeError(f"psycopg's pool takes no {', '.join(kwargs)} when given a connection")
        try:
            if connection.lost or connection.pgconn.transaction_status != _IDLE:
                connection.roll_back_or_close()
            if self._reset is not None and not connection.lost:
                self._reset(connection)
                connection.check_idle("reset")
        except BaseException:
            connection.close()
            raise
        finally:
            self._connects.put_in(connection)

    def count_rows(self, connection: _Pooled, sql: str) -> int:
        # psycopg's cursors would begin a transaction and leave it open.
        with connection.lock:
            connection.pgconn.send_query(sql.encode())
            (result,) = connection.wait(generators.execute(connection.pgconn))
        if result.status != ExecStatus.TUPLES_OK:
            raise error_from_result(result)
        count: int = result.ntuples
        return count

    def is_closed(self, connection: _Pooled) -> bool:
        return bool(connection.lost or connection.pgconn.status == _BAD)

    def abort(self, connection: _Pooled) -> None:
        connection.abort()  # first, so that nobody takes it for idle after that
        self._opened.forget(connection)

    def purge(self, leased: Iterable[_Pooled]) -> None:
        self._connects.end(failing=True)
        self._abort_but(leased, lambda _: True)

    def drain(self, leased: Iterable[_Pooled], has_left: Callable[[str | None], bool]) -> None:
        self._connects.end()
        self._abort_but(leased, has_left)

    def _abort_but(self, leased: Iterable[_Pooled], has_left: Callable[[str | None], bool]) -> None:
        kept = {id(connection) for connection in leased}
        for connection in self._opened.all():
            if id(connection) not in kept and has_left(self.destinations.address_of(connection)):
                self.abort(connection)

    async def close(self) -> None:
        self._connects.close()
        await asyncio.wrap_future(self._close_pool())

    def terminate(self) -> None:
        self._connects.close()
        for connection in self._opened.all():
            self.abort(connection)
        self._close_pool()

    def _close_pool(self) -> Any:
        return in_thread(partial(self.pool.close, _LAST_WORDS), "hasql close")
