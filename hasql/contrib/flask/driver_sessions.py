"""What a request needs of a connection besides statements, implemented for each driver."""

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
"""Does in one round trip what DISCARD ALL does, but keeps prepared statements and their plans.

The role has a RESET of its own: RESET ALL does not reset it, and RESET SESSION AUTHORIZATION does
not lead to the login's role if a default role is set for the login.
"""
_CANCEL_LIMIT: Final = 3.0
"""Seconds that sending a cancel request to a server may take."""
_IDLE, _ACTIVE, _FAILED = 0, 1, 3
"""libpq's numbers for the states of a transaction."""


def _always() -> bool:
    return True


class DriverSession(ABC):
    """The session of one lent connection.

    Args:
        connection: The driver's connection, fresh from its pool.
        configure: The function that the driver's pool calls for each new connection.
        after_reset: SQL that restores the pool manager's settings if a reset undoes them.
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
        #: Tells whether the connection is still lent to this session.
        self.is_out: Callable[[], bool] = _always
        self._save_original()

    @abstractmethod
    def _save_original(self) -> None:
        """Note the attributes that the connection comes with."""

    @property
    @abstractmethod
    def raw(self) -> Any:
        """The connection of psycopg or psycopg2, without wrappers; it can be weakly referenced."""

    @abstractmethod
    def ask(self) -> None:
        """Make one round trip that leaves nothing behind. Raises the driver's error."""

    @abstractmethod
    def begin(self, *, in_transaction: bool) -> None:
        """Make all that follows one transaction, or each statement a transaction of its own.

        This makes no round trip: the transaction begins with the first statement.
        """

    @abstractmethod
    def commit(self) -> None:
        """Commit the open transaction, if there is one.

        Raises the driver's error, and HasqlError if the server could only roll it back.
        """

    @abstractmethod
    def rollback(self) -> None:
        """Roll the open transaction back, if there is one."""

    def unwrap(self) -> None:  # noqa: B027  # most sessions replace no methods
        """Restore the connection's own methods that `begin` has replaced.

        Call this before any other method that ends the session.
        """

    @abstractmethod
    def restore(self) -> None:
        """Roll back, and restore the attributes that the connection came with."""

    @abstractmethod
    def reset(self) -> None:
        """Undo what a request has left in the session, on the server and in the driver.

        Raises the driver's error, and HasqlError if the pool's `configure` leaves a transaction
        open: then the connection must not be used again.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Ask the server to end the running statement. Raises the driver's error."""

    @abstractmethod
    def discard(self) -> None:
        """Close the connection, so that it is never lent again."""

    @property
    def is_usable(self) -> bool:
        """Whether the server waits for a statement; False if one was interrupted."""
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
                "failed, and the view went on. Put a statement that may fail into a nested "
                "transaction (a savepoint): conn.transaction() with psycopg, conn.begin_nested() "
                "with SQLAlchemy"
            )


class _LibpqSession(DriverSession):
    """The part that psycopg and psycopg2 have in common."""

    #: The attributes of a connection that an application may set, besides `autocommit`.
    attributes: ClassVar[tuple[str, ...]]

    def _save_original(self) -> None:
        self._autocommit = self.connection.autocommit
        self._found = {name: getattr(self.connection, name) for name in self.attributes}

    @property
    def raw(self) -> Any:
        return self.connection

    @abstractmethod
    def _execute(self, sql: str) -> None:
        """Run SQL; it may hold several statements only in autocommit mode."""

    @abstractmethod
    def _forget_messages(self) -> None:
        """Forget notices and notifications: they were sent for a request that is over."""

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
        self.restore()  # first: until then, cursors are made by the application's factory
        self._set_autocommit(on=True)
        self._execute(_RESET if self._after_reset is None else f"{_RESET}; {self._after_reset}")
        self._forget_messages()
        self._set_autocommit(on=self._autocommit)
        if self._configure is not None:
            self._configure(self.connection)
            if self.in_transaction:
                raise HasqlError(
                    "the pool's configure function left a transaction open; have it commit or "
                    "roll back"
                )

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

    def _save_original(self) -> None:
        super()._save_original()
        self.connection.keep_handlers()

    def begin(self, *, in_transaction: bool) -> None:
        super().begin(in_transaction=in_transaction)
        if in_transaction:
            vars(self.connection)["transaction"] = self._savepoint

    def unwrap(self) -> None:
        vars(self.connection).pop("transaction", None)

    @contextmanager
    def _savepoint(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Replace `transaction`, which would commit at its end if it came first in a request."""
        connection = self.connection
        # If the application has given it back to the driver's pool, another user may have it now.
        if self.is_out() and not self.in_transaction and not connection.autocommit:
            self._execute("SELECT 1")  # begins the request's transaction
        with type(connection).transaction(connection, *args, **kwargs) as block:
            yield block

    def restore(self) -> None:
        self.connection.restore_handlers()  # first, so that no handler is called for what follows
        super().restore()

    def reset(self) -> None:
        super().reset()
        self.connection.restore_handlers()  # to those after the first call of `configure`

    def cancel(self) -> None:
        self.connection.cancel_safe(timeout=_CANCEL_LIMIT)

    def _forget_messages(self) -> None:
        self.connection.forget_notifications()

    def _execute(self, sql: str) -> None:
        # As bytes the SQL may hold several statements; and no prepared statement stays behind.
        self.connection.execute(sql.encode(), prepare=False)


class _Psycopg2Session(_LibpqSession):
    attributes = ("isolation_level", "readonly", "deferrable", "cursor_factory")

    def _save_original(self) -> None:
        super()._save_original()
        self._encoding = self.connection.encoding
        # The lists that receive what the server sends; a request may replace them.
        self._messages = self.connection.notices, self.connection.notifies

    def restore(self) -> None:
        self.connection.notices, self.connection.notifies = self._messages
        super().restore()

    def cancel(self) -> None:
        self.connection.cancel()

    def _execute(self, sql: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            # psycopg2 also sets this at the login: it can parse dates in no other style.
            if not self.connection.get_parameter_status("DateStyle").startswith("ISO"):
                cursor.execute("SET datestyle TO 'ISO'")

    def reset(self) -> None:
        super().reset()
        if self.connection.encoding != self._encoding:  # psycopg2's own copy of the setting
            self.connection.set_client_encoding(self._encoding)

    def _forget_messages(self) -> None:
        for messages in self._messages:
            if hasattr(messages, "clear"):  # an object that `configure` put there may lack it
                messages.clear()


_CLASSES: Final[dict[str, type[DriverSession]]] = {
    "psycopg3": _PsycopgSession,
    "psycopg2": _Psycopg2Session,
}


def session_class(driver: str) -> type[DriverSession]:
    """Return the class for psycopg or psycopg2, by the name in `HASQL_DRIVER`."""
    return _CLASSES[driver]
