"""The pool manager of threads for SQLAlchemy, over psycopg 3 or psycopg2."""

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

    The DSN says what is used beneath: ``postgresql+psycopg://``, which ``postgresql://`` stands for
    as well, or ``postgresql+psycopg2://``. `pool_factory_kwargs` are those of `create_engine`;
    `pool_size` + `max_overflow` connections are lent on a host at most. What was not committed is
    rolled back when the connection is given back.

    A connection that was lost is not replaced within its lease, as SQLAlchemy would do: the host
    may not be what was asked for any more.
    """

    _plus_is_space = True

    @property
    def runs(self) -> ThreadRuns[Engine, Connection]:
        """What does units of work, for session makers."""
        return self._runs

    def _driver_of(self, dsn: Dsn) -> SqlalchemyThreadDriver:
        return SqlalchemyThreadDriver(dsn)


class sessionmaker(ThreadSessionMaker[_S], Generic[_S]):  # noqa: N801  # the name of SQLAlchemy's own
    """Makes sessions, each of which has one connection of a pool manager's from begin to end.

    Like SQLAlchemy's own of this name, but the sessions are for ``with`` alone, as that is
    where a connection is acquired and given back::

        Session = sessionmaker(pool_manager, expire_on_commit=False)

        with Session() as session:  # on the master
            session.add(user)
            session.commit()

        with Session.begin() as session:  # the same, and commits at the end
            session.add(user)

        with Session(read_only=True) as session:  # on a replica
            users = session.scalars(select(User))

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
        kwargs: For each session, as SQLAlchemy's `Session` takes them; not `bind` or `binds`.

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
