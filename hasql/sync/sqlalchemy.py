"""The pool manager for SQLAlchemy in threads, over psycopg 3 or psycopg2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

from hasql.errors import MissingExtraError
from hasql.sync.base import BaseSyncPoolManager

try:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session

    from hasql._adapters.sqlalchemy.thread_driver import SqlalchemyThreadDriver
    from hasql._adapters.sqlalchemy.thread_session_maker import ThreadSessionMaker
except ImportError as error:
    raise MissingExtraError(
        "hasql.sync.sqlalchemy needs SQLAlchemy 2: pip install 'hasql[sqlalchemy]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from hasql._adapters.sqlalchemy.sessions import Acquires, Route
    from hasql.cluster.dsn import Dsn
    from hasql.resilience.thread_runs import ThreadRuns

__all__ = ("PoolManager", "sessionmaker")

_S = TypeVar("_S", bound=Session)
_S2 = TypeVar("_S2", bound=Session)
_Lease: TypeAlias = "AbstractContextManager[Connection]"


class PoolManager(BaseSyncPoolManager[Engine, Connection]):
    """Hands out SQLAlchemy's connections, as `Engine.connect` does.

    The DSN selects the driver: ``postgresql+psycopg://``, which is also what ``postgresql://``
    means, or ``postgresql+psycopg2://``. `pool_factory_kwargs` takes the arguments of
    `create_engine`. At most `pool_size` + `max_overflow` connections are lent on each host.
    Whatever was not committed is rolled back when the connection is given back.

    A connection that is lost is not replaced within its lease, as SQLAlchemy would do: the host
    may no longer have the role that was asked for.
    """

    _plus_is_space = True

    @property
    def runs(self) -> ThreadRuns[Engine, Connection]:
        """The part that runs units of work; session makers use it."""
        return self._runs

    def _driver_of(self, dsn: Dsn) -> SqlalchemyThreadDriver:
        return SqlalchemyThreadDriver(dsn)


class sessionmaker(ThreadSessionMaker[_S], Generic[_S]):  # noqa: N801  # the name of SQLAlchemy's own
    """Makes sessions; each keeps one connection of a pool manager from its beginning to its end.

    It works like SQLAlchemy's class of this name, except that a session can only be used with
    ``with``, because that is where its connection is acquired and given back::

        Session = sessionmaker(pool_manager, expire_on_commit=False)

        with Session() as session:  # on the master
            session.add(user)
            session.commit()

        with Session.begin() as session:  # the same, and commits at the end
            session.add(user)

        with Session(read_only=True) as session:  # on a replica
            users = session.scalars(select(User))

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
        kwargs: Arguments for each session, as SQLAlchemy's `Session` takes them, without `bind`
            and `binds`.

    Raises:
        ConfigurationError: `bind` or `binds` was given.
    """

    @overload
    def __init__(
        self: sessionmaker[_S2],
        pool_manager: Acquires[_Lease],
        *,
        class_: type[_S2],
        route: Route = ...,
        read_functions: Iterable[str] = ...,
        **kwargs: Any,  # noqa: ANN401  # the session's own
    ) -> None: ...

    @overload
    def __init__(
        self: sessionmaker[Session],
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
        class_: type[Any] = Session,
        route: Route = "explicit",
        read_functions: Iterable[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_manager, class_, route, read_functions, kwargs)
