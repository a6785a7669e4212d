"""The pool manager for SQLAlchemy's asyncio extension, over asyncpg or psycopg 3."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    import_module("greenlet")  # without it SQLAlchemy would fail only at the first connect
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

    The DSN selects the driver: ``postgresql+asyncpg://``, which is also what ``postgresql://``
    means, or ``postgresql+psycopg://``. `pool_factory_kwargs` takes the arguments of
    `create_async_engine`. At most `pool_size` + `max_overflow` connections are lent on each host.
    Whatever was not committed is rolled back when the connection is given back.

    A connection that is lost is not replaced within its lease, as SQLAlchemy would do: the host
    may no longer have the role that was asked for.
    """

    _plus_is_space = True

    @property
    def runs(self) -> TaskRuns[AsyncEngine, AsyncConnection]:
        """The part that runs units of work; session makers use it."""
        return self._runs

    def _driver_of(self, dsn: Dsn) -> SqlalchemyDriver:
        return SqlalchemyDriver(dsn)


class async_sessionmaker(TaskSessionMaker[_S], Generic[_S]):  # noqa: N801  # the name of SQLAlchemy's own
    """Makes sessions; each keeps one connection of a pool manager from its beginning to its end.

    It works like SQLAlchemy's class of this name, except that a session can only be used with
    ``async with``, because that is where its connection is acquired and given back::

        Session = async_sessionmaker(pool_manager, expire_on_commit=False)

        async with Session() as session:  # on the master
            session.add(user)
            await session.commit()

        async with Session.begin() as session:  # the same, and commits at the end
            session.add(user)

        async with Session(read_only=True) as session:  # on a replica
            users = await session.scalars(select(User))

    Whatever is not committed at the end of the block is rolled back.

    With ``route="auto"`` a session has a connection from its first statement to the end of the
    transaction. It uses a replica until a statement writes, or is not certain to be a read, and
    the master from then on. See `docs/howto/routing-sessions`.

    Args:
        pool_manager: Where connections come from.
        class_: The class of the sessions.
        route: ``"explicit"``: `read_only` decides where a session works. ``"auto"``: its
            statements decide, unless `read_only` is given.
        read_functions: Names of functions that only read but that SQLAlchemy does not know.
        kwargs: Arguments for each session, as SQLAlchemy's `AsyncSession` takes them, without
            `bind` and `binds`.

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
