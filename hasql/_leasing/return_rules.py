"""What a connection that comes back tells of its host, for tasks and threads alike."""

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
"""Seconds for which a host offers nothing at most while a probe is to tell what broke a lease."""

TERMINATED: Final = (
    "this lease was out for longer than leak_threshold, and its connection was broken for that "
    "(leak_action='terminate')"
)


class ReturnRules(Generic[PoolT, ConnT]):
    """The part of giving back that decides."""

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

    def _lost(self, node: Node[PoolT, ConnT], failure: Failure | None) -> None:
        """Take note that a lease has ended with its connection gone; `failure` is why it ended."""
        raise NotImplementedError

    def breaks_others(self, node: Node[PoolT, ConnT], failure: Failure | None) -> bool:
        """Tell whether what broke a lease may be about to break others, which do not know it yet.

        Then the host is to offer nothing until a probe has told what it is.
        """
        return failure not in {None, Failure.FULL} and node.in_routing

    @staticmethod
    def _is_kept(lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT]) -> bool:
        """Tell whether a node that is not in routing takes back what was lent.

        If it was asked for by itself; but not once another pool has taken its place.
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
        """Take what a lease that ends tells of its host; `error` is what ended it, if anything."""
        try:
            # Its pool was resized since, and another node is routed to.
            serving = node if node.succession is None else node.current
            if pool.is_closed(connection):
                lease.lost = True
                failure = None if error is None else self._hints.judged(node, connection, error)
                if lease.at_its_limit or lease.terminated or failure is Failure.LIMIT:
                    return  # the application's own, who has lost no more than this one
                if failure in {None, Failure.BROKEN}:  # None: `release` is not told of an error
                    pool.destinations.doubt_all()
                    if serving.pool is not None and serving.pool is not pool:
                        serving.pool.destinations.doubt_all()
                self._lost(serving, failure)
            elif (
                serving.as_replica
                and not serving.flag_lies
                and pool.in_hot_standby(connection) is False
            ):
                # Promoted, as it has just told the application.
                self._signal(node.host, Evidence.FLAG)
            if error is not None:
                self._hints.heard(node, connection, error)
                if not lease.lost:
                    self._hints.note_sound(error)
        except Exception:
            # Nothing that is only to be learnt may keep a connection from being given back.
            log.exception(
                "%s: no telling what the end of a lease says of it",
                node.host,
                extra=about("judgement_failed", host=node.host),
            )

    @staticmethod
    def check_not_terminated(lease: Lease[PoolT, ConnT], error: BaseException | None) -> None:
        """Raise LeaseTerminatedError at the end of a block that would end as if all were well."""
        if lease.terminated and error is None:
            raise lease_was_terminated()

    def _note_broken(self, node: Node[PoolT, ConnT], failure: BaseException) -> None:
        told = self._hide(repr(failure))
        extra = about("connection_closed", host=node.host)
        log.debug("%s: a connection was closed, not given back: %s", node.host, told, extra=extra)


def lease_was_terminated() -> LeaseTerminatedError:
    """Make the error of a use of a lease that was to end as if all were well."""
    return LeaseTerminatedError(f"{TERMINATED}: what the block has not committed is lost")
