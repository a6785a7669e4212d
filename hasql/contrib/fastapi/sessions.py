"""Sessions of SQLAlchemy's ORM for requests; imported only where somebody asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from hasql.asyncsqlalchemy import PoolManager, async_sessionmaker
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection

    from hasql.base import BasePoolManager

__all__ = ("close_session", "open_session", "short_session")


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
    # of the connection, also where the endpoint has used that directly before.
    return AsyncSession(connection, expire_on_commit=False, join_transaction_mode="control_fully")


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
