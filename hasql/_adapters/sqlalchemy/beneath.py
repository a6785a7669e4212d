"""What `hasql.asyncsqlalchemy` needs of the library beneath SQLAlchemy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Dialect

    from hasql.driver import Failure, Session

__all__ = ("Beneath",)


class Beneath(Protocol):
    """The library beneath SQLAlchemy: what is done with its connections directly."""

    #: SQLAlchemy's own class for it.
    dialect: type[Dialect]
    #: What its `connect` takes that the query of a URL may hold, with how each is read.
    URL_ARGUMENTS: Mapping[str, Callable[[str], Any]]

    def check_connect_args(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse what is not known. Raises ConfigurationError."""

    async def connect(
        self, dsn: str, kwargs: Mapping[str, Any], on_closed: Callable[[Any], None]
    ) -> Any:
        """Open a connection; cancelling it leaks nothing.

        `on_closed` is called when it turns out to be gone, where the library watches for that.
        """

    async def open_session(
        self, dsn: str, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        """Open a reserved connection."""

    async def session_of(self, connection: Any, on_lost: Callable[[], None]) -> Session:
        """Go on with a connection that the application has opened as a reserved one."""

    def failure_of(self, error: BaseException) -> Failure:
        """Say what an exception of the library's own tells of the server."""

    async def count_rows(self, connection: Any, sql: str) -> int:
        """Run a query in a transaction of its own and return how many rows it has."""

    def is_read_only(self, connection: Any) -> bool:
        """Tell whether transactions are read-only by default, as the server reported last."""

    def in_hot_standby(self, connection: Any) -> bool | None:
        """Return what the server reported last."""

    def is_closed(self, connection: Any) -> bool:
        """Tell whether a connection is known to be gone."""

    def has_died(self, connection: Any) -> bool:
        """Tell whether an idle connection is gone, taking a look at it if need be."""

    def is_clean(self, connection: Any) -> bool:
        """Tell, without asking the server, whether nothing is open or at work in a connection."""

    async def check_unused(self, connection: Any) -> None:
        """Raise if a statement of another task runs, where `in_use` cannot tell."""

    def in_use(self, connection: Any) -> bool:
        """Tell whether somebody waits for an answer who must not be cancelled before it breaks."""

    def break_off(self, connection: Any) -> None:
        """Break a connection at once, without a word to the server."""

    def ending(self, connection: Any) -> asyncio.Future[None] | None:
        """Return what ends a statement that was cancelled, if SQLAlchemy does not wait for it."""

    async def settle(self, connection: Any) -> None:
        """Wait until nobody is inside a broken connection, so that it can be closed."""
