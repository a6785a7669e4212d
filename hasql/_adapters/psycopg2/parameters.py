"""The parameters of psycopg2's libpq."""

from __future__ import annotations

from functools import cache

import psycopg2
from psycopg2 import extensions

__all__ = ("OF_LIBPQ", "is_of_libpq")

OF_LIBPQ = frozenset(
    {
        "application_name",
        "client_encoding",
        "database",
        "dbname",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "options",
        "passfile",
        "password",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "tcp_user_timeout",
        "user",
    }
)
"""The parameters that are used most, for "did you mean" hints."""


@cache
def is_of_libpq(name: str) -> bool:
    """Tell whether this libpq has a parameter of that name, by asking libpq itself."""
    try:
        extensions.make_dsn(**{name: "0"})
    except (TypeError, psycopg2.ProgrammingError):
        return False
    return True
