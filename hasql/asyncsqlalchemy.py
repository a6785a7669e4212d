"""The pool manager for SQLAlchemy's asyncio extension, over asyncpg or psycopg 3."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    import_module("greenlet")  # SQLAlchemy would miss it no sooner than at the first connect
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

    from hasql._adapters.sqlalchemy.driver import SqlalchemyDriver
    from hasql._adapters.sqlalchemy.task_session_maker import TaskSessionMaker
except ImportError as error:
    raise MissingExtraError(
        "hasql.asyncsqlalchemy needs SQLAlchemy 2 with greenlet: pip install 'hasql[sqlalchemy]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

    from hasql._adapters.sqlalchemy.sessions import Acquires, Route
    from hasql.cluster.dsn import Dsn
    from hasql.resilience.task_runs import TaskRuns

__all__ = ("PoolManager", "async_sessionmaker")

_S = TypeVar("_S", bound=AsyncSession)
_S2 = TypeVar("_S2", bound=AsyncSession)
_Lease: TypeAlias = "AbstractAsyncContextManager[AsyncConnection]"


class PoolManager(BasePoolManager[AsyncEngine, AsyncConnection]):
    """Hands out SQLAlchemy's asyncio connections, as `AsyncEngine.connect` does.

    The DSN says what is used beneath: ``postgresql+asyncpg://``, which ``postgresql://`` stands
    for as well, or ``postgresql+psycopg://``. `pool_factory_kwargs` are those of
    `create_async_engine`; `pool_size` + `max_overflow` connections are lent on a host at most.
    What was not committed is rolled back when the connection is given back.

    A connection that was lost is not replaced within its lease, as SQLAlchemy would do: the host
    may not be what was asked for any more.
    """

    _plus_is_space = True

    @property
    def runs(self) -> TaskRuns[AsyncEngine, AsyncConnection]:
        """What does units of work, for session makers."""
        return self._runs

    def _driver_of(self, dsn: Dsn) -> SqlalchemyDriver:
        return SqlalchemyDriver(dsn)


class async_sessionmaker(TaskSessionMaker[_S], Generic[_S]):  # noqa: N801  # the name of SQLAlchemy's own
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

    With ``route="auto"`` a session has a connection from its first statement to the end of the
    transaction: a replica's until it writes, or does what is no read for certain, and then the
    master's. See `docs/howto/routing-sessions`.

    Args:
        pool_manager: Where connections come from.
        class_: The class of the sessions.
        route: ``"explicit"``: `read_only` says where a session is. ``"auto"``: its statements do,
            unless `read_only` is given.
        read_functions: Functions that only read, by name, which SQLAlchemy does not know.
        kwargs: For each session, as SQLAlchemy's `AsyncSession` takes them; not `bind` or `binds`.

    Raises:
        ConfigurationError: `bind` or `binds` was given.
    """

    @overload
    def __init__(
        self: async_sessionmaker[_S2],
        pool_manager: Acquires[_Lease],
        *,
        class_: type[_S2],
        route: Route = ...,
        read_functions: Iterable[str] = ...,
        **kwargs: Any,  # noqa: ANN401  # the session's own
    ) -> None: ...

    @overload
    def __init__(
        self: async_sessionmaker[AsyncSession],
        pool_manager: Acquires[_Lease],
        *,
        route: Route = ...,
        read_functions: Iterable[str] = ...,
        **kwargs: Any,  # noqa: ANN401  # the session's own
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
