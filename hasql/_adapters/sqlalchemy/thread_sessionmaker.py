"""Sessions of SQLAlchemy's ORM for threads, each on a lease."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

from sqlalchemy.orm import Session

from hasql._adapters.sqlalchemy.routed_session import routed
from hasql._adapters.sqlalchemy.sessions import Acquires, Route, SessionMaker
from hasql._adapters.sqlalchemy.thread_session_run import ThreadLeases, ThreadSessionRun
from hasql.resilience.run_options import run_options
from hasql.resilience.runs import no_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

    from hasql._adapters.sqlalchemy.session_route import SessionRoute
    from hasql.resilience import RetryPolicy

__all__ = ("sessionmaker",)

_S = TypeVar("_S", bound=Session)
_Lease: TypeAlias = "AbstractContextManager[Connection]"
_S2 = TypeVar("_S2", bound=Session)
_T = TypeVar("_T")


class sessionmaker(  # noqa: N801  # the name of SQLAlchemy's own
    SessionMaker["_Lease", "AbstractContextManager[_S]"], Generic[_S]
):
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

    _leases = ThreadLeases()

    @overload
    def __init__(
        self: sessionmaker[_S2],
        pool_manager: Acquires[_Lease],
        *,
        class_: type[_S2],
        route: Route = ...,
        read_functions: Iterable[str] = ...,
        **kwargs: Any,
    ) -> None: ...

    @overload
    def __init__(
        self: sessionmaker[Session],
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
        class_: type[Any] = Session,
        route: Route = "explicit",
        read_functions: Iterable[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_manager, class_, route, read_functions, kwargs)

    def _routed_class(self, kwargs: dict[str, Any]) -> type[Any]:
        del kwargs
        class_: Any = self._class  # which mypy takes for no Hashable
        return routed(class_)

    def run(  # noqa: PLR0913  # as the pool manager's
        self,
        work: Callable[[_S], _T],
        *,
        read_only: bool | None = None,
        idempotent: bool = False,
        retry: RetryPolicy | None = None,
        isolation: str | None = None,
        resolve_commits: bool = True,
    ) -> _T:
        """Do work in a session, and do it again where that is safe.

        `work` is a function that takes a session; see `hasql.asyncsqlalchemy.async_sessionmaker`'s.
        """
        if not callable(work):
            raise no_work(work, "a session")
        options = run_options(bool(read_only), idempotent, retry, isolation, resolve_commits)
        plan = self._plan_run(read_only, isolation)
        run = ThreadSessionRun(work, self._class, plan)
        try:
            result: _T = self._manager.runs.run(run.attempt, options, plan.acquire, on_attempt=True)
        except BaseException:
            run.close()
            raise
        run.finish()
        return result

    @contextmanager
    def _session(
        self,
        lease: _Lease,
        kwargs: dict[str, Any],
        *,
        commit: bool,
    ) -> Iterator[_S]:
        session: _S | None = None
        try:
            with lease as connection:
                session = self._class(bind=connection, **kwargs)
                transaction = session.begin().__enter__() if commit else None
                yield session
                if transaction is not None:
                    transaction.__exit__(None, None, None)
        finally:
            # Giving the connection back has ended its transaction, so this needs no server.
            if session is not None:
                session.close()

    @contextmanager
    def _routed_session(
        self, made: type[Any], route: SessionRoute, kwargs: dict[str, Any], *, commit: bool
    ) -> Iterator[_S]:
        session: Any = made(**kwargs)
        session.hasql_route = route
        try:
            transaction = session.begin().__enter__() if commit else None
            yield session
            if transaction is not None:
                transaction.__exit__(None, None, None)
        finally:
            try:
                lease = route.end()
                if lease is not None:
                    lease.__exit__(*sys.exc_info())
            finally:  # as above
                session.close()
