"""The leases of one request: at most one for each role, shared by all of its dependencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hasql.contrib.fastapi.open_transactions import is_begun, open_transaction_error, refuse_commits

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy.ext.asyncio import AsyncSession

    from hasql._leasing.async_lease import AsyncLease
    from hasql.base import BasePoolManager
    from hasql.driver import AsyncPool

__all__ = ("RequestLease", "RequestLeases")

_ConnT = TypeVar("_ConnT")


class RequestLease(Generic[_ConnT]):
    """A connection that several dependencies of a request use, each in its own ``async with``.

    The first dependency acquires the connection. Usually `end` gives it back, just before the
    response begins, and not the last dependency: after an endpoint has returned, another dependency
    or the serialization of the result may still fail. Only if an exception has passed through a
    dependency is the connection given back as soon as the last one has left.
    """

    def __init__(self, pool: BasePoolManager[Any, _ConnT], lease: AsyncLease[Any, _ConnT]) -> None:
        self._pool = pool
        self._lease = lease
        self._connection: _ConnT | None = None
        self._users = 0
        self._error: BaseException | None = None
        self._session: AsyncSession | None = None
        #: Whether the lease has ended, or could not be acquired.
        self.has_ended = False

    async def __aenter__(self) -> _ConnT:
        connection = self._connection
        if connection is None:
            try:
                connection = self._connection = await self._lease.__aenter__()
            except BaseException:
                self.has_ended = True
                raise
            # Some drivers lend the same object again and again. This note lets the pool recognize a
            # task that uses a connection which another request has got meanwhile.
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
    def has_open_transaction(self) -> bool:
        """Whether a transaction is open that giving back without an error would roll back."""
        if self.has_ended or self._error is not None or self._connection is None:
            return False
        return is_begun(self._connection, self._session)

    @property
    def _driver_pool(self) -> AsyncPool[Any, _ConnT] | None:
        """The driver pool that lends the connection now, if one does."""
        node = self._lease.node
        pool: Any = None if node is None else node.pool
        return pool  # type: ignore[no-any-return]  # an async lease has such a pool

    async def end(self, error: BaseException | None) -> None:
        """Give the connection back even if it is still used; `error` is what ended the request."""
        if self.has_ended:
            return
        self.has_ended = True
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
    """The leases that one request holds."""

    def __init__(self, pool: BasePoolManager[Any, _ConnT]) -> None:
        self._pool = pool
        self._held: dict[bool, RequestLease[_ConnT]] = {}

    def of(self, *, read_only: bool) -> RequestLease[_ConnT]:
        """Return the lease for a role; the caller has to enter it."""
        held = self._held.get(read_only)
        if held is None or held.has_ended:
            lease = self._pool.acquire(read_only)
            held = self._held[read_only] = RequestLease(self._pool, lease)
        return held

    async def end(self, error: BaseException | None) -> None:
        """Give back all connections, the last one first, as nested blocks would.

        An error while giving one back ends the remaining leases, and is raised at the end.

        Raises:
            ConfigurationError: `error` is None, but a transaction that was begun has not ended.
                This error then ends all the leases.
        """
        first = error
        if error is None and any(held.has_open_transaction for held in self._held.values()):
            error = open_transaction_error()
        while self._held:
            _, held = self._held.popitem()
            try:
                await held.end(error)
            except BaseException as failure:  # noqa: BLE001  # raised below
                error = failure
        if error is not None and error is not first:
            raise error
