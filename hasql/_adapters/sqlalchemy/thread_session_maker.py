"""Sessions of SQLAlchemy's ORM for threads, each on a lease."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from sqlalchemy.orm import Session

from hasql._adapters.sqlalchemy.replica_binds import LeasedTransaction, lend
from hasql._adapters.sqlalchemy.routed_session import routed
from hasql._adapters.sqlalchemy.sessions import SessionMaker
from hasql._adapters.sqlalchemy.thread_session_run import ThreadLeases, ThreadSessionRun
from hasql.resilience.run_options import run_options
from hasql.resilience.runs import no_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

    from hasql._adapters.sqlalchemy.session_route import SessionRoute
    from hasql.resilience import RetryPolicy

__all__ = ("ThreadSessionMaker",)

_S = TypeVar("_S", bound=Session)
_Lease: TypeAlias = "AbstractContextManager[Connection]"
_T = TypeVar("_T")


class ThreadSessionMaker(SessionMaker["_Lease", "AbstractContextManager[_S]"], Generic[_S]):
    """Makes the sessions of threads."""

    _leases = ThreadLeases()

    def _routed_class(self, kwargs: dict[str, Any]) -> type[Any]:
        del kwargs
        class_: Any = self._class  # which mypy does not take for a Hashable
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

        `work` is a function that takes a session. For all else see the `run` of
        `hasql.asyncsqlalchemy.async_sessionmaker`.
        """
        if not callable(work):
            raise no_work(work, "a session")
        options = run_options(bool(read_only), idempotent, retry, isolation, resolve_commits)
        plan = self._plan_run(read_only, isolation)
        run = ThreadSessionRun(work, self._class, plan)
        try:
            result: _T = self._manager.runs.run(run.attempt, options, plan.acquire, on_attempt=True)
        except BaseException:
            run.give_up()
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
        leased = True
        try:
            with lease as connection:
                lend(connection, partial(LeasedTransaction, is_leased=lambda: leased))
                session = self._class(bind=connection, **kwargs)
                transaction = session.begin().__enter__() if commit else None
                yield session
                if transaction is not None:
                    transaction.__exit__(None, None, None)
                    commit = False
        finally:
            leased = False
            if session is not None:
                _close(session, rolled_back=commit)

    @contextmanager
    def _routed_session(
        self, routed_class: type[Any], route: SessionRoute, kwargs: dict[str, Any], *, commit: bool
    ) -> Iterator[_S]:
        session: Any = routed_class(**kwargs)
        session.hasql_route = route
        try:
            transaction = session.begin().__enter__() if commit else None
            yield session
            if transaction is not None:
                transaction.__exit__(None, None, None)
                commit = False
        finally:
            try:
                lease = route.end()
                if lease is not None:
                    lease.__exit__(*sys.exc_info())
            finally:
                _close(session, rolled_back=commit)


def _close(session: Session, *, rolled_back: bool) -> None:
    """Close a session whose lease, and with it the transaction, has ended. This needs no server.

    `rolled_back`: an exception has left a block that would have committed. Then objects that were
    added are new again, as after SQLAlchemy's own block, and may be added to another session.
    """
    try:
        if rolled_back:
            session.rollback()
    finally:
        session.close()
