"""Access to the driver's pools behind a pool manager."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hasql._leasing.lease import Lease
from hasql._manager.introspection import Introspection
from hasql._routing.node import Node
from hasql._routing.request import (
    MASTER,
    MASTER_OR_REPLICA,
    REPLICA,
    REPLICA_OR_MASTER,
    Request,
)
from hasql.balancer_policy import BaseBalancerPolicy
from hasql.cluster.checks import check_count
from hasql.cluster.dsn import Dsn
from hasql.driver import ConnT, PoolT
from hasql.errors import (
    ConfigurationError,
    PoolManagerClosedError,
    UnknownConnectionError,
)

__all__ = ("PoolAccess", "pools_of")


class PoolAccess(Introspection[PoolT, ConnT]):
    """The part of a pool manager's API that is about pools: the driver's own, one for each host.

    Connections taken from such a pool directly are not routed, not watched and not broken when
    their host is fenced; those that `acquire_from_pool` takes are counted.
    """

    @abstractmethod
    def _check_caller(self) -> None:
        """Refuse a caller that may not use this manager. Raises WrongEventLoopError."""

    @property
    def dsn(self) -> Dsn:
        """The parsed DSN; its `str` hides the password."""
        return self._options.dsn

    @property
    def balancer(self) -> BaseBalancerPolicy:
        """The balancer policy in use."""
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
        """The arguments of the driver's pools, with the changes that `resize` has made."""
        return self._routing.pool_kwargs

    @property
    def pools(self) -> list[PoolT]:
        """The pools opened so far, in the order of the hosts, whether in routing or not."""
        self._check_process()
        return pools_of(list(self._routing.nodes.values()))

    def __iter__(self) -> Iterator[PoolT]:
        """Iterate over the pools in routing, masters first."""
        self._check_process()
        return iter(pools_of([*self._routing.masters, *self._routing.replicas]))

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

    def register_connection(self, connection: ConnT, pool: PoolT) -> None:
        """Register a connection that was taken from a pool directly: `release` then works.

        A connection that this manager has lent is registered already, and this does nothing.

        Raises:
            UnknownConnectionError: It is lent by another pool, or the pool is not this manager's.
        """
        self._check_caller()
        with self._routing.guard:
            if self._book.find(connection) is None:
                self._checkout.adopt(connection, self._node_of(pool))
            else:
                self._lease_of(connection, pool)

    def is_connection_closed(self, connection: ConnT) -> bool:
        """Tell whether a connection lent by this manager is known to be closed.

        Raises:
            UnknownConnectionError: It is not lent by this manager.
        """
        self._check_process()
        node = self._book.of(connection).node
        return node is None or node.pool is None or node.pool.is_closed(connection)

    def still_fits(self, connection: ConnT) -> bool:
        """Tell whether the acquire that lent a connection could still use its host now.

        It could not if the host has lost the role that was asked for, was fenced, fails or has
        left; if the connection is closed, or reports that its server has another role; or if a
        master stands in for replicas and a replica is back. This is for code that keeps connections
        for longer than a moment: it should then give them back.

        Raises:
            UnknownConnectionError: It is not lent by this manager.
        """
        self._check_process()
        lease = self._book.of(connection)
        node = lease.node
        if node is None or node.pool is None or lease.expired or node.pool.is_closed(connection):
            return False
        if lease.fixed_node is not None:
            return True
        standby = None if node.flag_unreliable else node.pool.in_hot_standby(connection)
        if standby is not None and standby != node.as_replica:
            return False
        return self._router.is_candidate(node, lease.request)

    def _new_pool_kwargs(self, min_size: object, max_size: object) -> Mapping[str, Any] | None:
        """Check the arguments of `resize`. None: there is nothing left to do."""
        if self._lifetime.closing:
            raise PoolManagerClosedError("the pool manager is closed")
        if min_size is None and max_size is None:
            raise ConfigurationError("resize takes min_size, max_size, or both")
        minimum = None if min_size is None else check_count("min_size", min_size)
        maximum = None if max_size is None else check_count("max_size", max_size, minimum=1)
        kwargs = self._resizing.new_kwargs(minimum, maximum)
        if self._resizing.is_done(kwargs):
            return None
        if not self._lifetime.started:
            self._resizing.set_before_start(kwargs)
            return None
        return kwargs

    def _lease_of(self, connection: ConnT, pool: PoolT) -> Lease[PoolT, ConnT]:
        """Return the lease of a connection of this pool. Raises UnknownConnectionError.

        `resize` may have put another pool in this one's place, before the lease or since. If the
        connection was acquired from the former pool, it is given back with that pool as well,
        whichever of the two has lent it.
        """
        lease = self._book.of(connection)
        for node in (lease.node, lease.fixed_node):
            if node is not None and node.pool is not None and node.pool.pool is pool:
                return lease
        other = self._node_of(pool)
        msg = f"the connection was lent by {lease.node and lease.node.host}, not {other.host}"
        raise UnknownConnectionError(msg)

    def _request(self, read_only: bool, fallback_master: bool | None) -> Request:  # noqa: FBT001  # as above
        if not read_only:
            return MASTER
        return self._request_to_read(fallback_master, None)

    def _request_to_read(self, fallback_master: bool | None, share: float | None) -> Request:  # noqa: FBT001  # as above
        """Return the request of a read, by these arguments or else by the manager's options."""
        options = self._options
        if fallback_master is None:
            fallback_master = options.fallback_master
        if share is None:
            share = options.master_as_replica_weight
        if share and options.chance.random() < share:
            return MASTER_OR_REPLICA
        return REPLICA_OR_MASTER if fallback_master else REPLICA

    def _node(self, pool: PoolT) -> Node[PoolT, ConnT]:
        """Return the node of a pool that is in use now. Raises UnknownConnectionError."""
        self._check_process()
        return _with_pool(pool, self._routing.nodes.values())

    def _node_of(self, pool: PoolT) -> Node[PoolT, ConnT]:
        """Return the node of a pool, or of a former pool that still has connections lent.

        Raises UnknownConnectionError.
        """
        self._check_process()
        return _with_pool(pool, self._routing.all_nodes())


def _with_pool(pool: PoolT, nodes: Iterable[Node[PoolT, ConnT]]) -> Node[PoolT, ConnT]:
    for node in nodes:
        if node.pool is not None and node.pool.pool is pool:
            return node
    msg = f"{type(pool).__name__} is not, or is no longer, a pool of this pool manager"
    raise UnknownConnectionError(msg)


def pools_of(nodes: list[Node[PoolT, ConnT]]) -> list[PoolT]:
    """Return the driver's pools of those nodes that have one."""
    return [node.pool.pool for node in nodes if node.pool is not None]
