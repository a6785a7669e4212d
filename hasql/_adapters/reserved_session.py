"""The session of a reserved connection: what it is set to, however its driver is told.

A reserved session takes from the application the address, the login and TLS, and nothing else. The
settings of the role and of the database reach every session, so hasql overrides those that could
end a probe, or the session itself. It names most of its settings when it logs in. A pooler refuses
that or, worse, ignores it, and a SET would reach whoever gets the server's session next. There,
and where the application logs in by a function of its own, the settings are those of one
transaction: the probe's.
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
    "login_words",
    "session_options",
    "with_settings_if_taken",
)

_T = TypeVar("_T")

SETTINGS: Final = MappingProxyType(
    {
        # On a standby a serializable transaction is an error, or waits for a safe snapshot.
        "default_transaction_isolation": "read committed",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",  # known since PostgreSQL 14
        "search_path": "pg_catalog",
        # Where the cost above which the server compiles a query is set low, compiling would take
        # most of a probe's time.
        "jit": "off",
        # Else psycopg2 sets it by a SET of its own.
        "datestyle": "ISO",
    }
)
"""What a reserved session is set to when it logs in, unless the login refuses that.

All servers from PostgreSQL 14 on know these. Those before 17 would refuse a login that names
`transaction_timeout`: where that has ended a session, probes bring their settings themselves. No
other setting can affect a probe: it writes nothing, its names are qualified, and its values look
the same in any style of dates, intervals and numbers.
"""

BEGIN_PROBE: Final = (
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; "
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY; "
    "SET LOCAL idle_in_transaction_session_timeout = 0; "
    "SET LOCAL search_path = pg_catalog; SET LOCAL jit = off; "
    # Known since PostgreSQL 17. Last, as compiling this query would take longer than it may.
    "SELECT set_config('transaction_timeout', '0', true)"
    " WHERE current_setting('transaction_timeout', true) IS NOT NULL"
)
"""The statements with which a transaction begins, so that a probe can run in any session.

A message that holds these and the probe needs no BEGIN: statements that are sent in one message are
one transaction, which ends with the message, also when one of the statements fails.
https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT
"""

_AS_OPTIONS: Final = " ".join(
    "-c {}={}".format(name, value.replace(" ", "\\ ")) for name, value in SETTINGS.items()
)
#: Serializable on a standby; cancelled by a time limit; given up while waiting for a lock.
_FOR_SETTINGS: Final = frozenset({"0A000", "57014", "55P03"})
_ABOUT_SETTINGS: Final = re.compile("parameter|option", re.IGNORECASE)


class ReservedSession(Session):
    """What the sessions of all drivers have in common: when a probe needs its own settings."""

    def __init__(self, address: str | None, *, in_transactions: bool = False) -> None:
        self.address = address
        self._in_transactions = in_transactions

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        return await self._run(sql, self._ask)

    def bring_settings(self) -> None:
        self._in_transactions = True

    async def _run(
        self, sql: str, ask: Callable[[str], Awaitable[_T]]
    ) -> _T | Sequence[str | None]:
        """Run one query by `ask`, or where a setting is in its way in a transaction, as a row."""
        if self._in_transactions:
            return await self._ask_in_transaction(sql)
        try:
            return await ask(sql)
        except Exception as error:
            if self.closed or not _may_be_for_settings(error):
                raise
            row = await self._ask_in_transaction(sql)
            self._in_transactions = True  # as a setting was what the query failed for
            return row

    async def _ask(self, sql: str) -> Sequence[str | None]:
        """Run one query, or several in one message, and return the one row of the last."""
        raise NotImplementedError

    async def _ask_in_transaction(self, sql: str) -> Sequence[str | None]:
        """Run one query in a transaction that has the settings of a probe."""
        return await self._ask(f"{BEGIN_PROBE}; {sql}")


def _may_be_for_settings(error: Exception) -> bool:
    """Tell whether a query may have failed for a setting that hasql's login did not override."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code in _FOR_SETTINGS


async def with_settings_if_taken(
    log_in: Callable[..., Awaitable[_T]], errors: type[Exception]
) -> tuple[_T, bool]:
    """Log in with hasql's settings, and if those may be what is refused, log in without them.

    Poolers have codes and words of their own for that: "unsupported startup parameter" (PgBouncer),
    "currently doesn't support command-line options" (Amazon RDS Proxy).

    Args:
        log_in: Logs in; takes the keyword `with_settings`.
        errors: What it raises when the server refuses a login.

    Returns:
        What `log_in` returned, and whether that was with the settings.
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


def session_options(words: str, *, with_settings: bool) -> str:
    """Return what libpq sends as command-line options of the session; `words` come first."""
    return f"{words} {_AS_OPTIONS}".strip() if with_settings else words


def login_words(given: str) -> str:
    r"""Return the words that are part of a login, of the application's command-line options.

    PostgreSQL itself takes switches alone, such as ``-c search_path=app``. Other words are for a
    proxy, which reads there to which server it is to connect (``endpoint=name``, at Neon).
    """
    words = re.findall(r"(?:\\.|[^\s\\])+", given)
    return " ".join(
        word
        for before, word in pairwise(["", *words])
        if not word.startswith("-") and not re.fullmatch("-.", before)
    )
