"""What a queue pool for threads needs of the library beneath it, psycopg 3 or psycopg2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hasql._adapters.sqlalchemy.library import EngineLibrary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hasql._adapters.kill_switch import KillSwitch
    from hasql._adapters.session_setup import WithSettings
    from hasql.driver import Endpoint, Session
    from hasql.driver.address_race import ThreadedConnect
    from hasql.driver.transactions import TransactionState

__all__ = ("EngineThreadLibrary", "ThreadLibrary")


class ThreadLibrary(Protocol):
    """The library beneath a queue pool: direct work with its connections.

    Methods that wait for a server are called in the thread that has the connection, all others in
    any thread.
    """

    def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], connect: ThreadedConnect
    ) -> WithSettings[tuple[Any, str | None]]:
        """Open a connection, however long it takes, and return it with its address."""

    def login_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `connect` that are for a reserved connection of psycopg's."""

    def adopt(self, raw: Any) -> Any:
        """Turn a connection that a listener has opened by itself into one that hasql can use.

        Raises ConfigurationError if that is not possible.
        """

    def close(self, raw: Any) -> None:
        """Close a connection without waiting for the server, once no thread uses it."""

    def fileno(self, raw: Any) -> int:
        """Return the descriptor of its socket."""

    def switch(self, raw: Any) -> KillSwitch:
        """Return the switch that ends it from any thread. Raises an error if it is lost already."""

    def is_closed(self, raw: Any) -> bool:
        """Tell whether it is known to be gone."""

    def is_busy(self, raw: Any) -> bool:
        """Tell whether a statement runs on it, as far as the library knows."""

    def is_clean(self, raw: Any) -> bool:
        """Tell whether no transaction is open and no statement runs."""

    def in_hot_standby(self, raw: Any) -> bool | None:
        """Return what the server last reported; None: it does not report it."""

    def is_read_only(self, raw: Any) -> bool:
        """Tell whether transactions are read-only by default, as the server reported last."""

    def read_input(self, raw: Any) -> bool:
        """Read what an idle connection has received; tell whether it is still alive."""

    def roll_back(self, raw: Any) -> None:
        """Roll an open transaction back; raise an error of the library's if that fails."""

    def fetch_row(self, raw: Any, sql: str) -> Sequence[str | None]:
        """Run a query in the transaction that is open; see `Session.fetch_row`."""

    def read_only(self, raw: Any) -> bool | None:
        """Tell whether the next transactions begin as read-only; None: the session's default."""

    def set_read_only(self, raw: Any, value: bool | None) -> None:  # noqa: FBT001  # a value
        """Set whether the next transactions begin as read-only; None: the session's default."""

    def state_of(self, raw: Any) -> TransactionState:
        """Return the state of the transaction; it may be ENDED also if none was begun."""

    def count_rows(self, raw: Any, sql: str) -> int:
        """Run a query in a transaction of its own and return how many rows it has."""


class EngineThreadLibrary(EngineLibrary, ThreadLibrary, Protocol):
    """A library that SQLAlchemy works with, for threads."""

    async def session_of(self, raw: Any, on_lost: Callable[[], None]) -> Session:
        """Use a connection that the application has opened as a reserved one.

        Raises ConfigurationError if that is not possible.
        """
