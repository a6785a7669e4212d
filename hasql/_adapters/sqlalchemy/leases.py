"""The leased connections of SQLAlchemy, each bound to the driver's connection beneath it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from sqlalchemy import Connection, event, exc
from sqlalchemy.ext.asyncio import AsyncConnection

from hasql.driver.failure import SessionLimitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import ExceptionContext, ExecutionContext
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import Pool

__all__ = ("EngineLease", "EngineLeases", "raw_of")


def raw_of(connection: AsyncConnection) -> Any:
    """Return the driver's connection beneath a connection; None if it has none any more."""
    sync = connection.sync_connection
    if sync is None or sync.closed or sync.invalidated:
        return None  # the one that it had may be in another lease by now
    adapted: Any = sync.connection.dbapi_connection
    return adapted and adapted.driver_connection


class EngineLease:
    """One connection that is leased."""

    __slots__ = ("aborted", "adapted", "connection", "end", "last_task", "pool", "proxied", "raw")

    def __init__(self, connection: AsyncConnection, raw: Any, pool: Pool | None = None) -> None:
        #: A weak reference, so that only the application keeps it alive.
        self.connection = ref(connection)
        #: A weak reference whose callback reports that the connection was dropped.
        self.end: object = None
        #: The driver's connection, the pool's proxy for it, and SQLAlchemy's adapter between both.
        self.raw = raw
        self.proxied: Any = cast("Connection", connection.sync_connection).connection
        self.adapted: Any = self.proxied.dbapi_connection
        #: The pool that it came from; None: the user has taken it from the engine directly.
        self.pool = pool
        #: The task that has begun the last statement.
        self.last_task: asyncio.Task[Any] | None = None
        self.aborted = False

    def is_intact(self) -> bool:
        """Tell whether it still has the driver's connection that it was leased with.

        Comparing the result of `raw_of` would tell the same, at ten times the cost.
        """
        return self.adapted is not None and self.proxied.dbapi_connection is self.adapted

    def is_shared(self) -> bool:
        """Tell whether another task began the last statement, and may still wait for it."""
        task = self.last_task
        return task is not None and task is not asyncio.current_task() and not task.done()


class EngineLeases:
    """The leases of one engine.

    When the driver's connection is lost, SQLAlchemy would open another one. But the host may be
    fenced by then, so a lease ends with the driver's connection that it began with.
    """

    def __init__(
        self,
        asynchronous: AsyncEngine,
        report: Callable[[AsyncConnection, BaseException], None],
        ended_by_limit: Callable[[Any], bool],
    ) -> None:
        self._engine, engine = asynchronous, asynchronous.sync_engine
        self._report, self._ended_by_limit = report, ended_by_limit
        #: Called for each leased connection that is dropped; see `DriverPool.watch_drops`.
        self.dropped: Callable[[int, Callable[[], AsyncConnection]], bool] | None = None
        self._leases: dict[int, EngineLease] = {}
        # All of these are events of the dialect. With a single event of the engine itself,
        # SQLAlchemy would look for listeners at each step of each statement, which costs a tenth of
        # the time that a short statement takes.
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            event.listen(engine, name, self._before_statement)
        event.listen(engine, "handle_error", self._on_error)

    def _before_statement(self, *arguments: Any) -> None:
        execution: ExecutionContext = arguments[-1]
        lease = self._leases.get(id(execution.root_connection))
        if lease is None:
            return
        lease.last_task = asyncio.current_task()
        if not lease.is_intact():
            lost = ConnectionError("the connection was lost; acquire another one")
            raise exc.OperationalError(None, None, lost, connection_invalidated=True)

    def _on_error(self, context: ExceptionContext) -> None:
        # Keep the pool's other connections: each is checked before it is used, and all are aborted
        # if their host is down.
        context.invalidate_pool_on_disconnect = False
        lease = self._leases.get(id(context.connection))
        if lease is not None and (connection := lease.connection()) is not None:
            if self._ended_by_limit(lease.raw):
                self._report(connection, SessionLimitError())
            self._report(connection, context.original_exception)

    def add(self, connection: AsyncConnection, raw: Any, pool: Pool) -> None:
        """Take in a connection that is leased from now on."""
        lease = EngineLease(connection, raw, pool)
        self._leases[id(connection.sync_connection)] = lease
        if self.dropped is not None and connection.sync_connection is not None:
            # Results and transactions refer to the inner connection, so it is dropped last.
            end = partial(self._note_drop, id(connection), id(connection.sync_connection), lease)
            lease.end = ref(connection.sync_connection, end)

    def _note_drop(self, outer: int, inner: int, lease: EngineLease, _: object) -> None:
        if self.dropped is not None:
            self.dropped(outer, partial(self._revive, inner, lease))

    def _revive(self, inner: int, lease: EngineLease) -> AsyncConnection:
        """Make a new connection object from the remains of one that was dropped."""
        sync = Connection(self._engine.sync_engine, lease.proxied)
        connection = AsyncConnection(self._engine, sync)
        if self._leases.get(inner) is lease:
            del self._leases[inner]
        lease.connection = ref(connection)
        self._leases[id(sync)] = lease
        return connection

    def of(self, connection: AsyncConnection) -> EngineLease | None:
        """Return the lease of a connection; None if hasql has not leased it."""
        return self._leases.get(id(connection.sync_connection))

    def remove(self, connection: AsyncConnection) -> None:
        """Forget a connection that has been given back."""
        self._leases.pop(id(connection.sync_connection), None)

    def note_abort(self, connection: AsyncConnection, raw: Any) -> None:
        """Take note that a connection was aborted, even one taken from the engine directly."""
        lease = EngineLease(connection, raw)
        self._leases.setdefault(id(connection.sync_connection), lease).aborted = True

    def detach(self) -> None:
        """Detach all from the pool, so that SQLAlchemy does not warn when they are collected."""
        for lease in self._leases.values():
            connection = lease.connection()
            if connection and raw_of(connection) is not None and connection.sync_connection:
                connection.sync_connection.connection.detach()
