"""Access to the driver's pools behind a pool manager."""

from collections.abc import Iterator, Mapping
from typing import Any

from hasql._leasing.lease import Lease
from hasql._manager.assembly import Parts
from hasql._manager.introspection import Introspection
from hasql._manager.options import Options
from hasql._routing.node import Node
from hasql._routing.request import (
    MASTER,
    MASTER_OR_REPLICA,
    REPLICA,
    REPLICA_OR_MASTER,
    Request,
)
from hasql.balancer_policy import BaseBalancerPolicy
from hasql.cluster.dsn import Dsn
from hasql.driver import ConnT, PoolT
from hasql.errors import UnknownConnectionError

__all__ = ("PoolAccess",)


class PoolAccess(Introspection[PoolT, ConnT]):
    """The part of a pool manager's API that speaks of pools: always the driver's own, one a host.

    Connections taken from such a pool directly are not routed, not watched and not broken when
    their host is fenced; `acquire_from_pool` gives ones that are counted.
    """

    def __init__(self, options: Options, parts: Parts[PoolT, ConnT]) -> None:
        super().__init__(options, parts)
        self._book = parts.book
        self._waits = parts.waits
        self._lifecycle = parts.lifecycle
        self._returns = parts.returns

    def _check_caller(self) -> None:
        """Refuse another loop, another thread or a forked child, unless nothing is open any more.

        Raises WrongEventLoopError.
        """
        if not self._lifecycle.closed:
            self._binding.check()

    @property
    def dsn(self) -> Dsn:
        """The parsed DSN; its `str` hides the password."""
        return self._options.dsn

    @property
    def balancer(self) -> BaseBalancerPolicy:
        """The balancer policy at work."""
        return self._router.policy

    @property
    def refresh_delay(self) -> float:
        """Seconds between two probes of a host while nothing happens."""
        return self._options.refresh_delay

    @property
    def refresh_timeout(self) -> float:
        """Seconds after which a silent host leaves routing."""
        return self._options.refresh_timeout

    @property
    def pool_factory_kwargs(self) -> Mapping[str, Any]:
        """The arguments of the driver's pools."""
        return self._options.pool_factory_kwargs

    @property
    def pools(self) -> list[PoolT]:
        """The pools opened so far, in the order of the hosts, in routing or not."""
        self._check_process()
        return _pools_of(list(self._routing.nodes.values()))

    def __iter__(self) -> Iterator[PoolT]:
        """Iterate over the pools in routing, masters first."""
        self._check_process()
        return iter(_pools_of([*self._routing.masters, *self._routing.replicas]))

    @property
    def master_pool_count(self) -> int:
        """How many masters are in routing."""
        self._check_process()
        return len(self._routing.masters)

    @property
    def replica_pool_count(self) -> int:
        """How many replicas are in routing."""
        self._check_process()
        return len(self._routing.replicas)

    @property
    def available_pool_count(self) -> int:
        """How many hosts are in routing."""
        return self.master_pool_count + self.replica_pool_count

    async def get_pool(self, read_only: bool, fallback_master: bool | None = None) -> PoolT:  # noqa: FBT001  # positional in the public API
        """Return the pool that an acquire would use now; waits like one.

        `master_as_replica_weight` counts as it does there.

        Raises:
            NotAvailableError: No suitable host could serve within `acquire_timeout`.
        """
        node = await self._checkout.find(self._request(read_only, fallback_master))
        return _pools_of([node])[0]

    async def get_master_pools(self) -> list[PoolT]:
        """Return the pools of all masters in routing; waits like an acquire for the first."""
        await self._checkout.find(MASTER)
        return _pools_of(self._routing.masters)

    async def get_replica_pools(self, fallback_master: bool = False) -> list[PoolT]:  # noqa: FBT001, FBT002  # as above
        """Return the pools of all replicas in routing; waits like an acquire for the first.

        With `fallback_master` those of the masters when no replica is in routing.
        """
        await self._checkout.find(REPLICA_OR_MASTER if fallback_master else REPLICA)
        return _pools_of(self._routing.replicas or self._routing.masters)

    def pool_is_master(self, pool: PoolT) -> bool:
        """Tell whether the pool's host is a master in routing."""
        return self._node(pool) in self._routing.masters

    def pool_is_replica(self, pool: PoolT) -> bool:
        """Tell whether the pool's host is a replica in routing."""
        return self._node(pool) in self._routing.replicas

    def get_pool_freesize(self, pool: PoolT) -> int:
        """Return how many more connections the pool can hand out, by hasql's count."""
        return max(0, self._node(pool).free)

    def get_last_response_time(self, pool: PoolT) -> float | None:
        """Return the median round trip of the host's last probes in seconds."""
        return self._node(pool).response_time

    def host(self, pool: PoolT) -> str:
        """Return the pool's host with its port, as ``db1:5432``."""
        return str(self._node(pool).host)

    def acquire_from_pool(self, pool: PoolT, **kwargs: Any) -> Lease[PoolT, ConnT]:
        """Acquire a connection of this one pool, whatever its role is.

        ``async with`` the result, or ``await`` it and call `release` later. It takes at most
        `acquire_timeout` seconds; `kwargs` go to the driver's own acquire.
        """
        timeout = self._options.acquire_timeout
        node = self._node(pool)
        lease: Lease[PoolT, ConnT]
        lease = Lease(self._checkout, REPLICA_OR_MASTER, timeout, kwargs)
        lease.fixed_node = node
        return lease

    async def release_to_pool(self, connection: ConnT, pool: PoolT, **kwargs: Any) -> None:
        """Give a connection back to the pool it came from.

        One that was taken from the pool directly has to be registered before. `kwargs` go to the
        driver's own release.

        Raises:
            UnknownConnectionError: The pool is not this manager's, or lent no such connection, or
                the connection is another task's; see `release`.
        """
        self._check_caller()
        node = self._node(pool)
        lease = self._book.of(connection)
        if lease.node is not node:
            msg = f"the connection was lent by {lease.node and lease.node.host}, not {node.host}"
            raise UnknownConnectionError(msg)
        await self._give_back(lease, connection, kwargs)

    async def _give_back(
        self, lease: Lease[PoolT, ConnT], connection: ConnT, kwargs: dict[str, Any]
    ) -> None:
        """Give back what was acquired with ``await``, unless it is another task's by now."""
        pool = None if lease.node is None else lease.node.pool
        if pool is not None and pool.is_anothers(connection):
            raise UnknownConnectionError(
                "this task has given the connection back, and it is lent to another task now; "
                "release a connection once, and leave one of another task to that"
            )
        if pool is not None:
            pool.note_release(connection)
        await self._returns.give_back(lease, None, kwargs)

    def register_connection(self, connection: ConnT, pool: PoolT) -> None:
        """Take over a connection that was taken from a pool directly: `release` then works.

        One that this manager has lent is registered already, and this does nothing.

        Raises:
            UnknownConnectionError: It is lent by another pool, or the pool is not this manager's.
        """
        self._check_caller()
        node = self._node(pool)
        lease = self._book.find(connection)
        if lease is None:
            self._checkout.adopt(connection, node)
        elif self._book.of(connection).node is not node:
            msg = f"the connection was lent by {lease.node and lease.node.host}, not {node.host}"
            raise UnknownConnectionError(msg)

    def is_connection_closed(self, connection: ConnT) -> bool:
        """Tell whether a connection lent by this manager is known to be closed.

        Raises:
            UnknownConnectionError: It is not lent by this manager.
        """
        self._check_process()
        node = self._book.of(connection).node
        return node is None or node.pool is None or node.pool.is_closed(connection)

    def _request(self, read_only: bool, fallback_master: bool | None) -> Request:  # noqa: FBT001  # as above
        if not read_only:
            return MASTER
        return self._request_to_read(fallback_master, None)

    def _request_to_read(self, fallback_master: bool | None, share: float | None) -> Request:  # noqa: FBT001  # as above
        """Say what a read asks for, by these or else by the manager's options."""
        options = self._options
        if fallback_master is None:
            fallback_master = options.fallback_master
        if share is None:
            share = options.master_as_replica_weight
        if share and options.chance.random() < share:
            return MASTER_OR_REPLICA
        return REPLICA_OR_MASTER if fallback_master else REPLICA

    def _node(self, pool: PoolT) -> Node[PoolT, ConnT]:
        self._check_process()
        for node in self._routing.nodes.values():
            if node.pool is not None and node.pool.pool is pool:
                return node
        msg = f"{type(pool).__name__} is not a pool of this pool manager, or no longer"
        raise UnknownConnectionError(msg)


def _pools_of(nodes: list[Node[PoolT, ConnT]]) -> list[PoolT]:
    return [node.pool.pool for node in nodes if node.pool is not None]
