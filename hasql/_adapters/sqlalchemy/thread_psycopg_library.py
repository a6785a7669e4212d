"""psycopg 3, as SQLAlchemy uses it in threads: connections without a pool of psycopg's."""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, TransactionStatus
from sqlalchemy.dialects.postgresql.psycopg import dialect

from hasql._adapters.psycopg import login, server
from hasql._adapters.psycopg.failure import failure_of, sqlstate_of
from hasql._adapters.psycopg.session import PsycopgSession
from hasql._adapters.psycopg.thread_connection import ThreadConnection
from hasql._adapters.psycopg.thread_login import connect_for_pool, endable
from hasql._adapters.psycopg.transactions import state_of
from hasql._adapters.sqlalchemy.query import flag, not_text, whole_number
from hasql._adapters.sqlalchemy.thread_library import EngineThreadLibrary
from hasql.driver.arguments import ROUTING, refuse_keywords
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hasql._adapters.kill_switch import KillSwitch
    from hasql._adapters.session_setup import WithSettings
    from hasql.driver import Endpoint
    from hasql.driver.address_race import ThreadedConnect
    from hasql.driver.transactions import TransactionState

__all__ = ("LIBRARY",)

_OF_PSYCOPG = frozenset(signature(psycopg.Connection.connect).parameters) - {"kwargs"}
_Connection: Any = type("Connection", (ThreadConnection, *endable(psycopg.Connection)), {})


class PsycopgThreadLibrary(EngineThreadLibrary):
    """psycopg 3 beneath an engine for threads."""

    dialect = dialect
    #: psycopg itself reads all other parameters in the DSN.
    url_arguments: Mapping[str, Callable[[str], Any]] = {
        "autocommit": flag,
        "context": not_text,
        "cursor_factory": not_text,
        "prepare_threshold": whole_number,
        "row_factory": not_text,
    }
    failure_of = staticmethod(failure_of)
    sqlstate_of = staticmethod(sqlstate_of)

    def check_connect_args(self, kwargs: Mapping[str, Any]) -> None:
        refuse_keywords(kwargs, ROUTING, "connect_args: hasql takes no argument {!r}")
        try:
            make_conninfo(**{name: v for name, v in kwargs.items() if name not in _OF_PSYCOPG})
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(f"connect_args: {error}") from None

    def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], connect: ThreadedConnect
    ) -> WithSettings[tuple[Any, str | None]]:
        return connect_for_pool(endpoint, connect, _Connection.connect, kwargs)

    def login_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(kwargs)

    async def session_of(self, raw: Any, on_lost: Callable[[], None]) -> PsycopgSession:
        return PsycopgSession(await login.take_over(raw), on_lost, in_transactions=True)

    def adopt(self, raw: Any) -> Any:
        if not isinstance(raw, psycopg.Connection):
            raise ConfigurationError(
                f"a do_connect listener returned {type(raw).__name__}; over psycopg it must "
                "return a psycopg.Connection, or change the arguments instead"
            )
        return _taken_over(raw)

    def close(self, raw: Any) -> None:
        raw.close()  # this frees nothing that another thread uses

    def fileno(self, raw: Any) -> int:
        descriptor: int = raw.fileno()
        return descriptor

    def switch(self, raw: Any) -> KillSwitch:
        switch: KillSwitch | None = raw.switch
        if switch is None:
            raise psycopg.OperationalError("the connection was lost as soon as it was made")
        return switch

    def is_closed(self, raw: Any) -> bool:
        return bool(raw.closed)

    def is_busy(self, raw: Any) -> bool:
        active = raw.pgconn.transaction_status == TransactionStatus.ACTIVE
        return bool(active or raw.lock.locked())

    def is_clean(self, raw: Any) -> bool:
        return bool(raw.pgconn.transaction_status == TransactionStatus.IDLE)

    def in_hot_standby(self, raw: Any) -> bool | None:
        return server.in_hot_standby(raw)

    def is_read_only(self, raw: Any) -> bool:
        return server.is_read_only(raw)

    def read_input(self, raw: Any) -> bool:
        alive: bool = raw.is_alive()
        return alive

    def roll_back(self, raw: Any) -> None:
        if self.is_busy(raw):
            raise psycopg.ProgrammingError("a statement is still running")
        raw.rollback()

    def count_rows(self, raw: Any, sql: str) -> int:
        return server.ask_in_thread(raw, sql).ntuples

    def read_only(self, raw: Any) -> bool | None:
        before: bool | None = raw.read_only
        return before

    def set_read_only(self, raw: Any, value: bool | None) -> None:  # noqa: FBT001  # as above
        raw.read_only = value

    def state_of(self, raw: Any) -> TransactionState:
        return state_of(raw)

    def fetch_row(self, raw: Any, sql: str) -> Sequence[str | None]:
        return server.first_row(server.ask_in_thread(raw, sql))


@cache
def _endable_class(user_class: Any) -> Any:
    added = {"inherited_wait": user_class.wait}
    return type(user_class.__name__, (ThreadConnection, user_class), added)


def _taken_over(raw: psycopg.Connection[Any]) -> ThreadConnection:
    """Return a connection of hasql's class in place of the application's, in the same state."""
    user_class: Any = type(raw)  # which mypy does not take for a Hashable
    made = _endable_class(user_class)
    taken: ThreadConnection = made.__new__(made)
    psycopg.Connection.__init__(taken, raw.pgconn)
    vars(taken).update(vars(raw))
    # A connection that libpq refused to begin. When the application's object is dropped, it closes
    # that one, and not the one that was taken over.
    raw.pgconn = PGconn.connect_start(b"none=")
    taken.make_endable()
    return taken


LIBRARY = PsycopgThreadLibrary()
