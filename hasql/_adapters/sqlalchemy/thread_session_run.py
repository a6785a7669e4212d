"""A unit of work that a thread does in sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy.orm import Session

from hasql._adapters.sqlalchemy.replica_binds import SessionLeases
from hasql._adapters.sqlalchemy.session_runs import AttemptLeases, note_commit, prepare_commit

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from hasql._adapters.sqlalchemy.session_runs import RunPlan

__all__ = ("ThreadLeases", "ThreadSessionRun")

_S = TypeVar("_S", bound=Session)
_T = TypeVar("_T")


class ThreadLeases(SessionLeases):
    """Acquires and gives back in the thread that uses the session."""

    def acquire(self, lease: Any) -> Connection:
        connection: Connection = lease.__enter__()
        return connection

    def give_back(self, lease: Any) -> None:
        lease.__exit__(None, None, None)


class ThreadSessionRun(Generic[_S, _T]):
    """Does the work of one run, each attempt in a session of its own.

    Args:
        work: The work.
        class_: The class of the sessions.
        plan: Where the attempts go, and how their sessions are made.
    """

    def __init__(self, work: Callable[[_S], _T], class_: type[_S], plan: RunPlan) -> None:
        self._work = work
        self._class = class_
        self._plan = plan
        self._last: tuple[_S, AttemptLeases] | None = None

    def attempt(self, attempt: Any) -> _T:
        """Do the work once, and write all that is to be committed."""
        self.give_up()
        session, _ = self._last = self._open(attempt)
        try:
            result = self._work(session)
            prepare_commit(session)
        except BaseException:
            self.give_up()
            raise
        return result

    def _open(self, attempt: Any) -> tuple[_S, AttemptLeases]:
        plan = self._plan

        def connection() -> Connection:
            found: Connection = attempt.connection
            return found

        def exchange() -> None:
            attempt.exchange(plan.lease_master)

        leases = AttemptLeases(attempt, connection, exchange)
        session: _S
        if plan.routed_class is None:
            leases.bind()
            session = self._class(bind=attempt.connection, **plan.kwargs)
        else:
            session = plan.routed_class(**plan.kwargs)
            session.hasql_route = leases.route(plan.reads)  # type: ignore[attr-defined]  # as made
        return session, leases

    def give_up(self) -> None:
        """Close the last session, in which nothing was committed. This needs no server.

        Objects that the work has added are new again for the next attempt: they may be the
        caller's.
        """
        if self._last is not None:
            session, leases = self._last
            leases.end()
            try:
                session.rollback()
            finally:
                self._close()

    def finish(self) -> None:
        """Tell the last session that all is committed, and close it."""
        assert self._last is not None  # noqa: S101  # there was an attempt
        try:
            note_commit(self._last[0])
        finally:
            self._close()

    def _close(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            session, leases = last
            leases.end()
            session.close()
