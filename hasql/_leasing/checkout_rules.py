"""The decisions of a checkout, for tasks and threads alike."""

from typing import Final, Generic, Protocol

from hasql._leasing.book import LeaseBook
from hasql._leasing.destination_check import WrongServerError
from hasql._leasing.layers import LeaseLayers
from hasql._leasing.lease import Lease
from hasql._leasing.lease_settings import PoolerRefusesError, must_be_read_only
from hasql._leasing.lease_tracing import LeaseTracing
from hasql._leasing.options import LeasingOptions, ManagerCalls
from hasql._probing.schedule import Evidence
from hasql._routing.node import Node
from hasql._routing.request import REPLICA, REPLICA_OR_MASTER
from hasql._routing.router import Router
from hasql.diagnostics import correlation_id
from hasql.driver import ConnT, Driver, Failure, PoolT
from hasql.driver.deadline import OutOfTimeError, SlowConnectError
from hasql.driver.judgement import judge_error
from hasql.errors import NotAvailableError

__all__ = ("LONG_CONNECT", "CheckoutRules", "Returner")

LONG_CONNECT: Final = 0.1
"""Seconds after which an acquire that is still connecting has its host probed."""

#: Failures that an acquire may not meet on another host, or on the same host a little later.
_ANOTHER_TIME = frozenset(
    {Failure.BROKEN, Failure.REFUSED, Failure.MISCONFIGURED, Failure.FULL, Failure.LIMIT}
)


class Returner(Protocol[PoolT, ConnT]):
    """The methods of `Returns` and `ThreadReturns` that the rules call."""

    def trace(self, tracing: LeaseTracing[PoolT, ConnT] | None) -> None:
        """Tell a tracer of each connection that comes back from now on."""

    def use_layers(self, layers: LeaseLayers[PoolT, ConnT]) -> None:
        """Tell these layers of each connection that comes back."""

    def hold(self, node: Node[PoolT, ConnT]) -> None:
        """Stop offering a node until a probe has shown what it is, for `LONGEST_HOLD` at most."""


class CheckoutRules(Generic[PoolT, ConnT]):
    """The part of a checkout that decides: which node still fits, what a failure means.

    The counts and states that it changes belong to the router, or are guarded as those are.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        driver: Driver[PoolT, ConnT],
        router: Router[PoolT, ConnT],
        book: LeaseBook[PoolT, ConnT],
        returns: Returner[PoolT, ConnT],
        options: LeasingOptions,
        manager: ManagerCalls,
    ) -> None:
        self._driver = driver
        self._router = router
        self._book = book
        self._returns = returns
        self._acquire_timeout = options.acquire_timeout
        self._clock = options.clock
        self._ensure_started, self._signal = manager.ensure_started, manager.signal
        self._no_connection = manager.not_available
        #: Set while there is a tracer.
        self._tracing: LeaseTracing[PoolT, ConnT] | None = None
        #: Set if the manager has layers.
        self._layers: LeaseLayers[PoolT, ConnT] | None = None
        self.acquires = 0
        self.acquire_seconds = 0.0
        self.waits = 0
        self.retries = 0

    def trace(self, tracing: LeaseTracing[PoolT, ConnT] | None) -> None:
        """Tell a tracer of each acquire from now on."""
        self._tracing = tracing
        self._returns.trace(tracing)

    def use_layers(self, layers: LeaseLayers[PoolT, ConnT]) -> None:
        """Send each acquire through these layers; to be called before the first acquire."""
        self._layers = layers
        if layers.told_of_returns:
            self._returns.use_layers(layers)

    def _occupy_on(self, node: Node[PoolT, ConnT]) -> Node[PoolT, ConnT]:
        self._ensure_started()  # a closed manager refuses here, because this bypasses the routing
        return self._router.occupy_current(node)

    def _offer_all(self, node: Node[PoolT, ConnT]) -> None:
        node.offer_all()
        self._router.dispatch()

    def adopt(self, connection: ConnT, node: Node[PoolT, ConnT]) -> None:
        """Enter in the book a connection that was taken from the driver's pool directly."""
        lease: Lease[PoolT, ConnT] = Lease(self, REPLICA_OR_MASTER, 0.0, {})
        lease.used = lease.released_by_call = True
        lease.node = lease.fixed_node = node
        lease.lent_at, lease.correlation_id = self._clock(), correlation_id.get()
        self._router.occupy_on(node)
        self._book.enter(lease, connection)

    def _give_up(
        self, node: Node[PoolT, ConnT], lease: Lease[PoolT, ConnT], error: BaseException
    ) -> None:
        """Give back a place that has led to no connection; raise if that ends the acquire."""
        try:
            self._handle_error(error, node, lease)
        finally:
            del error  # as in `_handle_error`
            self._router.vacate(node)

    def _handle_error(
        self, error: BaseException, node: Node[PoolT, ConnT], lease: Lease[PoolT, ConnT]
    ) -> None:
        """Return if the acquire should try again, else raise."""
        try:
            if isinstance(error, OutOfTimeError):
                if node.error is None:  # else what the server itself has said tells more
                    node.failed(
                        SlowConnectError("connecting did not finish by an acquire's deadline")
                    )
                self._signal(node.host)
                raise self._not_available(lease) from None
            if isinstance(error, PoolerRefusesError):
                raise error  # trying again would help only on a host without a pooler
            if node.succession is not None and isinstance(error, Exception):
                return  # another pool has taken its place, and its connects were ended
            failure = judge_error(self._driver, error)
            if failure not in _ANOTHER_TIME or lease.fixed_node is not None:
                raise error
            elsewhere = isinstance(error, WrongServerError)
            node.connect_failed(error, full=failure is Failure.FULL, led_elsewhere=elsewhere)
            if elsewhere:
                self._signal(node.host, Evidence.ELSEWHERE)
            self._signal(node.host)
        finally:
            del error  # its traceback holds this frame, and with it what was taken

    @staticmethod
    def _is_stale(lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], connection: ConnT) -> bool:
        """Tell whether a connection must not be lent, although the pool has just handed it out.

        The host may have been purged after the last answer on the connection, but before the task
        or thread that waited for that answer ran again and entered the connection in the book.
        Some drivers' connections cannot even be asked for a flag then. Or the host's name has
        moved, and the connection was opened to a place where no probe has looked yet.
        """
        if node.awaits_answer and lease.fixed_node is None:
            return True
        return node.pool is None or node.pool.is_closed(connection)

    def _may_read(
        self, node: Node[PoolT, ConnT], lease: Lease[PoolT, ConnT], connection: ConnT
    ) -> bool:
        """Check that a node may still serve a request for a replica, or for any host.

        The node may have lost its role while the driver connected. And a server that has been
        promoted says so with its next answer on any connection: it reports `in_hot_standby = off`,
        which is never taken back within a session.
        """
        if lease.fixed_node is not None:
            return True
        if node.as_replica:
            assert node.pool is not None  # noqa: S101  # the connection came from it
            if node.flag_unreliable or node.pool.in_hot_standby(connection) is not False:
                return True
            if node.several_servers or node.leads_elsewhere:
                lease.expired = True
                node.pool.abort(connection)  # so that it does not come back as an idle one
                error = WrongServerError("a connection opened to a replica leads to a master")
                node.connect_failed(error, led_elsewhere=True)
                self._signal(node.host, Evidence.ELSEWHERE)
            else:
                node.flag_off_at = min(node.flag_off_at, self._clock())
                self._returns.hold(node)
            self._signal(node.host, Evidence.FLAG)
            return False
        if not node.as_master or lease.request is REPLICA:
            return False
        # The node may be a replica that was promoted meanwhile. Unless the connection is read-only,
        # what is lent for reading could write there.
        return lease.read_only or not must_be_read_only(lease, node)

    def _not_available(self, lease: Lease[PoolT, ConnT]) -> NotAvailableError:
        told = f"no connection to a {lease.request} within {lease.timeout:g} s"
        error = self._no_connection(told)
        error.exhausted = self._router.is_exhausted(lease.request)
        return error
