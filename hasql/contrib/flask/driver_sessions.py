"""What a request does with a connection besides statements, in the words of each driver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hasql.errors import HasqlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("DriverSession", "session_class")

_RESET: Final = (
    "SELECT pg_catalog.pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; "
    "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD TEMP"
)
"""One round trip. What DISCARD ALL does, without the prepared statements and their plans.

The role goes by itself: RESET ALL leaves it, and that of the session is not that of its login where
a default role is set for it.
"""
_CANCEL_LIMIT: Final = 3.0
"""Seconds that a server may take to be told of a cancel request."""
_IDLE, _ACTIVE, _FAILED = 0, 1, 3
"""States of a transaction, as libpq numbers them."""


def _always() -> bool:
    return True


class DriverSession(ABC):
    """The session of one lent connection.

    Args:
        connection: The driver's connection, fresh from its pool.
        configure: What the driver's pool does to each new connection.
        after_reset: SQL that makes the manager's settings again, where a reset undoes them.
    """

    def __init__(
        self,
        connection: Any,
        configure: Callable[[Any], object] | None,
        after_reset: str | None = None,
    ) -> None:
        self.connection = connection
        self._configure = configure
        self._after_reset = after_reset
        #: Tells whether the connection is lent still.
        self.is_out: Callable[[], bool] = _always
        self._note_found()

    @abstractmethod
    def _note_found(self) -> None:
        """Take note of what the connection comes with."""

    @property
    @abstractmethod
    def raw(self) -> Any:
        """The connection of psycopg or psycopg2, whatever wraps it; it can be weakly referenced."""

    @abstractmethod
    def ask(self) -> None:
        """Make one round trip that leaves nothing behind. Raises the driver's error."""

    @abstractmethod
    def begin(self, *, in_transaction: bool) -> None:
        """Have what follows be one transaction, or each statement one of its own.

        No round trip: the transaction begins with the first statement.
        """

    @abstractmethod
    def commit(self) -> None:
        """Commit the open transaction, if there is one.

        Raises the driver's error, and HasqlError where the server could only roll it back.
        """

    @abstractmethod
    def rollback(self) -> None:
        """Roll the open transaction back, if there is one."""

    def unwrap(self) -> None:  # noqa: B027  # most have put none there
        """Give the connection its own methods back, where `begin` has put others in their place.

        It comes before all that ends the session.
        """

    @abstractmethod
    def restore(self) -> None:
        """Roll back, and give the connection the attributes that it came with."""

    @abstractmethod
    def reset(self) -> None:
        """Undo what a request has left in the session, on the server and in the driver.

        Raises the driver's error, and HasqlError where the pool's `configure` leaves a transaction
        open: then the connection must not be used again.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Have the server end the statement that runs. Raises the driver's error."""

    @abstractmethod
    def discard(self) -> None:
        """Close the connection: nobody is to get it again."""

    @property
    def is_usable(self) -> bool:
        """Whether the server waits for a statement; not so where one was broken off."""
        return not self.raw.closed and self._state != _ACTIVE

    @property
    def _state(self) -> int:
        return int(self.raw.info.transaction_status)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on the server."""
        return self._state != _IDLE

    def lost_error(self, message: str) -> Exception:
        """Make the driver's error for a connection that is gone."""
        made: Exception = self.raw.OperationalError(message)
        return made

    def _check_commit(self) -> None:
        if self._state == _FAILED:
            self.rollback()
            raise HasqlError(
                "the request's transaction was rolled back, not committed: a statement in it had "
                "failed, and the view went on. What may fail needs a transaction within it (a "
                "savepoint): conn.transaction() with psycopg, conn.begin_nested() with SQLAlchemy"
            )


class _LibpqSession(DriverSession):
    """What is the same with psycopg and psycopg2."""

    #: The attributes of a connection that an application may set, besides `autocommit`.
    attributes: ClassVar[tuple[str, ...]]

    def _note_found(self) -> None:
        self._autocommit = self.connection.autocommit
        self._found = {name: getattr(self.connection, name) for name in self.attributes}

    @property
    def raw(self) -> Any:
        return self.connection

    @abstractmethod
    def _execute(self, sql: str) -> None:
        """Run statements, several of them in autocommit mode only."""

    @abstractmethod
    def _forget_messages(self) -> None:
        """Forget what the server has sent besides answers: to a request that is over."""

    def ask(self) -> None:
        self._set_autocommit(on=True)
        self._execute("SELECT 1")
        self._set_autocommit(on=self._autocommit)

    def begin(self, *, in_transaction: bool) -> None:
        self._set_autocommit(on=not in_transaction)

    def commit(self) -> None:
        self._check_commit()
        if self.in_transaction:
            self.connection.commit()

    def rollback(self) -> None:
        if self.in_transaction:
            self.connection.rollback()

    def restore(self) -> None:
        self.rollback()
        for name, value in self._found.items():
            if getattr(self.connection, name) != value:
                setattr(self.connection, name, value)
        self._set_autocommit(on=self._autocommit)

    def reset(self) -> None:
        self.restore()  # first, as the cursors may be of the application's making
        self._set_autocommit(on=True)
        self._execute(_RESET if self._after_reset is None else f"{_RESET}; {self._after_reset}")
        self._forget_messages()
        self._set_autocommit(on=self._autocommit)
        if self._configure is not None:
            self._configure(self.connection)
            if self.in_transaction:
                raise HasqlError("the pool's configure has left a transaction open")

    def discard(self) -> None:
        self.connection.close()

    def _set_autocommit(self, *, on: bool) -> None:
        if self.connection.autocommit != on:
            self.connection.autocommit = on


class _PsycopgSession(_LibpqSession):
    attributes = (
        *("isolation_level", "read_only", "deferrable", "row_factory", "cursor_factory"),
        *("server_cursor_factory", "prepare_threshold", "prepared_max"),
    )

    def _note_found(self) -> None:
        super()._note_found()
        self.connection.keep_handlers()

    def begin(self, *, in_transaction: bool) -> None:
        super().begin(in_transaction=in_transaction)
        if in_transaction:
            vars(self.connection)["transaction"] = self._savepoint

    def unwrap(self) -> None:
        vars(self.connection).pop("transaction", None)

    @contextmanager
    def _savepoint(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Stand for `transaction`, which as the first of a request would commit by itself."""
        connection = self.connection
        # Somebody else may have it, where the application has put it into the driver's pool.
        if self.is_out() and not self.in_transaction and not connection.autocommit:
            self._execute("SELECT 1")  # begins the request's
        with type(connection).transaction(connection, *args, **kwargs) as block:
            yield block

    def restore(self) -> None:
        self.connection.restore_handlers()  # first, so that none is told of what follows
        super().restore()

    def reset(self) -> None:
        super().reset()
        self.connection.restore_handlers()  # to those of the `configure` that was the first

    def cancel(self) -> None:
        self.connection.cancel_safe(timeout=_CANCEL_LIMIT)

    def _forget_messages(self) -> None:
        self.connection.forget_notifications()

    def _execute(self, sql: str) -> None:
        # As bytes it may be several statements; unprepared, so that none is left for it.
        self.connection.execute(sql.encode(), prepare=False)


class _Psycopg2Session(_LibpqSession):
    attributes = ("isolation_level", "readonly", "deferrable", "cursor_factory")

    def _note_found(self) -> None:
        super()._note_found()
        self._encoding = self.connection.encoding
        # Where it puts what the server sends. A request may have others put there.
        self._messages = self.connection.notices, self.connection.notifies

    def restore(self) -> None:
        self.connection.notices, self.connection.notifies = self._messages
        super().restore()

    def cancel(self) -> None:
        self.connection.cancel()

    def _execute(self, sql: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            # As at the login: it reads dates in no other style.
            if not self.connection.get_parameter_status("DateStyle").startswith("ISO"):
                cursor.execute("SET datestyle TO 'ISO'")

    def reset(self) -> None:
        super().reset()
        if self.connection.encoding != self._encoding:  # which it keeps for itself
            self.connection.set_client_encoding(self._encoding)

    def _forget_messages(self) -> None:
        for messages in self._messages:
            if hasattr(messages, "clear"):  # what `configure` has put there may have none
                messages.clear()


_CLASSES: Final[dict[str, type[DriverSession]]] = {
    "psycopg3": _PsycopgSession,
    "psycopg2": _Psycopg2Session,
}


def session_class(driver: str) -> type[DriverSession]:
    """Return the class for psycopg or psycopg2, by the name in `HASQL_DRIVER`."""
    return _CLASSES[driver]
