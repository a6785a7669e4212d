"""What a request needs of an SQLAlchemy connection besides statements."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import InvalidRequestError, OperationalError

from hasql.contrib.flask.driver_sessions import DriverSession, session_class

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ("SESSION_CLASS",)


class _SqlalchemySession(DriverSession):
    def _save_original(self) -> None:
        connection = self.connection
        beneath = "psycopg3" if connection.dialect.driver == "psycopg" else "psycopg2"
        # Kept because an SQLAlchemy connection loses this attribute when it is lost.
        raw = connection.connection.driver_connection
        self._session = session_class(beneath)(raw, None, self._after_reset)
        #: Set while there is no transaction: SQLAlchemy finds this one and does not begin another.
        self._placeholder: _WatchedTransaction | None = None
        self._unwrapped = False

    @property
    def raw(self) -> Any:
        return self._session.raw

    def ask(self) -> None:
        self._session.ask()

    def begin(self, *, in_transaction: bool) -> None:
        own = vars(self.connection)
        # SQLAlchemy's own close() would return the driver's connection to the engine's pool with
        # everything that the request has set in its session. `with db.connection() as conn` calls
        # close() at its end.
        own["close"] = _end_nothing if in_transaction else self._roll_back_begun
        if not in_transaction:
            self.connection.execution_options(isolation_level="AUTOCOMMIT")
            own.update(begin=self._begin, in_transaction=self._in_transaction)
            self._commit_each()
        elif self.raw.autocommit:  # the engine was created with AUTOCOMMIT
            level = self.connection.default_isolation_level
            self.connection.execution_options(isolation_level=level)

    def unwrap(self) -> None:
        for name in ("begin", "close", "in_transaction"):
            vars(self.connection).pop(name, None)
        if self._placeholder is not None:
            self._placeholder.ended = None
        self._unwrapped = True

    # The following methods replace the connection's own if each statement is committed by itself.
    # With AUTOCOMMIT, SQLAlchemy's `begin` does not begin a transaction on the server. SQLAlchemy
    # also calls `begin` for each statement outside of a transaction, unless there is a placeholder.

    def _begin(self) -> RootTransaction:
        """Begin a real transaction."""
        connection: Connection = self.connection
        placeholder = self._placeholder
        if placeholder is None or self._in_transaction():
            return Connection.begin(connection)  # it refuses a second transaction
        placeholder.ended = self._placeholder = None
        placeholder.close()
        if not self.raw.autocommit:  # the application has chosen an isolation level
            return Connection.begin(connection)
        # Set on the driver's connection: SQLAlchemy would remember each change of an option until
        # the connection is given back.
        self.raw.autocommit = False
        try:
            return _WatchedTransaction(connection, self._commit_each)
        except BaseException:
            self._commit_each()
            raise

    def _in_transaction(self) -> bool:
        connection: Connection = self.connection
        if not Connection.in_transaction(connection):
            return False
        return connection.get_transaction() is not self._placeholder or self._session.in_transaction

    def _commit_each(self) -> None:
        """Commit each statement by itself from now on, unless the session has ended."""
        self._placeholder = None
        connection, raw = self.connection, self.raw
        if self._unwrapped or connection.closed or connection.invalidated:
            return
        if connection.connection.dbapi_connection is raw and not self._session.in_transaction:
            if not raw.autocommit:
                raw.autocommit = True
            with suppress(InvalidRequestError):  # in the block of a savepoint that has ended
                self._placeholder = _WatchedTransaction(connection, self._commit_each)

    def _roll_back_begun(self) -> None:
        """Do the part of `close` that must not wait until the request ends: roll back."""
        if self._in_transaction():
            self.connection.rollback()

    def commit(self) -> None:
        self._check_commit()
        if self.connection.in_transaction():
            self.connection.commit()

    def rollback(self) -> None:
        if self.connection.in_transaction():
            self.connection.rollback()

    def restore(self) -> None:
        self.rollback()
        self._session.restore()

    def reset(self) -> None:
        self.rollback()
        self._session.reset()

    def cancel(self) -> None:
        self._session.cancel()

    def discard(self) -> None:
        self.connection.invalidate()

    def lost_error(self, message: str) -> Exception:
        return OperationalError(None, None, self._session.lost_error(message))


class _WatchedTransaction(RootTransaction):
    """A transaction that calls a function when it ends, however it ends.

    Args:
        connection: A connection that has no transaction yet.
        ended: Called once, after the commit or the rollback.
    """

    def __init__(self, connection: Connection, ended: Callable[[], object]) -> None:
        self.ended: Callable[[], object] | None = ended
        self._in_block = False
        super().__init__(connection)

    def __enter__(self) -> Self:
        entered = super().__enter__()
        self._in_block = True
        return entered

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._in_block = False
            self._note_end()

    def commit(self) -> None:
        self._end_by(super().commit)

    def rollback(self) -> None:
        self._end_by(super().rollback)

    def close(self) -> None:
        self._end_by(super().close)

    def _end_by(self, end: Callable[[], None]) -> None:
        try:
            end()
        finally:
            self._note_end()

    def _note_end(self) -> None:
        # A transaction whose commit has failed goes on until it is rolled back. And while its block
        # has not ended, SQLAlchemy allows nothing after the transaction.
        if self._in_block or self.connection.get_transaction() is self:
            return
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()


def _end_nothing() -> None:
    """Replaces `close` if the request is one transaction, because that goes on."""


SESSION_CLASS: Final[type[DriverSession]] = _SqlalchemySession
"""The session class for the driver ``sqlalchemy`` in `HASQL_DRIVER`."""
