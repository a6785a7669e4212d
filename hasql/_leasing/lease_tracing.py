"""The tracing of leases: tells a tracer what becomes of each lease."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Generic, TypeVar

from hasql._leasing.lease import Lease
from hasql._routing.node import Node
from hasql.cluster.probe import Role
from hasql.cluster.topology import Answered, Failed
from hasql.diagnostics import about
from hasql.driver import ConnT, PoolT
from hasql.tracing import (
    AcquireBegun,
    AcquireFailed,
    AcquireRetried,
    AcquireWaited,
    ConnectionLent,
    ConnectionReturned,
    ProbeEnded,
    Tracer,
)

__all__ = ("LeaseTracing", "tell_of_probe")

log = logging.getLogger("hasql")

_RecordT = TypeVar("_RecordT")


class LeaseTracing(Generic[PoolT, ConnT]):
    """Calls one tracer. It is not told of leases that began before it was set."""

    def __init__(self, tracer: Tracer, clock: Callable[[], float]) -> None:
        self._tracer = tracer
        self._clock = clock
        self._numbers = count(1)

    async def take(
        self,
        lease: Lease[PoolT, ConnT],
        take: Callable[[Lease[PoolT, ConnT]], Awaitable[ConnT]],
    ) -> ConnT:
        """Take a connection for a task's lease; tell how the acquire begins and ends."""
        with self._telling_of(lease):
            return await take(lease)

    def take_in_thread(
        self, lease: Lease[PoolT, ConnT], take: Callable[[Lease[PoolT, ConnT]], ConnT]
    ) -> ConnT:
        """Take a connection for a thread's lease; tell how the acquire begins and ends."""
        with self._telling_of(lease):
            return take(lease)

    @contextmanager
    def _telling_of(self, lease: Lease[PoolT, ConnT]) -> Iterator[None]:
        tracer, began = self._tracer, self._clock()
        lease.trace_number = next(self._numbers)
        if tracer.acquire_begun is not None:
            begun = AcquireBegun(lease.trace_number, str(lease.request), lease.timeout)
            _tell(tracer.acquire_begun, begun)
        try:
            yield
        except BaseException as error:
            if tracer.acquire_failed is not None:
                failed = AcquireFailed(lease.trace_number, self._clock() - began, error)
                _tell(tracer.acquire_failed, failed)
            raise
        node = lease.node
        if tracer.connection_lent is not None and node is not None:
            role = Role.MASTER if node.as_master else Role.REPLICA
            lent = ConnectionLent(lease.trace_number, node.host, role, lease.lent_at - began)
            _tell(tracer.connection_lent, lent)

    def waited(self, lease: Lease[PoolT, ConnT], node: Node[PoolT, ConnT], seconds: float) -> None:
        """Tell that an acquire has waited for a place on a node."""
        if self._tracer.acquire_waited is not None and lease.trace_number:
            waited = AcquireWaited(lease.trace_number, node.host, seconds)
            _tell(self._tracer.acquire_waited, waited)

    def retried(
        self,
        lease: Lease[PoolT, ConnT],
        node: Node[PoolT, ConnT],
        error: BaseException | None,
    ) -> None:
        """Tell that a node could not serve an acquire."""
        if self._tracer.acquire_retried is not None and lease.trace_number:
            retried = AcquireRetried(lease.trace_number, node.host, error)
            _tell(self._tracer.acquire_retried, retried)

    def returned(
        self,
        lease: Lease[PoolT, ConnT],
        node: Node[PoolT, ConnT],
        error: BaseException | None,
    ) -> None:
        """Tell that a connection was given back."""
        if self._tracer.connection_returned is not None and lease.trace_number:
            seconds = self._clock() - lease.lent_at
            returned = ConnectionReturned(lease.trace_number, node.host, seconds, error)
            _tell(self._tracer.connection_returned, returned)


def _tell(callback: Callable[[_RecordT], Any], record: _RecordT) -> None:
    """Call a callback of the application; if it fails, that is only logged."""
    try:
        callback(record)
    except Exception:
        name, extra = type(record).__name__, about("tracer_failed")
        log.exception("a tracer has failed on %s", name, extra=extra)


def tell_of_probe(tracer: Tracer, probe: Answered | Failed) -> None:
    """Tell a tracer how a probe has ended."""
    if tracer.probe_ended is None:
        return
    role, error = Role.UNKNOWN, None
    if isinstance(probe, Answered):
        role = probe.reading.role
    else:
        error = probe.error
    _tell(tracer.probe_ended, ProbeEnded(probe.host, probe.at - probe.began, role, error))
