"""SQLAlchemy's connections that are lent, each bound to the one of the driver it was lent with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import event, exc

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import ExceptionContext, ExecutionContext
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.pool import Pool

__all__ = ("Loan", "Loans", "raw_of")


def raw_of(connection: AsyncConnection) -> Any:
    """Return the driver's connection that is held now, None if there is none any more."""
    sync = connection.sync_connection
    if sync is None or sync.closed or sync.invalidated:
        return None  # what it held may be lent to somebody else
    adapted: Any = sync.connection.dbapi_connection
    return adapted and adapted.driver_connection


class Loan:
    """One connection that is lent."""

    __slots__ = ("aborted", "adapted", "connection", "pool", "proxied", "raw", "user")

    def __init__(self, connection: AsyncConnection, raw: Any, pool: Pool | None = None) -> None:
        self.connection = connection
        #: The driver's connection, what SQLAlchemy adapts it with, and what holds that for it.
        self.raw = raw
        self.proxied: Any = cast("Connection", connection.sync_connection).connection
        self.adapted: Any = self.proxied.dbapi_connection
        #: Where it came from; None: it was taken from the engine itself.
        self.pool = pool
        #: Who has begun the last statement.
        self.user: asyncio.Task[Any] | None = None
        self.aborted = False

    def holds(self) -> bool:
        """Tell whether it still has the connection it was lent with.

        The same as to compare `raw_of`, at a tenth of the cost.
        """
        return self.adapted is not None and self.proxied.dbapi_connection is self.adapted

    def is_shared(self) -> bool:
        """Tell whether another task has begun the last statement, and may still wait for it."""
        user = self.user
        return user is not None and user is not asyncio.current_task() and not user.done()


class Loans:
    """What one engine has lent.

    SQLAlchemy opens another connection of the driver's when the first is lost, but the host may be
    fenced by then: a lease ends with the one it began with.
    """

    def __init__(
        self, engine: Engine, report: Callable[[AsyncConnection, BaseException], None]
    ) -> None:
        self._report = report
        self._loans: dict[int, Loan] = {}
        # All of them events of the dialect. The first one of the engine's own would have SQLAlchemy
        # look for listeners at each step of each statement, a tenth of what a short one takes.
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            event.listen(engine, name, self._executes)
        event.listen(engine, "handle_error", self._failed)

    def _executes(self, *arguments: Any) -> None:
        execution: ExecutionContext = arguments[-1]
        loan = self._loans.get(id(execution.root_connection))
        if loan is None:
            return
        loan.user = asyncio.current_task()
        if not loan.holds():
            lost = ConnectionError("the connection was lost; acquire another one")
            raise exc.OperationalError(None, None, lost, connection_invalidated=True)

    def _failed(self, context: ExceptionContext) -> None:
        # The others are looked at before they are used, and are broken when their host is down.
        context.invalidate_pool_on_disconnect = False
        loan = self._loans.get(id(context.connection))
        if loan is not None:
            self._report(loan.connection, context.original_exception)

    def enter(self, connection: AsyncConnection, raw: Any, pool: Pool) -> None:
        """Enter a connection that is lent from now on."""
        self._loans[id(connection.sync_connection)] = Loan(connection, raw, pool)

    def of(self, connection: AsyncConnection) -> Loan | None:
        """Return what is known of a connection; None if it was not lent by hasql."""
        return self._loans.get(id(connection.sync_connection))

    def strike(self, connection: AsyncConnection) -> None:
        """Strike out a connection that is back."""
        self._loans.pop(id(connection.sync_connection), None)

    def abort(self, connection: AsyncConnection, raw: Any) -> None:
        """Take note that a connection was broken; it may have been taken from the engine itself."""
        loan = Loan(connection, raw)
        self._loans.setdefault(id(connection.sync_connection), loan).aborted = True

    def detach(self) -> None:
        """Let the garbage collector not complain of what is never given back."""
        for loan in self._loans.values():
            if raw_of(loan.connection) is not None and loan.connection.sync_connection:
                loan.connection.sync_connection.connection.detach()
