"""SQLAlchemy's connections that are lent, each bound to the one of the driver it was lent with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, exc

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.engine import ExceptionContext, ExecutionContext
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.pool import Pool

__all__ = ("Loans", "raw_of")


def raw_of(connection: AsyncConnection) -> Any:
    """Return the driver's connection that is held now, None if there is none any more."""
    sync = connection.sync_connection
    if sync is None or sync.closed or sync.invalidated:
        return None  # what it held may be lent to somebody else
    adapted: Any = sync.connection.dbapi_connection
    return adapted and adapted.driver_connection


class _Loan:
    __slots__ = ("aborted", "connection", "pool", "raw", "user")

    def __init__(self, connection: AsyncConnection, raw: Any, pool: Pool | None = None) -> None:
        self.connection = connection
        self.raw = raw
        #: Where it came from; None: it was taken from the engine itself.
        self.pool = pool
        #: Who has begun the last statement.
        self.user: asyncio.Task[Any] | None = None
        self.aborted = False


class Loans:
    """What one engine has lent.

    SQLAlchemy opens another connection of the driver's when the first is lost, but the host may be
    fenced by then: a lease ends with the one it began with.
    """

    def __init__(
        self, engine: Engine, report: Callable[[AsyncConnection, BaseException], None]
    ) -> None:
        self._report = report
        self._loans: dict[int, _Loan] = {}
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
        if raw_of(loan.connection) is not loan.raw:
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
        self._loans[id(connection.sync_connection)] = _Loan(connection, raw, pool)

    def raw_lent(self, connection: AsyncConnection) -> Any:
        """Return the driver's connection that was lent, whatever has become of it since."""
        loan = self._loans.get(id(connection.sync_connection))
        return raw_of(connection) if loan is None else loan.raw

    def outlived(self, connection: AsyncConnection, pool: Pool) -> bool:
        """Tell whether a connection would go back to another pool than the engine's present one."""
        loan = self._loans.get(id(connection.sync_connection))
        return loan is not None and loan.pool is not None and loan.pool is not pool

    def is_shared(self, connection: AsyncConnection) -> bool:
        """Tell whether another task has begun the last statement, and may still wait for it."""
        loan = self._loans.get(id(connection.sync_connection))
        user = None if loan is None else loan.user
        return user is not None and user is not asyncio.current_task() and not user.done()

    def strike(self, connection: AsyncConnection) -> None:
        """Strike out a connection that is back."""
        self._loans.pop(id(connection.sync_connection), None)

    def abort(self, connection: AsyncConnection, raw: Any) -> None:
        """Take note that a connection was broken; it may have been taken from the engine itself."""
        loan = _Loan(connection, raw)
        self._loans.setdefault(id(connection.sync_connection), loan).aborted = True

    def has_ended(self, connection: AsyncConnection, raw: Any) -> bool:
        """Tell whether a connection was aborted, or holds another of the driver's than it did."""
        loan = self._loans.get(id(connection.sync_connection))
        return loan is not None and (loan.aborted or loan.raw is not raw)

    def detach(self) -> None:
        """Let the garbage collector not complain of what is never given back."""
        for loan in self._loans.values():
            if raw_of(loan.connection) is not None and loan.connection.sync_connection:
                loan.connection.sync_connection.connection.detach()
