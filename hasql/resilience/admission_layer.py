"""The admission layer: lets acquires in through a gate, for tasks and threads alike."""

from collections.abc import Awaitable, Callable
from typing import Any

from hasql._leasing.layers import Layer
from hasql._leasing.lease import Lease
from hasql._routing.node import Node
from hasql._routing.waiters import Waiters
from hasql.cluster.probe import Role
from hasql.driver.os_threads import new_guard
from hasql.metrics import AdmissionMetrics
from hasql.resilience.adaptive_limit import AdaptiveLimit
from hasql.resilience.admission import Admission
from hasql.resilience.admission_gate import AdmissionGate, QueuedAcquire
from hasql.resilience.priority import Priority, current_priority

__all__ = ("AdaptiveAdmissionLayer", "AdmissionLayer")

_CRITICAL = Priority.CRITICAL  # needed on each acquire, and a lookup in an enum is slow

NewWaiters = Callable[[], Waiters[Priority, None]]


class AdmissionLayer(Layer):
    """Admission around the leases of one manager.

    With `replica_limit` there are two gates. The role that a lease asks for decides which gate it
    passes, because the host is not known yet: a read that falls back to a master counts as one of
    a replica.

    Args:
        admission: The options.
        new_waiters: Makes the waiters, for tasks or for threads.
        clock: The manager's clock.
    """

    def __init__(
        self, admission: Admission, new_waiters: NewWaiters, clock: Callable[[], float]
    ) -> None:
        self._admission = admission
        self._new_waiters = new_waiters
        self._clock = clock
        # Held only briefly; no other lock is taken while it is held.
        self._lock = new_guard()
        apart = admission.replica_limit
        self._gate = self._replicas = self._new_gate(
            admission.limit, "leases" if apart is None else "leases other than those of replicas"
        )
        if apart is not None:
            self._replicas = self._new_gate(apart, "leases of replicas")
        self._together = apart is None
        self._gates = (self._gate,) if self._together else (self._gate, self._replicas)

    def _new_gate(self, limit: int, what: str) -> AdmissionGate:
        given = self._admission
        adaptive = AdaptiveLimit(limit, self._clock, given.reserve) if given.adaptive else None
        waiters = self._new_waiters()
        return AdmissionGate(
            limit, given.queue, given.reserve, waiters, self._clock, what, adaptive
        )

    def _gate_for(self, lease: Lease[Any, Any]) -> AdmissionGate:
        node = lease.fixed_node
        read = lease.request.role is Role.REPLICA if node is None else node.as_replica
        return self._replicas if read else self._gate

    # Letting in. The count of permits and the permit of the lease change with no call in between,
    # because a thread could be interrupted at a call.

    def enter(self, lease: Lease[Any, Any], deadline: float) -> Awaitable[None] | None:
        """Let a task's acquire in, or return an awaitable that waits for a permit."""
        gate = self._gate if self._together else self._gate_for(lease)
        level = current_priority.get()
        if gate.in_use < (gate.limit if level is _CRITICAL else gate.open_limit):
            gate.in_use += 1
            lease.permit = gate
            return None
        acquire = QueuedAcquire(level, self._clock(), deadline)
        return self._wait(lease, gate, acquire, gate.join(acquire, deadline))

    async def _wait(
        self,
        lease: Lease[Any, Any],
        gate: AdmissionGate,
        acquire: QueuedAcquire,
        waiter: Awaitable[None],
    ) -> None:
        try:
            await waiter
        except BaseException as error:
            gate.leave(acquire)
            if type(error) is TimeoutError:
                raise gate.too_late(lease.timeout) from None
            raise
        gate.release_waiter(acquire)
        acquire.granted = False
        lease.permit = gate

    def enter_in_thread(self, lease: Lease[Any, Any], deadline: float) -> None:
        """Let a thread's acquire in, or wait for a permit."""
        gate = self._gate if self._together else self._gate_for(lease)
        level = current_priority.get()
        acquire, late = None, False
        try:
            with self._lock:
                if gate.in_use < (gate.limit if level is _CRITICAL else gate.open_limit):
                    gate.in_use += 1
                    lease.permit = gate
                    return
                acquire = QueuedAcquire(level, self._clock(), deadline)
                waiter = gate.join(acquire, deadline)
                gate.dispatch()  # a finalizer may have given a permit back meanwhile
            late = not waiter.ended_within(deadline - self._clock())
            if late:
                raise TimeoutError  # noqa: TRY301  # handled like everything else that ends it
            waiter.result()
            with self._lock:
                gate.release_waiter(acquire)
                acquire.granted = False
                lease.permit = gate
        except BaseException:
            if acquire is not None:
                self._leave(gate, acquire)
                if late:
                    raise gate.too_late(lease.timeout) from None
            raise

    def _leave(self, gate: AdmissionGate, acquire: QueuedAcquire) -> None:
        try:
            with self._lock:
                gate.leave(acquire)
        except BaseException:  # an interrupt
            with self._lock:
                gate.leave(acquire)
            raise

    # Ends

    def failed(self, lease: Lease[Any, Any], error: BaseException) -> None:
        """Take back the permit of an acquire that has ended without a connection."""
        del error
        self._take_back(lease)

    def returned(
        self, lease: Lease[Any, Any], node: Node[Any, Any], error: BaseException | None
    ) -> None:
        """Take back the permit of a lease that has ended."""
        del node, error
        self._take_back(lease)

    def _take_back(self, lease: Lease[Any, Any]) -> None:
        gate: AdmissionGate | None = lease.permit
        with self._lock:
            if gate is not None:
                gate.in_use -= 1
                lease.permit = None
                if gate.waiting:
                    gate.dispatch()
            else:  # the acquire waited in vain, or an interrupt came before a dispatch was done
                for each in self._gates:
                    each.dispatch()

    def close(self) -> None:
        """Refuse all acquires from now on, and end all waits."""
        with self._lock:
            for gate in self._gates:
                gate.close()

    def measure(self) -> tuple[AdmissionMetrics, AdmissionMetrics | None]:
        """Take a snapshot of the gate, and of that for replicas if they are counted separately."""
        with self._lock:
            replicas = None if self._together else self._replicas.measure()
            return self._gate.measure(), replicas


class AdaptiveAdmissionLayer(AdmissionLayer):
    """Admission whose limit follows the time that leases are out."""

    def returned(
        self, lease: Lease[Any, Any], node: Node[Any, Any], error: BaseException | None
    ) -> None:
        """Take back the permit of a lease; learn from its duration if no error ended it."""
        del node
        gate: AdmissionGate | None = lease.permit
        with self._lock:
            if gate is not None and error is None and lease.lent_at:
                gate.note(self._clock() - lease.lent_at)
            self._take_back(lease)
