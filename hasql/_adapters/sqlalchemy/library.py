"""What the adapter needs of the library that SQLAlchemy works with."""

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
    """A library that SQLAlchemy works with, for tasks or threads: what an engine is made by."""

    #: SQLAlchemy's own class for it.
    dialect: type[Dialect]
    #: Those arguments of its `connect` that the query of a URL may hold, with how each is read.
    url_arguments: Mapping[str, Callable[[str], Any]]

    def check_connect_args(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that the library does not know. Raises ConfigurationError."""

    def failure_of(self, error: BaseException) -> Failure:
        """Say what an exception of the library's own tells of the server."""

    def sqlstate_of(self, error: BaseException) -> str | None:
        """Return the server's code; empty: the library's own error; None: another's."""


class DbapiLibrary(EngineLibrary, Protocol):
    """What is done with the connections of asyncpg or psycopg directly, for SQLAlchemy's asyncio.

    A method that has a body here is a default, for a library whose operations end at once when they
    are cancelled, and which watches its idle sockets.
    """

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_closed: Callable[[Any], None]
    ) -> WithSettings[tuple[Any, str | None]]:
        """Open a connection, and tell the address it leads to; cancelling it leaks nothing.

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
        """Return what the next transactions are begun as; None: as the session's default is."""

    async def set_read_only(self, adapted: Any, value: bool | None) -> None:  # noqa: FBT001  # a value
        """Have the next transactions begun so.

        SQLAlchemy's own option is no use on a replica: it ends with transactions that are to write.
        """

    def state_of(self, connection: Any) -> TransactionState:
        """Tell what has become of a transaction; what was never begun has ENDED."""

    def ended_by_limit(self, connection: Any) -> bool:
        """Tell whether a limit of its own has ended the session, where errors do not say so."""
        del connection
        return False

    def was_rolled_back(self, connection: Any) -> bool:
        """Tell whether the server has answered COMMIT by a rollback, where `state_of` cannot."""
        del connection
        return False

    def is_read_only(self, connection: Any) -> bool:
        """Tell whether transactions are read-only by default, as the server reported last."""

    def in_hot_standby(self, connection: Any) -> bool | None:
        """Return what the server reported last."""

    def is_closed(self, connection: Any) -> bool:
        """Tell whether a connection is known to be gone."""

    def is_dead(self, connection: Any) -> bool:
        """Tell whether an idle connection is gone, looking at its socket if need be."""
        return self.is_closed(connection)

    def is_clean(self, connection: Any) -> bool:
        """Tell, without asking the server, whether no transaction is open and no statement runs."""

    async def check_unused(self, connection: Any) -> None:
        """Raise if a statement of another task runs, unless `in_use` can tell that."""
        del connection

    def in_use(self, connection: Any) -> bool:
        """Tell whether a task waits for an answer, and must not be cancelled before the abort."""
        del connection
        return False

    def abort(self, connection: Any) -> None:
        """Close a connection at once, without a word to the server."""

    def pending_cancel(self, connection: Any) -> asyncio.Future[None] | None:
        """Return what ends a cancelled statement, if SQLAlchemy does not wait for that; or None."""

    async def wait_until_unused(self, connection: Any) -> None:
        """Wait until no task uses an aborted connection any more, so that it can be closed."""
        del connection
