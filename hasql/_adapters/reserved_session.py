"""The session of a reserved connection, and the settings that it needs, for all drivers.

A reserved session takes the address, the login and TLS from the application, and nothing else. The
settings of the role and of the database apply to every session, so hasql overrides those that could
end a probe or the session itself. It names most of its settings at the login. A pooler refuses that
or, worse, ignores it; and behind a pooler a SET would affect the next client that gets the server's
session. There, and where the application logs in by a function of its own, hasql makes the settings
for one transaction only: the probe's.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Final, TypeVar

from hasql.driver import Session

__all__ = (
    "BEGIN_PROBE",
    "SETTINGS",
    "ReservedSession",
    "is_about_settings",
    "proxy_options",
    "session_options",
    "with_settings_if_taken",
)

_T = TypeVar("_T")

SETTINGS: Final = MappingProxyType(
    {
        # On a replica a serializable transaction is an error, or waits for a safe snapshot.
        "default_transaction_isolation": "read committed",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",  # known since PostgreSQL 14
        "search_path": "pg_catalog",
        # If `jit_above_cost` is set low, compiling the query would take most of a probe's time.
        "jit": "off",
        # Otherwise psycopg2 runs a SET of its own for it.
        "datestyle": "ISO",
    }
)
"""The settings that a reserved session names at its login, unless they are refused there.

All servers from PostgreSQL 14 on know these settings. `transaction_timeout` is missing, because
servers before 17 would refuse a login that names it: where it has ended a session, each probe
brings its settings with it. No other setting can affect a probe: a probe writes nothing, its names
are qualified, and its values look the same in any style of dates, intervals and numbers.
"""

BEGIN_PROBE: Final = (
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; "
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY; "
    "SET LOCAL idle_in_transaction_session_timeout = 0; "
    "SET LOCAL search_path = pg_catalog; SET LOCAL jit = off; "
    # Known since PostgreSQL 17. Last, after `jit` is off: compiling this query would take too long.
    "SELECT set_config('transaction_timeout', '0', true)"
    " WHERE current_setting('transaction_timeout', true) IS NOT NULL"
)
"""The statements that precede a probe, so that it can run in a session with any settings.

They are sent in one message with the probe and need no BEGIN: the statements of one message are one
transaction, which ends with the message, even when one of the statements fails.
https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT
"""

_AS_OPTIONS: Final = " ".join(
    "-c {}={}".format(name, value.replace(" ", "\\ ")) for name, value in SETTINGS.items()
)
#: Serializable on a replica; cancelled by `statement_timeout`; ended by `lock_timeout`.
_FOR_SETTINGS: Final = frozenset({"0A000", "57014", "55P03"})
_ABOUT_SETTINGS: Final = re.compile("parameter|option", re.IGNORECASE)


class ReservedSession(Session):
    """What the sessions of all drivers share: they find out when a probe must bring settings."""

    def __init__(self, address: str | None, *, in_transactions: bool = False) -> None:
        self.address = address
        self._in_transactions = in_transactions

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        return await self._run(sql, self._ask)

    def send_settings(self) -> None:
        self._in_transactions = True

    async def _run(
        self, sql: str, ask: Callable[[str], Awaitable[_T]]
    ) -> _T | Sequence[str | None]:
        """Run one query by `ask`; where a setting is in its way, in a transaction, as a row."""
        if self._in_transactions:
            return await self._ask_in_transaction(sql)
        try:
            return await ask(sql)
        except Exception as error:
            if self.closed or not _may_be_for_settings(error):
                raise
            row = await self._ask_in_transaction(sql)
            self._in_transactions = True  # the query now succeeded: a setting was in its way
            return row

    async def _ask(self, sql: str) -> Sequence[str | None]:
        """Run one query, or several in one message, and return the one row of the last."""
        raise NotImplementedError

    async def _ask_in_transaction(self, sql: str) -> Sequence[str | None]:
        """Run one query in a transaction that makes a probe's settings first."""
        return await self._ask(f"{BEGIN_PROBE}; {sql}")


def _may_be_for_settings(error: Exception) -> bool:
    """Tell whether a query may have failed because of a setting that the login did not override."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code in _FOR_SETTINGS


async def with_settings_if_taken(
    log_in: Callable[..., Awaitable[_T]], errors: type[Exception]
) -> tuple[_T, bool]:
    """Log in with hasql's settings; if those may be the reason for a refusal, without them.

    Poolers have codes and words of their own for that: "unsupported startup parameter" (PgBouncer),
    "currently doesn't support command-line options" (Amazon RDS Proxy).

    Args:
        log_in: Logs in; takes the keyword `with_settings`.
        errors: What `log_in` raises when the server refuses a login.

    Returns:
        What `log_in` returned, and whether the login named the settings.
    """
    try:
        return await log_in(with_settings=True), True
    except errors as error:
        if not is_about_settings(error):
            raise
    return await log_in(with_settings=False), False


def is_about_settings(error: Exception) -> bool:
    """Tell whether a login may have been refused because of settings that it named."""
    return _ABOUT_SETTINGS.search(str(error)) is not None


def session_options(options: str, *, with_settings: bool) -> str:
    """Return libpq's `options` for the session: the given ones, then hasql's settings if wanted."""
    return f"{options} {_AS_OPTIONS}".strip() if with_settings else options


def proxy_options(given: str) -> str:
    r"""Return those of the application's command-line options that are for a proxy.

    PostgreSQL itself takes only switches, such as ``-c search_path=app``. Others are for a proxy,
    which reads from them to which server to connect (``endpoint=name``, at Neon).
    """
    words = re.findall(r"(?:\\.|[^\s\\])+", given)
    return " ".join(
        word
        for before, word in pairwise(["", *words])
        if not word.startswith("-") and not re.fullmatch("-.", before)
    )
