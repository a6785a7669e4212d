"""Sessions of SQLAlchemy's ORM for requests; imported only when a session is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy.exc import ResourceClosedError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import SessionTransactionOrigin

from hasql.asyncsqlalchemy import PoolManager, async_sessionmaker
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from hasql.base import BasePoolManager

__all__ = ("close_session", "is_begun_on", "open_session", "refuse_commits_on", "short_session")


def short_session(
    pool: BasePoolManager[Any, Any], *, read_only: bool, timeout: float | None
) -> AbstractAsyncContextManager[AsyncSession]:
    """Make a session that holds its own connection until its block ends.

    Raises ConfigurationError if the connections are not SQLAlchemy's.
    """
    make = async_sessionmaker(_checked(pool), expire_on_commit=False)
    return make(read_only, timeout=timeout)


def open_session(pool: BasePoolManager[Any, Any], connection: AsyncConnection) -> AsyncSession:
    """Open a session on a connection that its request holds.

    Raises ConfigurationError if the connections are not SQLAlchemy's.
    """
    _checked(pool)
    # expire_on_commit: objects that the endpoint has committed are read again when the response is
    # made from them. If they had expired, they would be loaded then, outside of SQLAlchemy's
    # coroutines, which fails.
    # join_transaction_mode: commit and rollback of the session are those of the connection, even if
    # the endpoint has used the connection directly before.
    # close_resets_only: a closed session raises on commit. Otherwise a dependency that commits
    # after the response would believe that it had committed.
    return AsyncSession(
        connection,
        expire_on_commit=False,
        join_transaction_mode="control_fully",
        close_resets_only=False,
    )


def is_begun_on(connection: AsyncConnection, session: AsyncSession | None) -> bool:
    """Tell whether a transaction was begun by ``begin()``, rather than by the first statement."""
    transaction = None if session is None else session.sync_session.get_transaction()
    if transaction is not None and transaction.origin is SessionTransactionOrigin.BEGIN:
        return True
    # SQLAlchemy itself uses this attribute within `async with connection.begin()`. Nothing else
    # tells who has begun the transaction.
    return getattr(connection.sync_connection, "_trans_context_manager", None) is not None


class _GivenBackConnection(AsyncConnection):
    """The class of a request's connection after it was given back: it refuses to commit."""

    __slots__ = ()

    async def commit(self) -> NoReturn:
        raise ResourceClosedError(
            "the connection was given back before the response began, and what had not been "
            "committed by then was rolled back: a dependency that commits after its yield needs "
            'Depends(..., scope="function")'
        )


def refuse_commits_on(connection: AsyncConnection) -> None:
    """Make commits raise from now on: SQLAlchemy ignores them on a closed connection."""
    if type(connection) is AsyncConnection:
        connection.__class__ = _GivenBackConnection


async def close_session(session: AsyncSession, lease: object) -> None:
    """Close a session whose connection has been given back; this no longer needs the server."""
    if getattr(lease, "detached", False):
        session.expunge_all()  # another task still uses the connection, to give it back
    else:
        await session.close()


def _checked(pool: BasePoolManager[Any, Any]) -> PoolManager:
    if isinstance(pool, PoolManager):
        return pool
    kind = f"{type(pool).__module__}.{type(pool).__qualname__}"
    raise ConfigurationError(f"sessions need a PoolManager of hasql.asyncsqlalchemy, not a {kind}")
