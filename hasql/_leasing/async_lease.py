"""The lease as a task uses it."""

from collections.abc import Coroutine, Generator
from types import CoroutineType, TracebackType
from typing import Any, Protocol

from hasql._leasing.lease import Lease
from hasql.driver import ConnT, PoolT

__all__ = ("AsyncLease", "AsyncLender")


class AsyncLender(Protocol[PoolT, ConnT]):
    """Who takes connections for leases and gives them back."""

    async def take(self, lease: Lease[PoolT, ConnT]) -> ConnT:
        """Find a connection for the lease, enter it in the book, and return it."""
        ...

    def leave(
        self, lease: Lease[PoolT, ConnT], error: BaseException | None
    ) -> Coroutine[Any, Any, None]:
        """Give the lease's connection back at the end of a block; `error` is what ended that."""

    def forget(self, lease: Lease[PoolT, ConnT]) -> Coroutine[Any, Any, None]:
        """End the block of a lease that has no connection, or is being given back."""


class AsyncLease(Lease[PoolT, ConnT]):
    """What `acquire` returns: ``async with`` it, or ``await`` it and `release` later."""

    _lender: AsyncLender[PoolT, ConnT]

    def __await__(self) -> Generator[Any, Any, ConnT]:
        self.awaited = True
        return self.__aenter__().__await__()

    # Not coroutines themselves, as each layer of those costs every acquire. They are declared as
    # what coroutine functions return for pyright; for mypy that is a Coroutine.

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
        # Given back within the block already, by release(): nothing left to do.
        done = self.connection is None or self.returning
        if done:
            return self._lender.forget(self)  # type: ignore[return-value]
        return self._lender.leave(self, exc)  # type: ignore[return-value]
