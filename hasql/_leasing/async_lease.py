"""The lease as a task uses it."""

from collections.abc import Coroutine, Generator
from types import CoroutineType, TracebackType
from typing import Any, Protocol

from hasql._leasing.lease import Lease
from hasql.driver import ConnT, PoolT

__all__ = ("AsyncLease", "AsyncLender")


class AsyncLender(Protocol[PoolT, ConnT]):
    """The object that takes connections for leases and gives them back."""

    async def take(self, lease: Lease[PoolT, ConnT]) -> ConnT:
        """Find a connection for the lease, enter it in the book, and return it."""
        ...

    def leave(
        self, lease: Lease[PoolT, ConnT], error: BaseException | None
    ) -> Coroutine[Any, Any, None]:
        """Give the connection back at the end of a block; `error` is what that raised, or None."""

    def forget(self, lease: Lease[PoolT, ConnT]) -> Coroutine[Any, Any, None]:
        """End the block of a lease that has no connection, or that is being given back already."""


class AsyncLease(Lease[PoolT, ConnT]):
    """What `acquire` returns: use it in ``async with``, or ``await`` it and `release` later."""

    _lender: AsyncLender[PoolT, ConnT]

    def __await__(self) -> Generator[Any, Any, ConnT]:
        self.released_by_call = True
        return self.__aenter__().__await__()

    # These two are plain functions that return a coroutine, because each further layer of
    # coroutines costs every acquire. They are declared with the type that pyright gives a coroutine
    # function's result; mypy takes that for a Coroutine, hence the ignores.

    def __aenter__(self) -> "CoroutineType[Any, Any, ConnT]":
        if self.used:
            raise self.used_twice()
        self.used = True
        return self._lender.take(self)  # type: ignore[return-value]

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> "CoroutineType[Any, Any, None]":
        # True if release() was called within the block: nothing is left to do.
        done = self.connection is None or self.returning
        if done:
            return self._lender.forget(self)  # type: ignore[return-value]
        return self._lender.leave(self, exc)  # type: ignore[return-value]
