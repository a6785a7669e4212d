"""What an exception of psycopg 3 or its libpq tells about the server."""

from __future__ import annotations

import psycopg

from hasql._adapters.libpq import failure_to_connect
from hasql.driver import Failure

__all__ = ("failure_of", "sqlstate_of")


def failure_of(error: BaseException) -> Failure:
    """Say what an exception tells about the server."""
    if not isinstance(error, psycopg.Error):
        return Failure.of_exception(error)
    if error.sqlstate is not None:
        return Failure.of_sqlstate(error.sqlstate, str(error))
    if isinstance(error, psycopg.OperationalError):
        return failure_to_connect(str(error))
    # psycopg or libpq may have found something wrong with a DSN.
    wrong = isinstance(error, psycopg.ProgrammingError) and failure_to_connect(str(error))
    return Failure.MISCONFIGURED if wrong is Failure.MISCONFIGURED else Failure.OTHER


def sqlstate_of(error: BaseException) -> str | None:
    """Return the server's SQLSTATE; empty: an error of psycopg's own; None: no error of psycopg."""
    return error.sqlstate or "" if isinstance(error, psycopg.Error) else None
