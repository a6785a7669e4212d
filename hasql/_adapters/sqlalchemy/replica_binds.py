"""What a routed session gets as its connection and transaction, so that it can change both."""

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

    It may have ended before the session ends it. The connection has been given back then, and the
    session must not use it any more.
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
    """The transaction of a replica's connection, which has nothing to commit."""

    def commit(self) -> None:
        if self.is_active:
            self._begun.commit()


class RunTransaction(LeasedTransaction):
    """The transaction of a unit of work, as its session has it: only `run` may commit it."""

    def commit(self) -> None:
        if self.is_active:
            raise HasqlError(
                "the work committed its own session; let run() commit, and raise an exception to "
                "roll everything back"
            )


def lend(connection: Connection, wrap: Callable[[Transaction], LeasedTransaction]) -> None:
    """Make the next session that gets a connection hold its transaction in a wrapper of hasql's.

    Args:
        connection: The connection, which may have begun a transaction.
        wrap: Makes the wrapper.
    """
    own = vars(connection)  # methods of this object alone, until the session has begun

    def begin() -> Any:
        for name in ("begin", "in_transaction"):
            own.pop(name, None)
        return wrap(connection.get_transaction() or connection.begin())

    own.update(begin=begin, in_transaction=lambda: False)


class SameEngine:
    """A further connection of an engine, for a session that has had one in the same transaction.

    The session accepts another connection of that engine only if the engine itself makes it. So
    this stands for the engine.
    """

    def __init__(self, connection: Connection, on_use: Callable[[Connection], None]) -> None:
        self._connection = connection
        self._on_use = on_use

    def connect(self) -> Connection:
        """Return the connection, as an engine does."""
        self._on_use(self._connection)
        return self._connection


class Leases(Protocol):
    """Acquires connections and gives them back; tasks and threads each have their own."""

    def acquire(self, lease: Any) -> Connection:
        """Take the connection of a lease."""

    def give_back(self, lease: Any) -> None:
        """Give the connection of a lease back."""

    def lend(self, connection: Connection, is_leased: Callable[[], bool], *, replica: bool) -> None:
        """Prepare a connection for a session that may end its transaction after its lease."""


class SessionLeases:
    """The common part, for tasks and threads, where sessions end their transactions themselves."""

    def lend(self, connection: Connection, is_leased: Callable[[], bool], *, replica: bool) -> None:
        """Wrap the session's transaction, so that it knows when its connection was given back."""
        wrap = ReadTransaction if replica else LeasedTransaction
        lend(connection, partial(wrap, is_leased=is_leased))
