"""What the adapter needs of the library beneath SQLAlchemy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.engine import Dialect

    from hasql._adapters.session_setup import WithSettings
    from hasql.driver import Endpoint, Failure, Session
    from hasql.driver.transactions import TransactionState

__all__ = ("DbapiLibrary", "EngineLibrary")


class EngineLibrary(Protocol):
    """A library beneath SQLAlchemy, for tasks or threads: what is needed to make an engine."""

    #: SQLAlchemy's dialect for the library.
    dialect: type[Dialect]
    #: The arguments of its `connect` that a URL's query may hold, with the function to read each.
    url_arguments: Mapping[str, Callable[[str], Any]]

    def check_connect_args(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that the library does not know. Raises ConfigurationError."""

    def failure_of(self, error: BaseException) -> Failure:
        """Say what an exception of the library tells about the server."""

    def sqlstate_of(self, error: BaseException) -> str | None:
        """Return the server's SQLSTATE; empty: the error is the library's own; None: neither's."""


class DbapiLibrary(EngineLibrary, Protocol):
    """Direct work with the connections of asyncpg or psycopg, for SQLAlchemy's asyncio extension.

    A method with a body here is a default. It suits a library whose operations end at once when
    they are cancelled, and which watches its idle sockets.
    """

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_closed: Callable[[Any], None]
    ) -> WithSettings[tuple[Any, str | None]]:
        """Open a connection, and return it with its address; cancelling this leaks nothing.

        `on_closed` is called when the connection turns out to be gone, if the library watches it.
        """

    async def open_session(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        """Open a reserved connection."""

    async def session_of(self, connection: Any, on_lost: Callable[[], None]) -> Session:
        """Use a connection that the application has opened as a reserved one."""

    async def count_rows(self, connection: Any, sql: str) -> int:
        """Run a query in a transaction of its own and return how many rows it has."""

    async def fetch_row(self, connection: Any, sql: str) -> Sequence[str | None]:
        """Run a query in the transaction that is open; see `Session.fetch_row`."""

    def read_only(self, adapted: Any) -> bool | None:
        """Tell whether the next transactions begin as read-only; None: the session's default."""

    async def set_read_only(self, adapted: Any, value: bool | None) -> None:  # noqa: FBT001  # a value
        """Set whether the next transactions begin as read-only; None: the session's default.

        SQLAlchemy's own option is of no use on a replica: when it is undone, the transactions that
        follow are begun as read-write.
        """

    def state_of(self, connection: Any) -> TransactionState:
        """Return the state of the transaction; ENDED also if none was begun."""

    def ended_by_limit(self, connection: Any) -> bool:
        """Tell whether a time limit has ended the session, if the library's errors do not tell."""
        del connection
        return False

    def was_rolled_back(self, connection: Any) -> bool:
        """Tell whether the server answered COMMIT with a rollback, if `state_of` cannot tell."""
        del connection
        return False

    def is_read_only(self, connection: Any) -> bool:
        """Tell whether transactions are read-only by default, as the server reported last."""

    def in_hot_standby(self, connection: Any) -> bool | None:
        """Return what the server last reported; None: it does not report it."""

    def is_closed(self, connection: Any) -> bool:
        """Tell whether a connection is known to be gone."""

    def is_dead(self, connection: Any) -> bool:
        """Tell whether an idle connection is gone, looking at its socket if need be."""
        return self.is_closed(connection)

    def is_clean(self, connection: Any) -> bool:
        """Tell, without asking the server, whether no transaction is open and no statement runs."""

    async def check_unused(self, connection: Any) -> None:
        """Raise an error if another task's statement runs, unless `in_use` can tell that."""
        del connection

    def in_use(self, connection: Any) -> bool:
        """Tell whether a task waits for an answer; that must not be cancelled before the abort."""
        del connection
        return False

    def abort(self, connection: Any) -> None:
        """Close a connection at once, without a word to the server."""

    def pending_cancel(self, connection: Any) -> asyncio.Future[None] | None:
        """Return the end of a cancelled statement, if SQLAlchemy does not wait for it; or None."""

    async def wait_until_unused(self, connection: Any) -> None:
        """Wait until no task uses an aborted connection any more, so that it can be closed."""
        del connection
