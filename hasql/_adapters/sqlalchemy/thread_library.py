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
    """The library beneath a queue pool: what is done with its connections directly.

    What waits for a server is called in the thread that has the connection, everything else in any.
    """

    def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], connect: ThreadedConnect
    ) -> WithSettings[tuple[Any, str | None]]:
        """Open a connection, however long it takes, and tell the address it leads to."""

    def login_of(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of the arguments of `connect` is for a reserved connection of psycopg's."""

    def adopt(self, raw: Any) -> Any:
        """Make one that a listener has opened by itself one of the library's.

        Raises ConfigurationError where that cannot be.
        """

    def close(self, raw: Any) -> None:
        """Close a connection without waiting for the server, once no thread uses it."""

    def fileno(self, raw: Any) -> int:
        """Return the descriptor of its socket."""

    def switch(self, raw: Any) -> KillSwitch:
        """Return what ends it, whichever thread uses it. Raises an error if it is lost already."""

    def is_closed(self, raw: Any) -> bool:
        """Tell whether it is known to be gone."""

    def is_busy(self, raw: Any) -> bool:
        """Tell whether a statement runs on it, as far as the library knows."""

    def is_clean(self, raw: Any) -> bool:
        """Tell whether no transaction is open and no statement runs."""

    def in_hot_standby(self, raw: Any) -> bool | None:
        """Return what the server reported last."""

    def is_read_only(self, raw: Any) -> bool:
        """Tell whether transactions are read-only by default, as the server reported last."""

    def reads(self, raw: Any) -> bool:
        """Read what has come on an idle connection; tell whether the connection goes on."""

    def roll_back(self, raw: Any) -> None:
        """Roll an open transaction back; raise an error of the library's where that cannot be."""

    def fetch_row(self, raw: Any, sql: str) -> Sequence[str | None]:
        """Run a query in the transaction that is open; see `Session.fetch_row`."""

    def read_only(self, raw: Any) -> bool | None:
        """Return what the next transactions are begun as; None: as the session's default is."""

    def set_read_only(self, raw: Any, value: bool | None) -> None:  # noqa: FBT001  # a value
        """Have the next transactions begun so."""

    def state_of(self, raw: Any) -> TransactionState:
        """Tell what has become of a transaction; what was never begun may have ENDED."""

    def count_rows(self, raw: Any, sql: str) -> int:
        """Run a query in a transaction of its own and return how many rows it has."""


class EngineThreadLibrary(EngineLibrary, ThreadLibrary, Protocol):
    """A library that SQLAlchemy works with, for threads."""

    async def session_of(self, raw: Any, on_lost: Callable[[], None]) -> Session:
        """Use a connection that the application has opened as a reserved one.

        Raises ConfigurationError where that cannot be.
        """
