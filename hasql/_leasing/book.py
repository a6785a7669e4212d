"""The lease book: all leases of one manager that are out."""

from collections.abc import Callable, Iterator
from typing import Generic

from hasql._leasing.lease import Lease
from hasql._routing.node import Node
from hasql.driver import ConnT, PoolT
from hasql.driver.destinations import Server
from hasql.errors import UnknownConnectionError

__all__ = ("LeaseBook",)

#: How many terminated leases are remembered.
_MOST_TERMINATED = 100


class LeaseBook(Generic[PoolT, ConnT]):
    """All leases that are out, by connection.

    The book holds them strongly until they are back: some drivers hand out objects that cannot be
    weakly referenced, and an `id` is unique only as long as its object lives.

    Threads write to the book under their manager's guard, except in `take_dropped`, and look leases
    up without it. So a lease that is out must be in one of the two dictionaries at every moment,
    and no writer may assume that an entry it has just seen is still there.
    """

    def __init__(self) -> None:
        self._leases: dict[int, Lease[PoolT, ConnT]] = {}
        #: Leases that were terminated. The application may still give them back.
        self._terminated: dict[int, Lease[PoolT, ConnT]] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def enter(self, lease: Lease[PoolT, ConnT], connection: ConnT) -> Lease[PoolT, ConnT] | None:
        """Enter a lease that was just taken; return the one it displaced, if it has no block.

        The caller has to end that one. A displaced lease that has a block ends with the block.
        """
        lease.connection = connection
        previous = self._leases.setdefault(id(connection), lease)
        if previous is not lease:
            self._leases[id(connection)] = lease
            if not previous.returning:
                # The application has put the connection into the driver's pool by itself, and
                # psycopg and aiopg lend the same object again. The end of the first lease must not
                # touch it.
                previous.connection = None
                if previous.released_by_call:
                    return previous
        return None

    def pass_on(self, lease: Lease[PoolT, ConnT]) -> Lease[PoolT, ConnT]:
        """Move a lease's connection to a new lease, so that the first may take another one."""
        other: Lease[PoolT, ConnT] = lease.successor()
        self._leases[id(other.connection)] = other
        return other

    def take_dropped(self, identity: int) -> Lease[PoolT, ConnT] | None:
        """Take out the lease of a connection object that the application has dropped, by its `id`.

        `enter_again` puts it back. Before that another object may get the same `id`.
        """
        lease = self._leases.get(identity)
        if lease is None or lease.returning:
            self._terminated.pop(identity, None)
            return None
        return self._leases.pop(identity, None)

    def set_aside(self, lease: Lease[PoolT, ConnT]) -> None:
        """Stop counting a terminated lease as out, but remember it until it is given back."""
        lease.places_freed = True
        if len(self._terminated) >= _MOST_TERMINATED:  # these have leaked, and never come back
            self._terminated.pop(next(iter(self._terminated)), None)
        self._terminated[id(lease.connection)] = lease
        self._leases.pop(id(lease.connection), None)

    def forget(self, lease: Lease[PoolT, ConnT]) -> None:
        """Forget a terminated lease that is given back."""
        if self._terminated.get(id(lease.connection)) is lease:
            self._terminated.pop(id(lease.connection), None)
        lease.connection = lease.node = None

    def enter_again(self, lease: Lease[PoolT, ConnT], connection: ConnT) -> None:
        """Enter a lease again, with the object that stands for the connection that was dropped."""
        lease.connection = connection
        self._leases[id(connection)] = lease

    def remove(self, lease: Lease[PoolT, ConnT]) -> None:
        """Remove a lease whose connection is back."""
        # The driver's pool may have handed the connection to another lease before the release
        # returned, and another thread may be giving that lease back at this moment. So the entry
        # may be the other lease's, or gone.
        key = id(lease.connection)
        try:  # costs half as much as calling `get` and `pop`, on each release
            if self._leases[key] is lease:
                del self._leases[key]
        except KeyError:  # it was set aside, or dropped just now
            pass
        lease.connection = lease.node = None

    def find(self, connection: ConnT) -> Lease[PoolT, ConnT] | None:
        """Return the lease of a connection, None if there is none."""
        return self._leases.get(id(connection))

    def of(self, connection: ConnT) -> Lease[PoolT, ConnT]:
        """Return the lease of a connection that the application holds.

        Raises UnknownConnectionError if there is none, or if it is being given back already.
        """
        lease = self.find(connection) or self._terminated.get(id(connection))
        if lease is None or lease.returning:
            msg = (
                f"{type(connection).__name__} is not a connection that this pool manager has lent: "
                "it was released already, or acquired elsewhere and not registered"
            )
            raise UnknownConnectionError(msg)
        return lease

    def all(self) -> tuple[Lease[PoolT, ConnT], ...]:
        """Return the leases that the application holds, without those being given back."""
        return tuple(lease for lease in self._on(None) if not lease.returning)

    def out(self, node: Node[PoolT, ConnT]) -> tuple[Lease[PoolT, ConnT], ...]:
        """Return the leases that the application holds on a node, as `all` does."""
        return tuple(lease for lease in self._on(node) if not lease.returning)

    def abort(
        self,
        node: Node[PoolT, ConnT] | None = None,
        *,
        returning_only: bool = False,
        spared_server: Server | None = None,
        which: Callable[[ConnT], bool] = lambda _: True,
    ) -> int:
        """Break the connections lent on a node, or on all nodes; return how many were still open.

        Connections that are known to lead to `spared_server` are spared, and so are those whose
        server says that it is a standby. The application gets the driver's connection error on the
        others, and gives them back as usual.
        """
        aborted = 0
        for lease in self._on(node):
            if lease.node is None or lease.node.pool is None or lease.connection is None:
                continue
            pool, connection = lease.node.pool, lease.connection
            if spared_server is not None and (
                pool.is_closed(connection)  # a closed one can be asked nothing
                or pool.destinations.server_of(pool.key(connection)) == spared_server
                or pool.in_hot_standby(connection)
            ):
                continue
            if (lease.returning or not returning_only) and which(connection):
                aborted += not pool.is_closed(connection)
                pool.abort(connection)
        return aborted

    def abort_overdue(self, now: float) -> float | None:
        """Break connections whose release takes too long; return when the next would be due."""
        next_due = None
        for lease in self._on(None):
            if not lease.returning or lease.connection is None:
                continue
            if lease.due_back > now:
                next_due = min(lease.due_back, next_due or lease.due_back)
            elif lease.node is not None and lease.node.pool is not None:
                lease.node.pool.abort(lease.connection)
        return next_due

    def expire(
        self, node: Node[PoolT, ConnT], which: Callable[[ConnT], bool] = lambda _: True
    ) -> list[ConnT]:
        """Mark the leases on a node, or those that `which` picks, as not to be used again.

        Returns all connections that are lent on the node.
        """
        lent = []
        for lease in self._on(node):
            if lease.connection is not None:
                lease.expired = lease.expired or which(lease.connection)
                lent.append(lease.connection)
        return lent

    def _on(self, node: Node[PoolT, ConnT] | None) -> Iterator[Lease[PoolT, ConnT]]:
        # A copy, because breaking a connection may call back into a release, and other threads
        # change the dictionary.
        return (x for x in self._leases.copy().values() if node is None or _is_on(x, node))


def _is_on(lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT]) -> bool:
    """Tell whether a lease is on a node, or on one that the node has replaced."""
    if lease.node is node:
        return True
    succession = None if lease.node is None else lease.node.succession
    return succession is not None and succession.successor is node
