"""A psycopg 3 pool for threads, with everything that the core needs of a pool."""

# long: it is one class, with what the core asks of a pool and nothing else.

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg import Connection
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from hasql._adapters.psycopg.drops import DropReportMixin
from hasql._adapters.psycopg.server import count_rows_in_thread, in_hot_standby, is_read_only
from hasql._adapters.psycopg.thread_connections import ThreadConnections
from hasql._adapters.psycopg.thread_connects import ThreadConnects
from hasql._adapters.psycopg.thread_missing import MissingConnectionReplacer, MissingConnections
from hasql._adapters.psycopg.thread_refill import ThreadRefill
from hasql._adapters.psycopg.thread_slots import HeldPool, LostConnectionError
from hasql._adapters.psycopg.transactions import PsycopgThreadTransaction
from hasql.driver import ThreadPool
from hasql.driver.arguments import refuse_all
from hasql.driver.deadline import OutOfTimeError
from hasql.driver.threads import end_in_thread, wait_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hasql.driver import Endpoint, PoolSizes
    from hasql.driver.time_left import TimeLeft

__all__ = ("PsycopgThreadPool", "SyncConnection", "SyncPool")

SyncConnection: TypeAlias = Connection[TupleRow]
SyncPool: TypeAlias = ConnectionPool[SyncConnection]
_Pooled: TypeAlias = Any  # the class comes from `ThreadConnections`

#: As int, like libpq's own: comparing those with members of an enum takes twice as long.
_BAD, _IDLE = int(ConnStatus.BAD), int(TransactionStatus.IDLE)
#: Seconds within which a thread takes the connection that it has a claim on out of the pool.
_AT_ONCE = 0.05


class PsycopgThreadPool(DropReportMixin, ThreadPool[SyncPool, SyncConnection]):
    """One psycopg pool, and all connections that it has opened."""

    count_rows: Any = staticmethod(count_rows_in_thread)
    in_hot_standby, is_read_only = staticmethod(in_hot_standby), staticmethod(is_read_only)
    transaction: Any = PsycopgThreadTransaction

    def __init__(self, endpoint: Endpoint, kwargs: Mapping[str, Any], sizes: PoolSizes) -> None:
        self.sizes = sizes
        self._check = kwargs.get("check")
        self._opened = ThreadConnections(endpoint, kwargs)
        self._idle, self.destinations = self._opened.idle, self._opened.destinations
        self._reset = self._opened.resetting(kwargs.get("reset"))
        self._connects = ThreadConnects(self._opened)
        self._refill = ThreadRefill(self._opened, self._connects, kwargs.get("num_workers", 3))
        self.end_connects: Any = self._connects.end
        self.host_answers: Any = self._refill.host_answers
        ours: dict[str, Any] = {
            **dict.fromkeys(("configure", "kwargs", "reset")),  # the adapter does these itself
            "check": self._check_one,
            "connection_class": self._opened.connection_class,
            "has_claim": self._idle.has_claim,
            "max_size": sizes.maximum,
            "min_size": sizes.minimum,
            "on_missing": self._refill.connection_is_missing,
            "num_workers": 1,  # there is little for workers to do
            "open": False,
        }
        self._held = HeldPool(endpoint.dsn, **{**kwargs, **ours})
        self._replacer = MissingConnectionReplacer(
            self._idle, self._held, replaces=self._check is None
        )
        self.pool: SyncPool = self._held
        self._connects.pool = self._held

    async def open(self) -> PsycopgThreadPool:
        self.pool.open()
        try:
            await asyncio.wrap_future(self._refill.fill())
        except BaseException:
            self.terminate()
            raise
        return self

    @property
    def size(self) -> int:
        return len(self._opened)

    def idle(self) -> int:
        return len(self._idle)

    def acquire(self, time_left: TimeLeft, **kwargs: Any) -> SyncConnection:
        if kwargs:
            refuse_all(kwargs, "getconn()")
        if self._check is None:
            connection: SyncConnection = self._acquire(time_left)
            return connection
        # The application's check may wait for a silent server, or for anything else.
        acquire = partial(self._acquire, time_left)
        return wait_in_thread(time_left, acquire, "hasql check", self.release)

    def _acquire(self, time_left: TimeLeft) -> _Pooled:
        thread = get_ident()
        connection: _Pooled = None
        missed: MissingConnections | None = None
        try:
            while connection is None:
                if self._idle.claim(thread) or self._connects.wait(time_left):
                    try:
                        connection = self.pool.getconn(_AT_ONCE)
                    except (LostConnectionError, PoolTimeout):  # or this thread was held up
                        if not time_left.seconds:
                            raise OutOfTimeError from None
                    except TooManyRequests:  # another thread has taken it, or the pool has lost it
                        missed = self._replacer.wait(missed, time_left)
            self._idle.fulfil_claim(connection, thread)
        except BaseException:
            self._abandon(thread)
            raise
        return connection

    def _abandon(self, thread: int) -> None:
        """Clean up after an acquire that failed or was interrupted."""
        connection = self._idle.give_up_claim(thread)
        if connection is not None:
            self.abort(connection)
            self.release(connection)

    def _check_one(self, connection: _Pooled) -> None:
        thread = get_ident()
        if not (connection.was_just_alive() or connection.is_alive()):
            connection.close()
            self._held.found_lost(for_us=self._idle.has_claim(thread))
        if self._check is not None:
            connection.check_by(self._check)
        # Last: if this is interrupted, psycopg takes the connection back.
        self._idle.note_taken(connection, thread)

    def leave_block(self, connection: _Pooled, error: BaseException | None) -> None:
        if connection.pgconn.transaction_status != _IDLE:
            connection.__exit__(type(error) if error else None, error, None)

    def roll_back(self, connection: _Pooled) -> None:
        if connection.lost or connection.pgconn.transaction_status != _IDLE:
            connection.roll_back_or_close()

    def release(self, connection: _Pooled, **kwargs: Any) -> None:
        if not connection.taken:
            return  # it was already given back
        try:
            if kwargs:
                refuse_all(kwargs, "putconn()")
            self.roll_back(connection)
            if self._reset is not None and not connection.lost:
                self._reset(connection)
                connection.check_idle("reset")
        except BaseException:
            connection.close()
            raise
        finally:
            if connection.is_closing:  # not closed yet: psycopg's pool would lend it again
                end_in_thread(partial(self._give_back_last, connection), "hasql close")
            else:
                self._connects.give_back(connection)

    def _give_back_last(self, connection: _Pooled) -> None:
        connection.close_last()
        self._connects.give_back(connection)

    def is_closed(self, connection: _Pooled) -> bool:
        return bool(connection.lost or connection.pgconn.status == _BAD)

    def abort(self, connection: _Pooled) -> None:
        connection.abort()  # first: a thread that gives it back must find it lost
        self._opened.forget(connection)

    def purge(self, leased: Iterable[_Pooled]) -> None:
        self._connects.failing = True  # the pool is refilled when the host answers
        self.drain(leased, lambda _: True)

    def drain(self, leased: Iterable[_Pooled], has_left: Callable[[str | None], bool]) -> None:
        self._connects.end()
        kept = {id(connection) for connection in leased}
        for connection in self._opened.all():
            if id(connection) not in kept and has_left(self._address_of(connection)):
                self.abort(connection)
        end_in_thread(self._sweep, "hasql sweep")

    def _sweep(self) -> None:
        """Make the pool discard the connections that were aborted, which closes the sockets."""
        for _ in range(self.pool.get_stats()["pool_available"]):
            with suppress(PoolTimeout):
                if (connection := self._held.take(_AT_ONCE)) is not None:
                    self._connects.give_back(connection)

    async def keep(self, sizes: PoolSizes) -> None:
        self.sizes = sizes
        room = sizes.maximum - self.pool.get_stats().get("pool_size", 0)
        if room >= sizes.minimum:  # otherwise psycopg's pool would open too many
            self.pool.resize(sizes.minimum, sizes.maximum)

    async def close(self) -> None:
        self._connects.close()
        await asyncio.wrap_future(self._held.close_in_thread())

    def terminate(self) -> None:
        self._connects.close()
        for connection in self._opened.all():
            self.abort(connection)
        self._held.close_in_thread()
