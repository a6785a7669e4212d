"""Sessions of SQLAlchemy's ORM for requests; imported only where somebody asks for one."""

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
    """Make a session that has a connection of its own for as long as its block.

    Raises ConfigurationError if the connections are not SQLAlchemy's.
    """
    make = async_sessionmaker(_checked(pool), expire_on_commit=False)
    return make(read_only, timeout=timeout)


def open_session(pool: BasePoolManager[Any, Any], connection: AsyncConnection) -> AsyncSession:
    """Open a session on a connection that its request holds.

    Raises ConfigurationError if the connections are not SQLAlchemy's.
    """
    _checked(pool)
    # What the endpoint has committed is read once more when the response is made of it; expired, it
    # would be loaded then, in no coroutine of SQLAlchemy's. And its commit and rollback are those
    # of the connection, also where the endpoint has used that directly before. Closed, it raises
    # when it is told to commit: a dependency that does so after the response would believe it has.
    return AsyncSession(
        connection,
        expire_on_commit=False,
        join_transaction_mode="control_fully",
        close_resets_only=False,
    )


def is_begun_on(connection: AsyncConnection, session: AsyncSession | None) -> bool:
    """Tell whether a transaction was begun by ``begin()``, and not by the first statement."""
    transaction = None if session is None else session.sync_session.get_transaction()
    if transaction is not None and transaction.origin is SessionTransactionOrigin.BEGIN:
        return True
    # What SQLAlchemy itself looks at within `async with connection.begin()`. It says in no other
    # way who has begun.
    return getattr(connection.sync_connection, "_trans_context_manager", None) is not None


class _GivenBackConnection(AsyncConnection):
    """What a request's connection is when it has been given back: it commits nothing."""

    __slots__ = ()

    async def commit(self) -> NoReturn:
        raise ResourceClosedError(
            "the connection was given back before the response began, and what had not been "
            "committed by then was rolled back: a dependency that commits behind its yield needs "
            'Depends(..., scope="function")'
        )


def refuse_commits_on(connection: AsyncConnection) -> None:
    """Have a commit raise from now on, which SQLAlchemy passes over on a closed connection."""
    if type(connection) is AsyncConnection:
        connection.__class__ = _GivenBackConnection


async def close_session(session: AsyncSession, lease: object) -> None:
    """Close a session whose connection has been given back: that needs no server any more."""
    if getattr(lease, "detached", False):
        session.expunge_all()  # another task is still giving it back, and uses the connection
    else:
        await session.close()


def _checked(pool: BasePoolManager[Any, Any]) -> PoolManager:
    if isinstance(pool, PoolManager):
        return pool
    kind = f"{type(pool).__module__}.{type(pool).__qualname__}"
    raise ConfigurationError(
        f"sessions need a PoolManager of hasql.asyncsqlalchemy, and this is a {kind}"
    )
