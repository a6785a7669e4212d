"""Finds transactions that are still open when a response begins, and so would not be committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ("is_begun", "open_transaction_error", "refuse_commits")

_IDLE: Final = 0
"""The state of a connection without a transaction, as libpq numbers them."""


def is_begun(connection: Any, session: AsyncSession | None) -> bool:
    """Tell whether the application has begun a transaction and not ended it.

    A transaction that a driver or a session begins by itself does not count. Those of psycopg do
    not count either: they are committed when the lease ends, and within ``conn.transaction()``
    psycopg itself refuses that commit.
    """
    if hasattr(connection, "sync_connection"):  # SQLAlchemy's
        from hasql.contrib.fastapi.sessions import is_begun_on

        return is_begun_on(connection, session)
    if hasattr(connection, "is_in_transaction"):  # asyncpg's
        try:
            return not connection.is_closed() and bool(connection.is_in_transaction())
        except Exception:  # noqa: BLE001  # asyncpg raises if the application has given it back
            return False
    inner = getattr(connection, "connection", connection)  # aiopg's; aiopg.sa's wraps one
    raw = getattr(inner, "raw", None)
    return raw is not None and not raw.closed and raw.info.transaction_status != _IDLE


def refuse_commits(connection: Any) -> None:
    """Make commits raise on a connection that was given back, if its driver would ignore them."""
    if hasattr(connection, "sync_connection"):  # SQLAlchemy's
        from hasql.contrib.fastapi.sessions import refuse_commits_on

        refuse_commits_on(connection)


def open_transaction_error() -> ConfigurationError:
    """Make the error for a request whose transaction is still open when its response begins."""
    return ConfigurationError(
        "a transaction that was begun in this request is still open when the response begins, "
        "which is when its connection is given back: none of it would be committed. A dependency "
        "that commits after its yield, as `async with conn.transaction(): yield conn` does, "
        'needs Depends(..., scope="function")'
    )
