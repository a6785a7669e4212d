"""A unit of work that a task does in sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_only

from hasql._adapters.sqlalchemy.replica_binds import SessionLeases
from hasql._adapters.sqlalchemy.session_runs import AttemptLeases, note_commit, prepare_commit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import Connection

    from hasql._adapters.sqlalchemy.session_runs import RunPlan

__all__ = ("TaskLeases", "TaskSessionRun")

_S = TypeVar("_S", bound=AsyncSession)
_T = TypeVar("_T")


class TaskLeases(SessionLeases):
    """Acquires and gives back in the greenlet that SQLAlchemy runs a session's method in."""

    def acquire(self, lease: Any) -> Connection:
        connection = await_only(lease.__aenter__())
        return cast("Connection", connection.sync_connection)

    def give_back(self, lease: Any) -> None:
        await_only(lease.__aexit__(None, None, None))


class TaskSessionRun(Generic[_S, _T]):
    """Does the work of one run, each attempt in a session of its own.

    Args:
        work: The work.
        class_: The class of the sessions.
        plan: Where the attempts go, and how their sessions are made.
    """

    def __init__(
        self, work: Callable[[_S], Awaitable[_T]], class_: type[_S], plan: RunPlan
    ) -> None:
        self._work = work
        self._class = class_
        self._plan = plan
        self._last: tuple[_S, AttemptLeases] | None = None

    async def attempt(self, attempt: Any) -> _T:
        """Do the work once, and write all that is to be committed."""
        await self.give_up()
        session, _ = self._last = self._open(attempt)
        try:
            result = await self._work(session)
            await session.run_sync(prepare_commit)
        except BaseException:
            await self.give_up()
            raise
        return result

    def _open(self, attempt: Any) -> tuple[_S, AttemptLeases]:
        plan = self._plan

        def connection() -> Connection:
            found: Connection = attempt.connection.sync_connection
            return found

        def exchange() -> None:
            await_only(attempt.exchange(plan.lease_master))

        leases = AttemptLeases(attempt, connection, exchange)
        if plan.routed_class is None:
            leases.bind()
            session = self._class(bind=attempt.connection, **plan.kwargs)
        else:
            session = self._class(**{**plan.kwargs, "sync_session_class": plan.routed_class})
            session.sync_session.hasql_route = leases.route(plan.reads)  # type: ignore[attr-defined]  # as made
        return session, leases

    async def give_up(self) -> None:
        """Close the last session, in which nothing was committed. This needs no server.

        Objects that the work has added are new again for the next attempt: they may be the
        caller's.
        """
        if self._last is not None:
            session, leases = self._last
            leases.end()
            try:
                await session.rollback()
            finally:
                await self._close()

    async def finish(self) -> None:
        """Tell the last session that all is committed, and close it."""
        assert self._last is not None  # noqa: S101  # there was an attempt
        try:
            await self._last[0].run_sync(note_commit)
        finally:
            await self._close()

    async def _close(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            session, leases = last
            leases.end()
            await session.close()
