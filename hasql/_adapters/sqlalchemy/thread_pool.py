"""An engine of SQLAlchemy for threads, with everything that the core needs of a driver's pool."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, Engine, create_engine

from hasql._adapters.session_setup import WithSettings
from hasql._adapters.sqlalchemy.thread_acquires import QueueAcquires
from hasql._adapters.sqlalchemy.thread_leases import EngineThreadLease, EngineThreadLeases
from hasql._adapters.sqlalchemy.thread_login import LoginArguments
from hasql._adapters.sqlalchemy.thread_request import Taking
from hasql._adapters.sqlalchemy.transactions import EngineThreadTransaction
from hasql.driver import ThreadPool
from hasql.driver.arguments import refuse_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy.pool import QueuePool

    from hasql._adapters.sqlalchemy.engine_driver import EngineConfig
    from hasql._adapters.sqlalchemy.thread_library import EngineThreadLibrary
    from hasql.driver import PoolSizes
    from hasql.driver.address_race import ThreadedConnect
    from hasql.driver.time_left import TimeLeft
    from hasql.driver.transactions import TransactionModes

__all__ = ("EngineThreadPool",)


class EngineThreadPool(ThreadPool[Engine, Connection]):
    """One engine, the connections that it has opened, and its leases."""

    def __init__(
        self,
        config: EngineConfig,
        sizes: PoolSizes,
        library: EngineThreadLibrary,
        report: Callable[[Connection, BaseException], None],
    ) -> None:
        self.sizes = sizes
        self._library = library
        self._acquires = QueueAcquires(library, self._queue, self._connect, sizes.maximum)
        self._connections = self._acquires.connections
        self.destinations = self._connections.destinations
        self.pool = create_engine(config.url, creator=self._acquires.create, **config.kwargs)
        self._acquires.watch(self.pool)
        self._endpoint = config.endpoint
        self._login = LoginArguments(self.pool.dialect, config.url, config.connect_args)
        self._acquires.watch_pings(self.pool.dialect)
        loop = asyncio.get_running_loop()
        self._leases = EngineThreadLeases(self.pool, partial(_report_in, loop, report))
        self._taking: Taking[Connection] = Taking(self.pool.connect, _raw_of, _drop)
        self.idle: Any = self._acquires.idle
        self.end_connects: Any = self._acquires.end_connects
        self.terminate: Any = self._acquires.terminate

    def _queue(self) -> QueuePool:
        return cast("QueuePool", self.pool.pool)  # the one that hasql allows

    def _connect(self, connect: ThreadedConnect) -> WithSettings[tuple[Any, str | None]]:
        raw, arguments = self._login.ask()
        if raw is not None:  # a listener has connected by itself
            return WithSettings((self._library.adopt(raw), None))
        return self._library.connect(self._endpoint, arguments, connect)

    @property
    def size(self) -> int:
        return len(self._connections)

    def acquire(self, time_left: TimeLeft, **kwargs: Any) -> Connection:
        refuse_all(kwargs, "SQLAlchemy's Engine.connect")
        pool = self.pool.pool
        connection = self._acquires.acquire(time_left, self._taking)
        try:
            self._leases.add(connection, pool)
        except BaseException:  # an interrupt
            self.release(connection)
            raise
        return connection

    def release(self, connection: Connection, **kwargs: Any) -> None:
        lease = self._lease_of(connection)
        raw = self._raw(connection)
        try:
            if kwargs or lease is None or self._is_of_no_use(lease):
                self._discard(connection, raw)
            else:
                self._give_back(connection, raw)
            refuse_all(kwargs, "SQLAlchemy's Connection.close")
        finally:
            self._leases.remove(connection)
            self._acquires.note_idle(raw)

    def _is_of_no_use(self, lease: EngineThreadLease) -> bool:
        return (
            not lease.is_intact()
            or self._connections.is_closed(lease.raw)
            # The application has disposed of the pool, so the connection would never be used again.
            or (lease.pool is not None and lease.pool is not self.pool.pool)
        )

    def _give_back(self, connection: Connection, raw: Any) -> None:
        try:
            if not self._library.is_clean(raw):
                # SQLAlchemy does not know of a transaction that was begun by hand. And if its own
                # rollback failed, the pool would only log the error, and go on.
                self._library.roll_back(raw)
            connection.close()
        except BaseException:
            self._discard(connection, raw)
            raise

    def _discard(self, connection: Connection, raw: Any) -> None:
        """Close a connection for good, without a word to the server."""
        self._connections.abort(raw)
        _drop(connection)

    def _lease_of(self, connection: Connection) -> EngineThreadLease | None:
        lease = self._leases.of(connection)
        if lease is None and _raw_of(connection) is not None:
            return EngineThreadLease(connection, None)  # taken from the engine directly
        return lease

    def key(self, connection: Connection) -> Any:
        return None if self.is_closed(connection) else self._raw(connection)

    def _raw(self, connection: Connection) -> Any:
        # If the application has closed this one, its raw connection may be in another lease.
        lease = self._lease_of(connection)
        return lease.raw if lease is not None and lease.is_intact() else None

    def watch_drops(self, dropped: Callable[[int, Callable[[], Connection]], bool]) -> bool:
        self._leases.dropped = dropped
        return True

    def in_hot_standby(self, connection: Connection) -> bool | None:
        return self._connections.in_hot_standby(self._raw(connection))

    def is_closed(self, connection: Connection) -> bool:
        lease = self._lease_of(connection)
        return lease is None or not lease.is_intact() or self._connections.is_closed(lease.raw)

    def transaction(
        self, connection: Connection, modes: TransactionModes
    ) -> EngineThreadTransaction:
        lease = self._leases.of(connection) or EngineThreadLease(connection, None)
        return EngineThreadTransaction(connection, lease, self._library, modes)

    def count_rows(self, connection: Connection, sql: str) -> int:
        return self._library.count_rows(self._raw(connection), sql)

    def roll_back(self, connection: Connection) -> None:
        connection.rollback()
        if not self._library.is_clean(raw := self._raw(connection)):
            self._library.roll_back(raw)

    def is_read_only(self, connection: Connection) -> bool:
        return self._library.is_read_only(self._raw(connection))

    def abort(self, connection: Connection) -> None:
        self._connections.abort(self._raw(connection))

    def purge(self, leased: Iterable[Connection]) -> None:
        self._acquires.purge(set(map(self._raw, leased)))

    def drain(self, leased: Iterable[Connection], has_left: Callable[[str | None], bool]) -> None:
        self._acquires.drain(set(map(self._raw, leased)), has_left)

    async def close(self) -> None:
        self._acquires.close()


def _report_in(
    loop: asyncio.AbstractEventLoop,
    report: Callable[[Connection, BaseException], None],
    connection: Connection,
    error: BaseException,
) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(report, connection, error)


def _raw_of(connection: Connection) -> Any:
    """Return the driver's connection beneath a connection; None if it has none any more."""
    if connection.closed or connection.invalidated:
        return None  # the one that it had may be in another lease by now
    return connection.connection.dbapi_connection


def _drop(connection: Connection) -> None:
    if not connection.closed:
        connection.invalidate()
    connection.close()
