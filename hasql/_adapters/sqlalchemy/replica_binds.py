"""What a session that routes itself is given, where SQLAlchemy expects it to keep what it has."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from hasql.errors import HasqlError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Transaction

__all__ = ("LeasedTransaction", "Leases", "RunTransaction", "SameEngine", "SessionLeases", "lend")


class LeasedTransaction:
    """The transaction of a leased connection, as a session has it.

    It may have ended before the session ends it: the connection was given back, and is no longer
    the session's to use.
    """

    def __init__(self, begun: Transaction, is_leased: Callable[[], bool]) -> None:
        self._begun = begun
        self._is_leased = is_leased

    @property
    def is_active(self) -> bool:
        return self._is_leased() and self._begun.is_active

    def commit(self) -> None:
        self._begun.commit()

    def rollback(self) -> None:
        if self.is_active:
            self._begun.rollback()

    close = rollback


class ReadTransaction(LeasedTransaction):
    """That of a replica's connection, which has nothing to commit."""

    def commit(self) -> None:
        if self.is_active:
            self._begun.commit()


class RunTransaction(LeasedTransaction):
    """The transaction of a unit of work, as its session has it: it is for `run` to commit."""

    def commit(self) -> None:
        if self.is_active:
            raise HasqlError(
                "the work has committed its session by itself; leave the commit to run, and raise "
                "an exception to have all rolled back"
            )


def lend(connection: Connection, wrap: Callable[[Transaction], LeasedTransaction]) -> None:
    """Have the session that gets a connection next hold its transaction in something of ours.

    Args:
        connection: May have begun a transaction.
        wrap: Makes what the session holds.
    """
    own = vars(connection)  # methods of this one, as long as the session has not begun

    def begin() -> Any:
        for name in ("begin", "in_transaction"):
            own.pop(name, None)
        return wrap(connection.get_transaction() or connection.begin())

    own.update(begin=begin, in_transaction=lambda: False)


class SameEngine:
    """A connection of an engine that a session has had a connection of in the same transaction.

    It accepts another one if that is a new one of the engine's.
    """

    def __init__(self, connection: Connection, on_use: Callable[[Connection], None]) -> None:
        self._connection = connection
        self._on_use = on_use

    def connect(self) -> Connection:
        """Return the connection, as an engine does."""
        self._on_use(self._connection)
        return self._connection


class Leases(Protocol):
    """Acquires connections, and gives them back; each face has its own."""

    def acquire(self, lease: Any) -> Connection:
        """Take the connection of a lease."""

    def give_back(self, lease: Any) -> None:
        """Give it back."""

    def lend(self, connection: Connection, is_leased: Callable[[], bool], *, replica: bool) -> None:
        """Prepare a connection for the session, which may end its transaction after its lease."""


class SessionLeases:
    """What is the same for a session that ends its transactions itself, of either face."""

    def lend(self, connection: Connection, is_leased: Callable[[], bool], *, replica: bool) -> None:
        """Have the session not miss a transaction whose connection was given back by then."""
        wrap = ReadTransaction if replica else LeasedTransaction
        lend(connection, partial(wrap, is_leased=is_leased))
