"""The session of a reserved connection: what it is set to, however its driver is told.

From the application it has address, login and TLS, and nothing else. What the role or the database
are set to reaches every session, so that hasql sets what could end a probe, or the session itself.
Most is said when logging in. Poolers refuse that or, worse, ignore it, and a SET would reach
whoever is lent the server's session next: there, and where the application logs in in its own way,
the settings are those of a transaction alone, that of the probe.
"""

import re
from itertools import pairwise
from types import MappingProxyType
from typing import Final

__all__ = ("SETTINGS", "TRANSACTION", "is_kept_from_us", "login_words", "options", "refuses")

SETTINGS: Final = MappingProxyType(
    {
        # On a standby a serializable transaction is an error, or waits for a safe snapshot.
        "default_transaction_isolation": "read committed",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",  # known since PostgreSQL 14
        "search_path": "pg_catalog",
        # Where the limits above which it compiles are set low, that would take most of a probe.
        "jit": "off",
        # psycopg2 would have it so by a SET of its own.
        "datestyle": "ISO",
    }
)
"""What a reserved session is set to when it logs in, if that is taken.

All servers from PostgreSQL 14 on know these; `transaction_timeout`, of 17, is not among them. Other
settings cannot come between a probe and its answer: it writes nothing, its names are qualified,
and its values look the same in any style of dates, intervals and numbers.
"""

TRANSACTION: Final = (
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; "
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY; "
    "SET LOCAL idle_in_transaction_session_timeout = 0; "
    "SET LOCAL search_path = pg_catalog; SET LOCAL jit = off"
)
"""What begins a transaction in which a probe can be asked in whatever session.

In one message with the probe no BEGIN is needed: statements that are sent together are one
transaction, which ends with the message, also when one of them fails.
https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT
"""

_AS_OPTIONS: Final = " ".join(
    "-c {}={}".format(name, value.replace(" ", "\\ ")) for name, value in SETTINGS.items()
)
#: Serializable on a standby; cancelled by a time limit; given up while waiting for a lock.
_FOR_SETTINGS: Final = frozenset({"0A000", "57014", "55P03"})
_ABOUT_SETTINGS: Final = re.compile("parameter|option", re.IGNORECASE)


def refuses(error: Exception) -> bool:
    """Tell whether a login may have failed for its settings, so that one without is worth a try.

    Poolers have codes and words of their own: "unsupported startup parameter" (PgBouncer),
    "currently doesn't support command-line options" (Amazon RDS Proxy).
    """
    return _ABOUT_SETTINGS.search(str(error)) is not None


def is_kept_from_us(error: Exception) -> bool:
    """Tell whether a statement may have failed for a setting that hasql's login did not change."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code in _FOR_SETTINGS


def options(words: str, *, with_settings: bool) -> str:
    """Return what libpq is to send as command-line options of the session; `words` come first."""
    return f"{words} {_AS_OPTIONS}".strip() if with_settings else words


def login_words(given: str) -> str:
    r"""Return what is part of a login in command-line options that the application has given.

    PostgreSQL knows but switches, such as ``-c search_path=app``. Other words are for a proxy that
    reads there which server is meant (``endpoint=name``, at Neon).
    """
    words = re.findall(r"(?:\\.|[^\s\\])+", given)
    return " ".join(
        word
        for before, word in pairwise(["", *words])
        if not word.startswith("-") and not re.fullmatch("-.", before)
    )
