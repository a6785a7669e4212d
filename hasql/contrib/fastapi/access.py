"""Lazy access: acquires connections in the middle of a request, each only for one block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession

    from hasql.base import BasePoolManager

__all__ = ("Access",)

_ConnT = TypeVar("_ConnT", default=Any)


class Access(Generic[_ConnT]):
    """The dependency `Hasql.access`: each method acquires a connection for one ``async with``.

    Use it in an endpoint that streams, waits for other services, or serves a WebSocket: there the
    connection of `Hasql.master` or `Hasql.replica` is refused, or would be held for too long. A
    plain `Access` stands for any driver; ``Access[asyncpg.Connection]`` tells a type checker which.
    """

    def __init__(self, pool: BasePoolManager[Any, _ConnT]) -> None:
        #: The pool manager itself, for everything that this class does not offer.
        self.pool = pool

    def __repr__(self) -> str:
        return f"<Access to {self.pool!r}>"

    def master(
        self, timeout: float | None = None, **kwargs: Any
    ) -> AbstractAsyncContextManager[_ConnT]:
        """Acquire a connection to a master for an ``async with``; see `acquire_master`.

        Raises:
            NotAvailableError: On entering, if no suitable host could serve in time.
        """
        return self.pool.acquire_master(timeout, **kwargs)

    def replica(
        self,
        fallback_master: bool | None = None,  # noqa: FBT001  # as the pool manager's own
        master_as_replica_weight: float | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> AbstractAsyncContextManager[_ConnT]:
        """Acquire a connection to a replica for an ``async with``; see `acquire_replica`.

        Raises:
            NotAvailableError: On entering, if no suitable host could serve in time.
        """
        return self.pool.acquire_replica(
            fallback_master, master_as_replica_weight, timeout, **kwargs
        )

    def session(self, timeout: float | None = None) -> AbstractAsyncContextManager[AsyncSession]:
        """Make a session on a master for an ``async with``; see `Hasql.session`."""
        from hasql.contrib.fastapi.sessions import short_session

        return short_session(self.pool, read_only=False, timeout=timeout)

    def read_session(
        self, timeout: float | None = None
    ) -> AbstractAsyncContextManager[AsyncSession]:
        """Make a session on a replica for an ``async with``; see `Hasql.session`."""
        from hasql.contrib.fastapi.sessions import short_session

        return short_session(self.pool, read_only=True, timeout=timeout)
