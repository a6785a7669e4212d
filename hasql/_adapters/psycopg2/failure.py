"""What an error of psycopg2 tells about the server."""

from __future__ import annotations

import psycopg2

from hasql._adapters.libpq import code_of_limit, failure_to_connect
from hasql.driver import Failure

__all__ = ("failure_of", "sqlstate_of")


def failure_of(error: BaseException) -> Failure:
    """Say what an exception tells about the server."""
    if not isinstance(error, psycopg2.Error):
        return Failure.of_exception(error)
    message = str(error)
    if code := sqlstate_of(error):
        return Failure.of_sqlstate(code, message)
    if isinstance(error, psycopg2.OperationalError):
        return failure_to_connect(message)
    if isinstance(error, psycopg2.InterfaceError):
        return Failure.BROKEN if "connection" in message else Failure.OTHER
    if type(error) is psycopg2.DatabaseError:
        return Failure.BROKEN  # libpq got no answer that says more
    # It may be about a connection option that libpq does not know.
    wrong = failure_to_connect(message) is Failure.MISCONFIGURED
    return Failure.MISCONFIGURED if wrong else Failure.OTHER


def sqlstate_of(error: BaseException) -> str | None:
    """Return the server's SQLSTATE; empty: an error of psycopg2's own; None: no error of psycopg2.

    If libpq reads that the session has ended while psycopg2 polls, the error has only the server's
    words, without a code.
    """
    if not isinstance(error, psycopg2.Error):
        return None
    return error.pgcode or code_of_limit(str(error))
