"""What a connection that comes back says about its host, for tasks and threads alike."""

import logging
from typing import Final, Generic

from hasql._leasing.hints import Hints
from hasql._leasing.lease import Lease
from hasql._leasing.options import LeasingOptions, Signal
from hasql._probing.schedule import Evidence
from hasql._routing.node import Node
from hasql.diagnostics import about
from hasql.driver import ConnT, DriverPool, Failure, PoolT
from hasql.errors import LeaseTerminatedError

__all__ = ("LONGEST_HOLD", "TERMINATED", "ReturnRules", "lease_was_terminated")

log = logging.getLogger("hasql")

LONGEST_HOLD: Final = 0.1
"""The most seconds for which a host offers nothing while a probe finds out what broke a lease."""

TERMINATED: Final = (
    "this lease was out for longer than leak_threshold, so its connection was broken "
    "(leak_action='terminate')"
)


class ReturnRules(Generic[PoolT, ConnT]):
    """The decisions to be taken when a connection is given back."""

    def __init__(
        self,
        hints: Hints[PoolT, ConnT],
        options: LeasingOptions,
        signal: Signal,
    ) -> None:
        self._hints = hints
        self._release_timeout = options.release_timeout
        self._hide = options.hide
        self._clock = options.clock
        self._signal = signal

    def _note_lost(self, node: Node[PoolT, ConnT], failure: Failure | None) -> None:
        """Take note that a lease has ended with its connection gone; `failure` is the reason."""
        raise NotImplementedError

    def breaks_others(self, node: Node[PoolT, ConnT], failure: Failure | None) -> bool:
        """Tell whether what broke a lease may be about to break others, which do not know it yet.

        If so, the host should offer nothing until a probe has shown what it is.
        """
        return failure not in {None, Failure.FULL} and node.in_routing

    @staticmethod
    def _takes_back(lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT]) -> bool:
        """Tell whether a node that is not in routing takes back an unbroken connection.

        It does if the lease named this node, unless another pool has taken its place since.
        """
        return lease.fixed_node is not None and node.succession is None

    def _learn(
        self,
        lease: Lease[PoolT, ConnT],
        node: Node[PoolT, ConnT],
        pool: DriverPool[PoolT, ConnT],
        connection: ConnT,
        error: BaseException | None,
    ) -> None:
        """Learn what the end of a lease says about its host; `error` is what ended it, or None."""
        try:
            # If the pool was resized since, acquires are routed to another node by now.
            serving = node if node.succession is None else node.current
            if pool.is_closed(connection):
                lease.lost = True
                failure = None if error is None else self._hints.judge(node, connection, error)
                if lease.hit_session_limit or lease.terminated or failure is Failure.LIMIT:
                    return  # the application's own doing, which costs no more than this connection
                if failure in {None, Failure.BROKEN}:  # None: `release` is told of no error
                    pool.destinations.note_all_maybe_dead()
                    if serving.pool is not None and serving.pool is not pool:
                        serving.pool.destinations.note_all_maybe_dead()
                self._note_lost(serving, failure)
            elif (
                serving.as_replica
                and not serving.flag_unreliable
                and pool.in_hot_standby(connection) is False
            ):
                # The server was promoted: its last answer to the application said so.
                self._signal(node.host, Evidence.FLAG)
            if error is not None:
                self._hints.note_error(node, connection, error)
                if not lease.lost:
                    self._hints.note_if_foreign(error)
        except Exception:
            # A failure to learn something must not keep the connection from being given back.
            log.exception(
                "%s: could not judge what the end of a lease says about the host",
                node.host,
                extra=about("judgement_failed", host=node.host),
            )

    @staticmethod
    def check_not_terminated(lease: Lease[PoolT, ConnT], error: BaseException | None) -> None:
        """Raise LeaseTerminatedError if the block of a terminated lease ends without an error."""
        if lease.terminated and error is None:
            raise lease_was_terminated()

    def _note_broken(self, node: Node[PoolT, ConnT], failure: BaseException) -> None:
        told = self._hide(repr(failure))
        extra = about("connection_closed", host=node.host)
        log.debug("%s: a connection was closed, not given back: %s", node.host, told, extra=extra)


def lease_was_terminated() -> LeaseTerminatedError:
    """Make the error for a terminated lease whose block would otherwise end without one."""
    return LeaseTerminatedError(f"{TERMINATED}: what the block has not committed is lost")
