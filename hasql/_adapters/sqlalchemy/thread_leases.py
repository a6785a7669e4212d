"""SQLAlchemy's connections leased by threads, each bound to the driver's connection beneath."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from sqlalchemy import Connection, event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.engine import ExceptionContext, ExecutionContext
    from sqlalchemy.pool import Pool, PoolProxiedConnection

__all__ = ("EngineThreadLease", "EngineThreadLeases")


class EngineThreadLease:
    """One connection that is leased."""

    __slots__ = ("end", "pool", "proxied", "raw", "used")

    def __init__(self, connection: Connection, pool: Pool | None) -> None:
        #: The pool's proxy for the driver's connection, and that connection.
        self.proxied: PoolProxiedConnection = connection.connection
        self.raw: Any = self.proxied.dbapi_connection
        #: The pool that it came from; None: the user has taken it from the engine directly.
        self.pool = pool
        #: Whether a statement has been begun.
        self.used = False
        #: A weak reference whose callback reports that the connection was dropped.
        self.end: object = None

    def is_intact(self) -> bool:
        """Tell whether it still has the driver's connection that it was leased with."""
        return self.raw is not None and self.proxied.dbapi_connection is self.raw


class EngineThreadLeases:
    """The leases of one engine.

    When the driver's connection is lost, SQLAlchemy would open another one with the next statement.
    But the host may be fenced by then, so a lease ends with the driver's connection that it began
    with.
    """

    def __init__(
        self, engine: Engine, report: Callable[[Connection, BaseException], object]
    ) -> None:
        self._report = report
        #: By the `id` of each connection, so that none is kept alive.
        self._leases: dict[int, EngineThreadLease] = {}
        self._engine = engine
        #: Called for each leased connection that is dropped; see `DriverPool.watch_drops`.
        self.dropped: Callable[[int, Callable[[], Connection]], bool] | None = None
        self._lost_error: type[Exception] = engine.dialect.loaded_dbapi.OperationalError
        #: The engine given to connections that were found lost: they would ask the real one for
        #: another connection of the driver's. All others keep the real one, because a thread may go
        #: on with another lease.
        self._engine_of_lost: Engine = engine.execution_options()
        self._engine_of_lost.raw_connection = self._refuse  # type: ignore[method-assign]  # its own
        # All of these are events of the dialect. With a single event of the engine itself,
        # SQLAlchemy would look for listeners at each step of each statement, which costs a tenth of
        # the time that a short statement takes.
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            event.listen(engine, name, self._before_statement)
        event.listen(engine, "handle_error", self._on_error)

    def _refuse(self) -> PoolProxiedConnection:
        raise self._loss()

    def _before_statement(self, *arguments: Any) -> None:
        execution: ExecutionContext = arguments[-1]
        lease = self._leases.get(id(execution.root_connection))
        if lease is None:
            return
        lease.used = True
        if not lease.is_intact():
            raise self._loss()

    def _loss(self) -> Exception:
        return self._lost_error("the connection was lost; acquire another one")

    def _on_error(self, context: ExceptionContext) -> None:
        # Keep the pool's other connections: each is checked before it is used, and all are aborted
        # if their host is down.
        context.invalidate_pool_on_disconnect = False
        connection = context.connection
        lease = None if connection is None else self._leases.get(id(connection))
        if connection is None or lease is None:
            return
        if not lease.is_intact():
            context.is_disconnect = True
        if context.is_disconnect:
            connection.engine = self._engine_of_lost
        self._report(connection, context.original_exception)

    def add(self, connection: Connection, pool: Pool) -> None:
        """Take in a connection that is leased from now on."""
        self._leases[id(connection)] = lease = EngineThreadLease(connection, pool)
        if self.dropped is not None:
            lease.end = ref(connection, partial(self._note_drop, id(connection), lease))

    def _note_drop(self, identity: int, lease: EngineThreadLease, _: object) -> None:
        if self.dropped is not None:
            self.dropped(identity, partial(self._revive, identity, lease))

    def _revive(self, identity: int, lease: EngineThreadLease) -> Connection:
        """Make a new connection object from the remains of one that was dropped."""
        connection = Connection(self._engine, lease.proxied)
        if self._leases.get(identity) is lease:
            del self._leases[identity]
        self._leases[id(connection)] = lease
        return connection

    def of(self, connection: Connection) -> EngineThreadLease | None:
        """Return the lease of a connection; None if hasql has not leased it."""
        return self._leases.get(id(connection))

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has been given back."""
        self._leases.pop(id(connection), None)
