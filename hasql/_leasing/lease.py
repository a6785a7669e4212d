"""The lease: an acquired connection, and the duty to give it back."""

from collections.abc import Coroutine, Generator
from types import CoroutineType, TracebackType
from typing import Any, Generic, Protocol

from hasql._routing.node import Node
from hasql._routing.request import Request
from hasql.driver import ConnT, PoolT
from hasql.errors import HasqlError

__all__ = ("Lease", "Lender")


class Lender(Protocol[PoolT, ConnT]):
    """Who takes connections for leases and gives them back."""

    async def take(self, lease: "Lease[PoolT, ConnT]") -> ConnT:
        """Find a connection for the lease, enter it in the book, and return it."""
        ...

    def leave(
        self, lease: "Lease[PoolT, ConnT]", error: BaseException | None
    ) -> Coroutine[Any, Any, None]:
        """Give the lease's connection back at the end of a block; `error` is what ended that."""

    def forget(self, lease: "Lease[PoolT, ConnT]") -> Coroutine[Any, Any, None]:
        """End the block of a lease that has no connection, or is being given back."""


class Lease(Generic[PoolT, ConnT]):
    """What `acquire` returns: ``async with`` it, or ``await`` it and `release` later.

    It is for one use. Made by the pool manager, never by the application.
    """

    # Those are defaults of the class that most leases never set: one is made for each acquire.

    #: The one node to take from, whatever its role; None: route.
    fixed_node: Node[PoolT, ConnT] | None = None
    node: Node[PoolT, ConnT] | None = None
    connection: ConnT | None = None
    #: Whether the application is done with it: nothing is lost if it is broken now.
    returning = False
    #: Whether its connection must not be used again: its host was purged meanwhile, or does not
    #: write and is no master any more.
    expired = False
    #: Whether a task of its own finishes giving it back, as the one that used it was cancelled.
    detached = False
    #: When it has to be back, by the clock, once it is returning.
    due_back = 0.0
    used = False
    #: Whether it is given back by `release`, not at the end of a block.
    awaited = False
    #: Whether it has waited for a place, which is counted once.
    waited = False
    #: For a tracer: its number, and when it was lent, by the clock.
    number = 0
    lent_at = 0.0

    def __init__(
        self, lender: Lender[PoolT, ConnT], request: Request, timeout: float, kwargs: dict[str, Any]
    ) -> None:
        self._lender = lender
        self.request = request
        #: Seconds for all of the acquire.
        self.timeout = timeout
        #: For the driver's own acquire.
        self.kwargs = kwargs

    def successor(self) -> "Lease[PoolT, ConnT]":
        """Make a lease of what this one has taken, and have this one hold nothing."""
        other: Lease[PoolT, ConnT] = Lease(self._lender, self.request, self.timeout, self.kwargs)
        other.used, other.fixed_node, other.expired = (
            True,
            self.fixed_node,
            self.expired,
        )
        other.node, other.connection = self.node, self.connection
        self.node, self.connection, self.expired = None, None, False
        return other

    def __repr__(self) -> str:
        state = "returning" if self.returning else "out" if self.node is not None else "idle"
        return f"<Lease of a {self.request}, {state}>"

    def __await__(self) -> Generator[Any, Any, ConnT]:
        self.awaited = True
        return self.__aenter__().__await__()

    # Not coroutines themselves, as each layer of those costs every acquire. They are declared as
    # what coroutine functions return for pyright; for mypy that is a Coroutine.

    def __aenter__(self) -> "CoroutineType[Any, Any, ConnT]":
        if self.used:
            msg = "this acquire was used already; call acquire again for another connection"
            raise HasqlError(msg)
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
