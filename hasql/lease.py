"""The lease: an acquired connection, and the duty to give it back."""

from collections.abc import Coroutine, Generator, Iterator
from types import CoroutineType, TracebackType
from typing import Any, Generic, Protocol

from hasql.destinations import Server
from hasql.driver import ConnT, PoolT
from hasql.errors import HasqlError, UnknownConnectionError
from hasql.node import Node
from hasql.router import Wanted

__all__ = ("Lease", "LeaseBook", "Lender")


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
    #: When it has to be back, by time.monotonic(), once it is returning.
    due_back = 0.0
    used = False
    #: Whether it is given back by `release`, not at the end of a block.
    awaited = False
    #: Whether it has waited for a place, which is counted once.
    waited = False

    def __init__(
        self, lender: Lender[PoolT, ConnT], wanted: Wanted, timeout: float, kwargs: dict[str, Any]
    ) -> None:
        self._lender = lender
        self.wanted = wanted
        #: Seconds for all of the acquire.
        self.timeout = timeout
        #: For the driver's own acquire.
        self.kwargs = kwargs

    def successor(self) -> "Lease[PoolT, ConnT]":
        """Make a lease of what this one has taken, and have this one hold nothing."""
        heir: Lease[PoolT, ConnT] = Lease(self._lender, self.wanted, self.timeout, self.kwargs)
        heir.used, heir.fixed_node, heir.expired = True, self.fixed_node, self.expired
        heir.node, heir.connection = self.node, self.connection
        self.node, self.connection, self.expired = None, None, False
        return heir

    def __repr__(self) -> str:
        state = "returning" if self.returning else "out" if self.node is not None else "idle"
        return f"<Lease of a {self.wanted.value}, {state}>"

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


class LeaseBook(Generic[PoolT, ConnT]):
    """All leases that are out, by connection.

    It holds them strongly until they are back: drivers hand out objects that cannot be weakly
    referenced, and an identity is unique only as long as its object lives.
    """

    def __init__(self) -> None:
        self._leases: dict[int, Lease[PoolT, ConnT]] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def enter(self, lease: Lease[PoolT, ConnT], connection: ConnT) -> None:
        """Enter a lease that was just taken."""
        lease.connection = connection
        previous = self._leases.setdefault(id(connection), lease)
        if previous is not lease:
            self._leases[id(connection)] = lease
            if not previous.returning:
                # The application has put it into the driver's pool by itself, and psycopg and aiopg
                # lend the same object again: the end of the first block must not touch it.
                previous.connection = None

    def pass_on(self, lease: Lease[PoolT, ConnT]) -> Lease[PoolT, ConnT]:
        """Let another lease stand for a connection, so that the first may take one more."""
        heir: Lease[PoolT, ConnT] = lease.successor()
        self._leases[id(heir.connection)] = heir
        return heir

    def strike(self, lease: Lease[PoolT, ConnT]) -> None:
        """Strike out a lease whose connection is back."""
        # A driver's pool may have handed it to the next one before the release has returned.
        key = id(lease.connection)
        struck = self._leases.pop(key, lease)
        if struck is not lease:
            self._leases[key] = struck
        lease.connection = lease.node = None

    def find(self, connection: ConnT) -> Lease[PoolT, ConnT] | None:
        """Return the lease of a connection, None if there is none."""
        return self._leases.get(id(connection))

    def of(self, connection: ConnT) -> Lease[PoolT, ConnT]:
        """Return the lease of a connection that the application holds.

        Raises UnknownConnectionError.
        """
        lease = self.find(connection)
        if lease is None or lease.returning:
            msg = (
                f"{type(connection).__name__} is not a connection that this pool manager has lent: "
                "it was released already, or acquired elsewhere and not registered"
            )
            raise UnknownConnectionError(msg)
        return lease

    def out(self, node: Node[PoolT, ConnT]) -> tuple[Lease[PoolT, ConnT], ...]:
        """Return the leases that the application has on a node, those being given back left out."""
        return tuple(lease for lease in self._on(node) if not lease.returning)

    def abort(
        self,
        node: Node[PoolT, ConnT] | None = None,
        *,
        returning_only: bool = False,
        but_on: Server | None = None,
    ) -> int:
        """Break the connections lent on a node, or on all; return how many were still open.

        With `but_on` those live on that are known to lead to that server, or say that theirs is a
        standby. Whoever uses one of the others gets the driver's connection error and gives it back
        as ever.
        """
        aborted = 0
        for lease in self._on(node):
            if lease.node is None or lease.node.pool is None or lease.connection is None:
                continue
            pool, connection = lease.node.pool, lease.connection
            if but_on is not None and (
                pool.is_closed(connection)  # and can be asked nothing
                or pool.destinations.server_of(pool.key(connection)) == but_on
                or pool.in_hot_standby(connection)
            ):
                continue
            if lease.returning or not returning_only:
                aborted += not pool.is_closed(connection)
                pool.abort(connection)
        return aborted

    def abort_overdue(self, now: float) -> float | None:
        """Break what is being given back for too long; return when the next would be due."""
        next_due = None
        for lease in self._on(None):
            if not lease.returning or lease.connection is None:
                continue
            if lease.due_back > now:
                next_due = min(lease.due_back, next_due or lease.due_back)
            elif lease.node is not None and lease.node.pool is not None:
                lease.node.pool.abort(lease.connection)
        return next_due

    def expire(self, node: Node[PoolT, ConnT]) -> list[ConnT]:
        """Let no connection that is lent on a node be used again; return them."""
        leases = [lease for lease in self._on(node) if lease.connection is not None]
        for lease in leases:
            lease.expired = True
        return [lease.connection for lease in leases if lease.connection is not None]

    def _on(self, node: Node[PoolT, ConnT] | None) -> Iterator[Lease[PoolT, ConnT]]:
        # A copy: breaking a connection may call back into a release.
        return (x for x in tuple(self._leases.values()) if node is None or x.node is node)
