"""Sessions of SQLAlchemy's ORM for tasks, each on a lease."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncSession

from hasql._adapters.sqlalchemy.replica_binds import LeasedTransaction, lend
from hasql._adapters.sqlalchemy.routed_session import routed
from hasql._adapters.sqlalchemy.sessions import SessionMaker
from hasql._adapters.sqlalchemy.task_session_run import TaskLeases, TaskSessionRun
from hasql.resilience.run_options import run_options
from hasql.resilience.runs import no_work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from hasql._adapters.sqlalchemy.session_route import SessionRoute
    from hasql.resilience import RetryPolicy

__all__ = ("TaskSessionMaker",)

_S = TypeVar("_S", bound=AsyncSession)
_Lease: TypeAlias = "AbstractAsyncContextManager[AsyncConnection]"
_T = TypeVar("_T")


class TaskSessionMaker(SessionMaker["_Lease", "AbstractAsyncContextManager[_S]"], Generic[_S]):
    """Makes the sessions of tasks."""

    _leases = TaskLeases()

    def _routed_class(self, kwargs: dict[str, Any]) -> type[Any]:
        return routed(kwargs.get("sync_session_class") or self._class.sync_session_class)

    async def run(  # noqa: PLR0913  # as the pool manager's
        self,
        work: Callable[[_S], Awaitable[_T]],
        *,
        read_only: bool | None = None,
        idempotent: bool = False,
        retry: RetryPolicy | None = None,
        isolation: str | None = None,
        resolve_commits: bool = True,
    ) -> _T:
        """Do work in a session, and do it again where that is safe: the pool manager's `run`.

        `work` is given a session, and its result is returned. It leaves the commit to this method,
        which flushes before. It may be called several times, each time with a session of its own.

        With ``route="auto"`` the first attempt routes itself: it reads from a replica until it
        writes. All others, such as the one after a `StaleReadError`, are on the master.

        Args:
            work: A coroutine function that takes a session.
            read_only: Whether the session is on a replica, in a read-only transaction, or on the
                master from the beginning. None: as the maker's `route` says.
            idempotent: See the pool manager's `run`.
            retry: See the pool manager's `run`.
            isolation: See the pool manager's `run`. With a level above READ COMMITTED no attempt
                routes itself: all are on the master, unless `read_only` says otherwise.
            resolve_commits: See the pool manager's `run`.

        Raises:
            Exception: Whatever the pool manager's `run` raises.
        """
        if not callable(work):
            raise no_work(work, "a session")
        options = run_options(bool(read_only), idempotent, retry, isolation, resolve_commits)
        plan = self._plan_run(read_only, isolation)
        run = TaskSessionRun(work, self._class, plan)
        try:
            result: _T = await self._manager.runs.run(
                run.attempt, options, plan.acquire, on_attempt=True
            )
        except BaseException:
            await run.give_up()
            raise
        await run.finish()
        return result

    @asynccontextmanager
    async def _session(
        self,
        lease: _Lease,
        kwargs: dict[str, Any],
        *,
        commit: bool,
    ) -> AsyncIterator[_S]:
        session: _S | None = None
        leased = True
        try:
            async with lease as connection:
                own = cast("Connection", connection.sync_connection)
                lend(own, partial(LeasedTransaction, is_leased=lambda: leased))
                session = self._class(bind=connection, **kwargs)
                transaction = await session.begin().__aenter__() if commit else None
                yield session
                if transaction is not None:
                    await transaction.__aexit__(None, None, None)
                    commit = False
        finally:
            leased = False
            if session is not None:
                await _close(session, lease, rolled_back=commit)

    @asynccontextmanager
    async def _routed_session(
        self, routed_class: type[Any], route: SessionRoute, kwargs: dict[str, Any], *, commit: bool
    ) -> AsyncIterator[_S]:
        session: _S = self._class(**{**kwargs, "sync_session_class": routed_class})
        session.sync_session.hasql_route = route  # type: ignore[attr-defined]  # as made
        lease: Any = None
        try:
            transaction = await session.begin().__aenter__() if commit else None
            yield session
            if transaction is not None:
                await transaction.__aexit__(None, None, None)
                commit = False
        finally:
            try:
                lease = route.end()
                if lease is not None:
                    await lease.__aexit__(*sys.exc_info())
            finally:
                await _close(session, lease, rolled_back=commit)


async def _close(session: AsyncSession, lease: Any, *, rolled_back: bool) -> None:
    """Close a session whose lease, and with it the transaction, has ended. This needs no server.

    `rolled_back`: an exception has left a block that would have committed. Then objects that were
    added are new again, as after SQLAlchemy's own block, and may be added to another session.
    """
    if getattr(lease, "detached", False):
        # The release was cancelled: another task goes on with it, and uses the connection.
        session.expunge_all()
        return
    try:
        if rolled_back:
            await session.rollback()
    finally:
        await session.close()
