"""The transaction around a unit of work over psycopg2, which begins with the first statement."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

from hasql.driver.transactions import ThreadTransaction, TransactionState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hasql.driver.transactions import TransactionModes

__all__ = (
    "AS_TEXT",
    "STATES",
    "Psycopg2Transaction",
    "fetch_row",
    "plain_cursor",
    "state_of",
    "within_units",
)

STATES = {
    extensions.TRANSACTION_STATUS_IDLE: TransactionState.ENDED,
    extensions.TRANSACTION_STATUS_ACTIVE: TransactionState.BUSY,
    extensions.TRANSACTION_STATUS_INTRANS: TransactionState.OPEN,
    extensions.TRANSACTION_STATUS_INERROR: TransactionState.FAILED,
    # The connection is lost, so that COMMIT will fail.
    extensions.TRANSACTION_STATUS_UNKNOWN: TransactionState.OPEN,
}
_BEGUN = extensions.STATUS_BEGIN


def _unchanged(value: str | bytes | None, cursor: object) -> str | bytes | None:
    del cursor
    return value


AS_TEXT = extensions.new_type((16, 20, 23, 25, 701, 1700), "HASQL_TEXT", _unchanged)
"""Leaves values of the types that hasql asks for as text.

They are boolean, bigint, integer, text, float and numeric.
"""


def plain_cursor(raw: Any) -> Any:
    """Make a cursor of psycopg2's own, whatever the application's class makes."""
    if isinstance(type(raw), type) and issubclass(type(raw), extensions.connection):
        return extensions.connection.cursor(raw, cursor_factory=extensions.cursor)
    return raw.cursor(cursor_factory=extensions.cursor)  # a tracer's proxy


def fetch_row(raw: Any, sql: str) -> Sequence[str | None]:
    """Run a query in the transaction that is open; see `Session.fetch_row`."""
    with plain_cursor(raw) as cursor:
        extensions.register_type(AS_TEXT, cursor)
        cursor.execute(sql)
        return tuple(cursor.fetchone() or ())


def state_of(raw: Any) -> TransactionState:
    """Return the state of a transaction that psycopg2 has begun, or would begin."""
    if raw.closed:
        return TransactionState.OPEN  # as above
    state = STATES[raw.get_transaction_status()]
    never_begun = state is TransactionState.ENDED and raw.status != _BEGUN
    return TransactionState.NOT_BEGUN if never_begun else state


class _TransactionGuardMixin:
    """Mixed into a connection: the work within a unit of work must not end its transaction.

    psycopg2 would begin another transaction with the next statement, and that could not be told
    from the first.
    """

    #: Whether a unit of work uses the connection.
    in_unit = False

    def commit(self) -> None:
        """Commit as psycopg2 does; raise ProgrammingError within a unit of work."""
        self._refuse_in_unit("commit")
        super().commit()  # type: ignore[misc]  # psycopg2's class comes after this one

    def rollback(self) -> None:
        """Roll back as psycopg2 does; raise ProgrammingError within a unit of work."""
        self._refuse_in_unit("rollback")
        super().rollback()  # type: ignore[misc]  # as above

    def _refuse_in_unit(self, what: str) -> None:
        if self.in_unit:
            msg = (
                f"{what}() must not be called by the work of a run, which commits when the work "
                "returns; raise an exception to roll it back"
            )
            raise psycopg2.ProgrammingError(msg)


@cache
def within_units(factory: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return what makes a pool's connections: a derived class, or the application's function."""
    made = extensions.connection if factory is None else factory
    if not isinstance(made, type):
        return made  # a function of the application's; the class that it returns is not known
    return type(made.__name__, (_TransactionGuardMixin, made), {})


class Psycopg2Transaction(ThreadTransaction):
    """The transaction of a thread."""

    def __init__(self, connection: Any, modes: TransactionModes) -> None:
        self._connection = connection
        self._modes = modes
        self._before = connection.isolation_level, connection.readonly, connection.autocommit

    def begin(self) -> None:
        connection, modes = self._connection, self._modes
        if self._before[2]:
            connection.autocommit = False
        if modes.isolation:
            connection.isolation_level = modes.isolation.upper()
        if modes.read_only:
            connection.readonly = True
        connection.in_unit = True

    @property
    def state(self) -> TransactionState:
        return state_of(self._connection)

    def fetch_row(self, sql: str) -> Sequence[str | None]:
        return fetch_row(self._connection, sql)

    def commit(self) -> bool:
        self._connection.in_unit = False
        self._connection.commit()
        self._restore()
        return True  # `commit` is not called for a transaction that has failed or was ended within

    def roll_back(self) -> None:
        connection = self._connection
        connection.in_unit = False
        if connection.status == _BEGUN:
            connection.rollback()
        self._restore()

    def _restore(self) -> None:
        connection, (level, read_only, autocommit) = self._connection, self._before
        if connection.closed:
            return
        if self._modes.isolation:
            connection.isolation_level = level
        if self._modes.read_only:
            connection.readonly = read_only
        if autocommit:
            connection.autocommit = True
