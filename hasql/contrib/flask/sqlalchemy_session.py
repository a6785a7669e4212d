"""What a request does with a connection of SQLAlchemy's besides statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import OperationalError

from hasql.contrib.flask.driver_sessions import DriverSession, session_class

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("SESSION_CLASS",)


class _SqlalchemySession(DriverSession):
    def __init__(
        self,
        connection: Any,
        configure: Callable[[Any], object] | None,
        after_reset: str | None = None,
    ) -> None:
        super().__init__(connection, configure, after_reset)
        beneath = "psycopg3" if connection.dialect.driver == "psycopg" else "psycopg2"
        # Kept, as the connection has none any more once it is lost.
        raw = connection.connection.driver_connection
        self._session = session_class(beneath)(raw, None, after_reset)

    @property
    def raw(self) -> Any:
        return self._session.raw

    def ask(self) -> None:
        self._session.ask()

    def begin(self, *, in_transaction: bool) -> None:
        if not in_transaction:
            self.connection.execution_options(isolation_level="AUTOCOMMIT")
        elif self.raw.autocommit:  # as `create_engine` was told
            level = self.connection.default_isolation_level
            self.connection.execution_options(isolation_level=level)
        # SQLAlchemy's own would give the driver's connection to the engine's pool as it is, with
        # all that the request has set in its session: `with db.connection() as conn` does that.
        vars(self.connection)["close"] = _end_nothing if in_transaction else self._roll_back_own

    def unwrap(self) -> None:
        vars(self.connection).pop("close", None)

    def _roll_back_own(self) -> None:
        """Stand for `close`: roll back what was begun, as that does; the request closes it."""
        if self.connection.in_transaction():
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


def _end_nothing() -> None:
    """Stand for `close` where the request is one transaction, which goes on."""


SESSION_CLASS: Final[type[DriverSession]] = _SqlalchemySession
"""The class for `sqlalchemy` in `HASQL_DRIVER`."""
