"""Sessions of SQLAlchemy's ORM, each on a lease."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast, overload

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_only

from hasql._adapters.sqlalchemy.routed_session import routed
from hasql._adapters.sqlalchemy.sessions import Acquires, Route, SessionMaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from hasql._adapters.sqlalchemy.session_route import SessionRoute

__all__ = ("async_sessionmaker",)

_S = TypeVar("_S", bound=AsyncSession)
_Lease: TypeAlias = "AbstractAsyncContextManager[AsyncConnection]"
_S2 = TypeVar("_S2", bound=AsyncSession)


class _TaskLeases:
    """Acquires and gives back in the greenlet that SQLAlchemy runs a session's method in."""

    def acquire(self, lease: _Lease) -> Connection:
        connection: AsyncConnection = await_only(lease.__aenter__())
        return cast("Connection", connection.sync_connection)

    def give_back(self, lease: _Lease) -> None:
        await_only(lease.__aexit__(None, None, None))


class async_sessionmaker(  # noqa: N801  # the name of SQLAlchemy's own
    SessionMaker["_Lease", "AbstractAsyncContextManager[_S]"], Generic[_S]
):
    """Makes sessions, each of which has one connection of a pool manager's from begin to end.

    Like SQLAlchemy's own of this name, but the sessions are for ``async with`` alone, as that is
    where a connection is acquired and given back::

        Session = async_sessionmaker(pool_manager, expire_on_commit=False)

        async with Session() as session:  # on the master
            session.add(user)
            await session.commit()

        async with Session.begin() as session:  # the same, and commits at the end
            session.add(user)

        async with Session(read_only=True) as session:  # on a replica
            users = await session.scalars(select(User))

    What is not committed at the end of the block is rolled back.

    Args:
        pool_manager: Where connections come from.
        class_: The class of the sessions.
        kwargs: For each session, as SQLAlchemy's `AsyncSession` takes them; not `bind` or `binds`.

    Raises:
        ConfigurationError: `bind` or `binds` was given.
    """

    _leases = _TaskLeases()

    @overload
    def __init__(
        self: async_sessionmaker[_S2],
        pool_manager: Acquires[_Lease],
        *,
        class_: type[_S2],
        route: Route = ...,
        read_functions: Iterable[str] = ...,
        **kwargs: Any,
    ) -> None: ...

    @overload
    def __init__(
        self: async_sessionmaker[AsyncSession],
        pool_manager: Acquires[_Lease],
        *,
        route: Route = ...,
        read_functions: Iterable[str] = ...,
        **kwargs: Any,
    ) -> None: ...

    def __init__(
        self,
        pool_manager: Acquires[_Lease],
        *,
        class_: type[Any] = AsyncSession,
        route: Route = "explicit",
        read_functions: Iterable[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_manager, class_, route, read_functions, kwargs)

    def _routed_class(self, kwargs: dict[str, Any]) -> type[Any]:
        return routed(kwargs.get("sync_session_class") or self._class.sync_session_class)

    @asynccontextmanager
    async def _session(
        self,
        lease: _Lease,
        kwargs: dict[str, Any],
        *,
        commit: bool,
    ) -> AsyncIterator[_S]:
        session: _S | None = None
        try:
            async with lease as connection:
                session = self._class(bind=connection, **kwargs)
                transaction = await session.begin().__aenter__() if commit else None
                yield session
                if transaction is not None:
                    await transaction.__aexit__(None, None, None)
        finally:
            # Giving the connection back has ended its transaction, so that closing the session
            # needs no server. But if that was cancelled, another task may still be giving it back,
            # and uses the connection.
            if session is not None and getattr(lease, "detached", False):
                session.expunge_all()
            elif session is not None:
                await session.close()

    @asynccontextmanager
    async def _routed_session(
        self, made: type[Any], route: SessionRoute, kwargs: dict[str, Any], *, commit: bool
    ) -> AsyncIterator[_S]:
        session: _S = self._class(**{**kwargs, "sync_session_class": made})
        session.sync_session.hasql_route = route  # type: ignore[attr-defined]  # as made
        lease: Any = None
        try:
            transaction = await session.begin().__aenter__() if commit else None
            yield session
            if transaction is not None:
                await transaction.__aexit__(None, None, None)
        finally:
            try:
                lease = route.end()
                if lease is not None:
                    await lease.__aexit__(*sys.exc_info())
            finally:  # as above
                if getattr(lease, "detached", False):
                    session.expunge_all()
                else:
                    await session.close()
