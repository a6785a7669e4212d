"""What a pool manager shows of itself: a snapshot, events, and the records of a tracer."""

from typing import Generic
from weakref import WeakMethod

from hasql._leasing.lease_infos import infos_of
from hasql._leasing.lease_tracing import LeaseTracing
from hasql._manager.assembly import Parts
from hasql._manager.measuring import Measuring
from hasql._manager.notifier import Listener
from hasql._manager.options import Options
from hasql.diagnostics import LeaseInfo
from hasql.driver import ConnT, PoolT
from hasql.metrics import Metrics
from hasql.tracing import Tracer

__all__ = ("Introspection",)


class Introspection(Generic[PoolT, ConnT]):
    """The part of a pool manager's API that shows what it knows and does."""

    def __init__(self, options: Options, parts: Parts[PoolT, ConnT]) -> None:
        self._options = options
        self._take(parts)

    def _take(self, parts: Parts[PoolT, ConnT]) -> None:
        """Use these parts from now on."""
        self._binding = parts.binding
        self._lifetime = parts.lifetime
        self._router = parts.router
        self._routing = parts.routing
        self._checkout = parts.checkout
        self._discovering = parts.discovering
        self._load = parts.load
        self._runs = parts.runs
        self._book = parts.book
        self._resizing = parts.resizing
        self._measuring = Measuring(parts, self._options)
        # Weakly: the finalizer that ends the loop thread of a dropped manager holds `reporting`,
        # and must not keep that manager alive.
        parts.reporting.measure = WeakMethod(self._measuring.take)
        self._lease_watch = parts.lease_watch

    def _check_process(self) -> None:
        """Refuse to work in a forked child, where nothing is known of the hosts.

        Raises WrongEventLoopError.
        """
        self._binding.check_process()

    def metrics(self) -> Metrics:
        """Return a frozen snapshot of all nodes and counters."""
        self._check_process()
        return self._measuring.take()

    def leases(self) -> list[LeaseInfo]:
        """Return the connections that are out and who holds them, the oldest lease first.

        Those that are being given back are left out. `task` is known with `lifecycle`, `stack` with
        ``Lifecycle(stacks=True)``.
        """
        self._check_process()
        now = self._options.clock()
        with self._routing.guard:
            return infos_of(self._book.all(), now)

    def add_listener(self, listener: Listener) -> None:
        """Register a function that is called for each event: see `hasql.events`.

        The event loop calls it soon after the change, outside of any acquire, and it must not wait.
        A manager for threads calls it in a separate thread, where it may wait; the next event is
        reported after that. An exception that it raises is logged.

        Raises:
            TypeError: It is not callable, or is a coroutine function.
        """
        self._check_process()
        self._routing.notifier.add(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Remove a listener, so that it is no longer called.

        Raises:
            ValueError: It is not a listener of this manager.
        """
        self._check_process()
        self._routing.notifier.remove(listener)

    def set_tracer(self, tracer: Tracer | None) -> None:
        """Report each acquire and each probe to a tracer from now on. None: report to no tracer.

        There is only one tracer at a time. Leases that began before this call are not reported.

        Raises:
            TypeError: It is not a `hasql.tracing.Tracer`.
        """
        self._check_process()
        if tracer is not None and not isinstance(tracer, Tracer):
            msg = f"a tracer must be a hasql.tracing.Tracer, not {tracer!r}"
            raise TypeError(msg)
        self._routing.tracer = tracer
        clock = self._options.clock
        self._checkout.trace(None if tracer is None else LeaseTracing(tracer, clock))
