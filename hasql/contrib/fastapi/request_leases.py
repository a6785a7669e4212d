"""The leases of one request: one for each role at most, whoever of its dependencies asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hasql.contrib.fastapi.open_transactions import is_begun, late_commit, refuse_commits

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy.ext.asyncio import AsyncSession

    from hasql._leasing.async_lease import AsyncLease
    from hasql.base import BasePoolManager
    from hasql.driver import AsyncPool

__all__ = ("RequestLease", "RequestLeases")

_ConnT = TypeVar("_ConnT")


class RequestLease(Generic[_ConnT]):
    """A connection that several dependencies of a request use, each in its ``async with``.

    The first one acquires it. It is given back by `end`, before the response begins: an endpoint
    that has ended well may still fail, in another dependency or in what FastAPI makes of its
    result. Only what an exception has ended is given back as soon as the last one has left.
    """

    def __init__(self, pool: BasePoolManager[Any, _ConnT], lease: AsyncLease[Any, _ConnT]) -> None:
        self._pool = pool
        self._lease = lease
        self._connection: _ConnT | None = None
        self._users = 0
        self._error: BaseException | None = None
        self._session: AsyncSession | None = None
        #: Whether there is nothing to be had from it any more.
        self.over = False

    async def __aenter__(self) -> _ConnT:
        connection = self._connection
        if connection is None:
            try:
                connection = self._connection = await self._lease.__aenter__()
            except BaseException:
                self.over = True
                raise
            # Where the driver lends the same object again and again, it knows by this who uses one
            # that is another request's by now.
            if (pool := self._driver_pool) is not None:
                pool.hold(connection)
        self._users += 1
        return connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._users -= 1
        if error is not None:
            self._error = error
        if self._error is not None and not self._users:
            await self.end(self._error)

    def session(self, connection: _ConnT) -> AsyncSession:
        """Return the session of the request on this connection."""
        if self._session is None:
            from hasql.contrib.fastapi.sessions import open_session

            self._session = open_session(self._pool, connection)  # type: ignore[arg-type]
        return self._session

    @property
    def would_lose(self) -> bool:
        """Whether a transaction is open that giving back well would roll back."""
        if self.over or self._error is not None or self._connection is None:
            return False
        return is_begun(self._connection, self._session)

    @property
    def _driver_pool(self) -> AsyncPool[Any, _ConnT] | None:
        """The pool that lends the connection now, if one does."""
        node = self._lease.node
        pool: Any = None if node is None else node.pool
        return pool  # type: ignore[no-any-return]  # a task's lease is of such a pool

    async def end(self, error: BaseException | None) -> None:
        """Give the connection back, whoever may still use it: as by this error, or well."""
        if self.over:
            return
        self.over = True
        if error is None:
            error = self._error
        if self._connection is not None and (pool := self._driver_pool) is not None:
            pool.note_release(self._connection)
        try:
            if error is None:
                await self._lease.__aexit__(None, None, None)
            else:
                await self._lease.__aexit__(type(error), error, error.__traceback__)
        finally:
            if self._session is not None:
                from hasql.contrib.fastapi.sessions import close_session

                await close_session(self._session, self._lease)
            refuse_commits(self._connection)


class RequestLeases(Generic[_ConnT]):
    """What one request holds."""

    def __init__(self, pool: BasePoolManager[Any, _ConnT]) -> None:
        self._pool = pool
        self._held: dict[bool, RequestLease[_ConnT]] = {}

    def of(self, *, read_only: bool) -> RequestLease[_ConnT]:
        """Return the lease of a role, to be entered."""
        held = self._held.get(read_only)
        if held is None or held.over:
            lease = self._pool.acquire(read_only)
            held = self._held[read_only] = RequestLease(self._pool, lease)
        return held

    async def end(self, error: BaseException | None) -> None:
        """Give back all that is held, the last one first, as a stack of blocks would.

        Raises what the first of them raises that fails; the others end as by that.

        Raises:
            ConfigurationError: There is no error, and a transaction was begun that is not ended.
                All end as by this.
        """
        first = error
        if error is None and any(held.would_lose for held in self._held.values()):
            error = late_commit()
        while self._held:
            _, held = self._held.popitem()
            try:
                await held.end(error)
            except BaseException as failure:  # noqa: BLE001  # raised below
                error = failure
        if error is not None and error is not first:
            raise error
