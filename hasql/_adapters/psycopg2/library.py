"""psycopg2 beneath a queue pool: how its connections are opened, inspected and rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

from hasql._adapters.kill_switch import KillSwitch
from hasql._adapters.libpq import parameters_of_pool
from hasql._adapters.psycopg2.failure import failure_of
from hasql._adapters.psycopg2.parameters import is_of_libpq
from hasql._adapters.psycopg2.transactions import fetch_row, plain_cursor, state_of, within_units
from hasql._adapters.session_setup import Setup, WithSettings
from hasql._adapters.sqlalchemy.thread_library import ThreadLibrary
from hasql.driver.address_race import connect_in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hasql.driver import Endpoint
    from hasql.driver.address_race import ThreadedConnect
    from hasql.driver.session_settings import SessionSettings

__all__ = ("LIBRARY", "Psycopg2Library")

_IDLE = extensions.TRANSACTION_STATUS_IDLE
_ACTIVE = extensions.TRANSACTION_STATUS_ACTIVE
#: Seconds after which libpq gives up a login, unless the user gives another limit. A login cannot
#: be interrupted, and without a limit it waits for a silent server for ever.
_LONGEST_LOGIN = "10"


class Psycopg2Library(ThreadLibrary):
    """psycopg2, whose statements and logins wait inside libpq until there is data on the socket."""

    def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], connect: ThreadedConnect
    ) -> WithSettings[tuple[Any, str | None]]:
        endpoint = endpoint.for_login_in_thread(connect.check)
        kwargs = endpoint.arguments(kwargs)
        of_libpq = {name: value for name, value in kwargs.items() if is_of_libpq(name)}
        others = {name: value for name, value in kwargs.items() if name not in of_libpq}
        factory = within_units(others.pop("connection_factory", None))
        given = extensions.parse_dsn(extensions.make_dsn(endpoint.dsn, **of_libpq))
        parameters = {"connect_timeout": _LONGEST_LOGIN, **parameters_of_pool(given, is_of_libpq)}
        endpoint.settings.check(given, "the DSN or the arguments of its connections")

        def log_in(settings: SessionSettings) -> tuple[Any, str | None]:
            named = parameters
            if settings:
                named = {**parameters, "options": settings.as_options(given.get("options"))}

            def dial(address: str | None, attempt: ThreadedConnect) -> tuple[Any, str | None]:
                attempt.check()
                at = named if address is None else {**named, "hostaddr": address}
                return psycopg2.connect(extensions.make_dsn(**at), factory, **others), address

            return connect_in_thread(endpoint, connect, dial, failure_of, _close)

        setup: Setup[tuple[Any, str | None]] = Setup(
            log_in,
            psycopg2.OperationalError,
            lambda opened: opened[0].get_backend_pid(),
            lambda opened, sql: self.count_rows(opened[0], sql),
            _close,
        )
        return setup.open_in_thread(endpoint.settings)

    def login_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        login = {name: value for name, value in kwargs.items() if is_of_libpq(name)}
        if "database" in login:  # psycopg2's own name for it
            login["dbname"] = login.pop("database")
        return login

    def adopt(self, raw: Any) -> Any:
        return raw

    def close(self, raw: Any) -> None:
        raw.close()  # it waits for a thread that uses the connection

    def fileno(self, raw: Any) -> int:
        descriptor: int = raw.fileno()
        return descriptor

    def switch(self, raw: Any) -> KillSwitch:
        return KillSwitch(raw.fileno())

    def is_closed(self, raw: Any) -> bool:
        return bool(raw.closed)

    def is_busy(self, raw: Any) -> bool:
        status: int = raw.get_transaction_status()
        return bool(status == _ACTIVE)

    def is_clean(self, raw: Any) -> bool:
        prepared = raw.status == extensions.STATUS_PREPARED
        return bool(raw.get_transaction_status() == _IDLE and not prepared)

    def in_hot_standby(self, raw: Any) -> bool | None:
        try:
            flag = raw.get_parameter_status("in_hot_standby")
        except psycopg2.InterfaceError:  # it is closed
            return None
        return None if flag is None else flag == "on"

    def is_read_only(self, raw: Any) -> bool:
        default: str | None = raw.get_parameter_status("default_transaction_read_only")
        return default == "on"

    def read_input(self, raw: Any) -> bool:
        # Before a server ends a connection it says why, and it closes the socket only milliseconds
        # later. On an idle connection it sends nothing else that psycopg2 would take for a notice.
        before, raw.notices = raw.notices, []
        try:
            raw.poll()
        except psycopg2.Error:
            return False
        said, raw.notices = raw.notices, before
        return not said and not raw.closed

    fetch_row = staticmethod(fetch_row)
    state_of = staticmethod(state_of)

    def read_only(self, raw: Any) -> bool | None:
        before: bool | None = raw.readonly
        return before

    def set_read_only(self, raw: Any, value: bool | None) -> None:  # noqa: FBT001  # as above
        raw.readonly = value

    def count_rows(self, raw: Any, sql: str) -> int:
        before = raw.autocommit
        raw.autocommit = True  # this costs no round trip, and leaves no transaction open
        try:
            with plain_cursor(raw) as cursor:
                cursor.execute(sql)
                count: int = cursor.rowcount
        finally:
            if not raw.closed:
                raw.autocommit = before
        return count

    def roll_back(self, raw: Any) -> None:
        status = raw.get_transaction_status()
        if raw.status == extensions.STATUS_PREPARED:
            # The prepared transaction is left for the application to commit. psycopg2 allows
            # nothing else on this connection.
            raise psycopg2.ProgrammingError("a prepared transaction was left open")
        if status == _ACTIVE:  # another thread's statement, or a COPY that was not read to its end
            raise psycopg2.ProgrammingError("a statement is still running")
        if status == _IDLE:
            return
        if raw.autocommit:  # psycopg2 then does not know of a transaction that SQL has begun
            with plain_cursor(raw) as cursor:
                cursor.execute("ROLLBACK")
        else:
            raw.rollback()


def _close(opened: tuple[Any, str | None]) -> None:
    opened[0].close()


LIBRARY = Psycopg2Library()
