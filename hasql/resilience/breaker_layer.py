"""The breaker of a cluster's masters, as a layer around leases.

Libraries were considered first, in November 2026. purgatory 3.0 and circuitbreaker 2.1 let all
calls through while half-open, pybreaker 1.4 holds its lock throughout a call and has no asyncio
support, and aiobreaker 1.2 has had no release since 2021. Besides, all of them wrap calls, and a
lease is not a call: it begins with an acquire and ends with a release, perhaps in another task. If
a library's breaker had to be driven by hand for that, all it would provide is a counter and a time.
"""

from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

from hasql._leasing.layers import Layer
from hasql._leasing.lease import Lease
from hasql._routing.node import Node
from hasql._routing.request import MASTER
from hasql.driver import Driver, Failure
from hasql.driver.deadline import SlowConnectError
from hasql.driver.judgement import is_own_limit, judge_error
from hasql.driver.os_threads import new_guard
from hasql.errors import BreakerOpenError, NotAvailableError, OverloadedError, RateLimitedError
from hasql.events import BreakerClosed, BreakerOpened, Event
from hasql.metrics import BreakerMetrics, BreakerState
from hasql.resilience.breaker import Breaker

__all__ = ("BreakerLayer",)

#: Seconds after which a trial that has its connection counts as successful, even if it goes on.
_PROVEN = 1.0
#: Errors of deliberate refusals, which say nothing about a master.
_SHED = (OverloadedError, RateLimitedError, BreakerOpenError)
#: Failures that count against the master if a lease has lost its connection through them.
_FROM_BELOW = frozenset({Failure.BROKEN, Failure.READ_ONLY})


class BreakerLayer(Layer):
    """Refuses acquires of a master while masters fail, and lets one trial through at a time.

    It counts only acquires that ask for a master, and their leases. A trial ends with its lease, or
    once it has had its connection for a second, so that long work does not block other acquires.

    Args:
        breaker: The options.
        driver: Judges what its errors mean.
        clock: The manager's clock.
        masters: Returns the masters in routing.
        tell: Tells listeners of an event; called while no lock is held.
        hide: Masks passwords in a text.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        breaker: Breaker,
        driver: Driver[Any, Any],
        clock: Callable[[], float],
        masters: Callable[[], list[Node[Any, Any]]],
        tell: Callable[[Event], object],
        hide: Callable[[str], str],
    ) -> None:
        self._threshold: float = breaker.threshold
        self._recovery = breaker.recovery
        self._driver = driver
        self._clock = clock
        self._masters = masters
        self._tell = tell
        self._hide = hide
        # Held only briefly; no other lock is taken while it is held.
        self._lock = new_guard()
        self._open = False
        self._failures = 0
        self._opened_at = self._tries_at = 0.0
        #: Whether a probe that sees a master allows a trial: not any more once a trial has failed.
        self._heeds_probes = False
        #: The lease that is the trial, and when it was lent.
        self._trial: Lease[Any, Any] | None = None
        self._trial_lent_at = inf
        self._last_error = ""
        self._openings = self._refusals = 0

    # Letting in

    def enter(self, lease: Lease[Any, Any], deadline: float) -> Awaitable[None] | None:
        """Let a task's acquire in, unless it asks for a master and the breaker is open."""
        if self._open and _concerns(lease):
            self.enter_in_thread(lease, deadline)
        return None

    def enter_in_thread(self, lease: Lease[Any, Any], deadline: float) -> None:
        """Let a thread's acquire in, unless it asks for a master and the breaker is open."""
        del deadline
        if not self._open or not _concerns(lease):
            return
        closed = False
        with self._lock:
            now = self._clock()
            if self._trial is not None and now >= self._trial_lent_at + _PROVEN:
                closed = self._close()
            if self._open:
                if self._trial is not None or now < self._tries_at:
                    self._refusals += 1
                    raise self._refusal(now)
                self._trial, self._trial_lent_at = lease, inf
        if closed:
            self._tell(BreakerClosed())

    def _refusal(self, now: float) -> BreakerOpenError:
        if self._trial is not None:
            until = "until the trial under way succeeds"
        else:
            until = f"for {self._tries_at - now:.1f} s more, or until a master is seen"
        return BreakerOpenError(
            f"the breaker is open {until}: {self._failures} acquires or leases of a master have "
            f"failed in a row, the last with {self._last_error}; try later"
        )

    def master_seen(self, began: float | None) -> None:
        """Note that a probe, begun at that time, has found a master; None: one begins to serve."""
        with self._lock:
            heeds = began is None or (self._heeds_probes and began > self._opened_at)
            if self._open and heeds:
                self._tries_at = min(self._tries_at, self._clock())

    # Ends

    def lent(self, lease: Lease[Any, Any]) -> None:
        """Note that the trial has got its connection, if this lease is the trial."""
        if self._trial is lease:
            self._trial_lent_at = self._clock()

    def failed(self, lease: Lease[Any, Any], error: BaseException) -> None:
        """Count a failed acquire, if its error says something about the masters."""
        if not _concerns(lease):
            return
        if isinstance(error, NotAvailableError):
            shed = isinstance(error, _SHED) or error.exhausted
            fails = not shed and not any(map(_serves, self._masters()))
        else:
            fails = isinstance(error, Exception) and self._judged(error) is Failure.BROKEN
        if fails:
            self._count(lease, error)
        elif self._trial is lease:
            self._free_trial()

    def returned(
        self, lease: Lease[Any, Any], node: Node[Any, Any], error: BaseException | None
    ) -> None:
        """Count a lease that has ended, if its end says something about the masters."""
        if not (self._failures or error is not None) or not _concerns(lease):
            return
        limited = lease.terminated or lease.hit_session_limit
        lost = lease.lost or lease.expired or limited
        own = limited or (error is not None and is_own_limit(error))
        if error is not None and lost and not own and self._judged(error) in _FROM_BELOW:
            # A master that another has replaced says nothing about the one that serves now.
            if node.as_master or not self._masters():
                self._count(lease, error)
            elif self._trial is lease:
                self._free_trial()
        elif lost or not isinstance(error, Exception | None):
            if self._trial is lease:  # it was cancelled, or its end shows nothing of the master
                self._free_trial()
        else:
            self._note_success(lease)

    def _judged(self, error: BaseException) -> Failure:
        return judge_error(self._driver, error)

    def _count(self, lease: Lease[Any, Any], error: BaseException) -> None:
        first_line = f"{type(error).__name__}: {error}".partition("\n")[0]
        opens = False
        with self._lock:
            self._failures += 1
            self._last_error = self._hide(first_line)
            of_trial = self._trial is lease
            if of_trial or (not self._open and self._failures >= self._threshold):
                self._open, self._trial = True, None
                self._opened_at = self._clock()
                self._tries_at = self._opened_at + self._recovery
                self._heeds_probes = not of_trial
                self._openings += 1
                opens = True
        if opens:
            self._tell(BreakerOpened(self._failures, error))

    def _note_success(self, lease: Lease[Any, Any]) -> None:
        closed = False
        with self._lock:
            if self._trial is lease:
                closed = self._close()
            elif not self._open:
                self._failures = 0
        if closed:
            self._tell(BreakerClosed())

    def _free_trial(self) -> None:
        """Make the next acquire the trial, because this one has shown nothing."""
        with self._lock:
            self._trial = None

    def _close(self) -> bool:
        self._open, self._trial, self._failures = False, None, 0
        return True

    def close(self) -> None:
        """Let all acquires through: the manager is closing, and refuses them itself."""
        with self._lock:
            self._close()
            self._threshold = inf

    def measure(self) -> BreakerMetrics:
        """Take a snapshot."""
        with self._lock:
            state = BreakerState.CLOSED
            if self._open:
                tries = self._trial is not None or self._clock() >= self._tries_at
                state = BreakerState.HALF_OPEN if tries else BreakerState.OPEN
            return BreakerMetrics(state, self._failures, self._openings, self._refusals)


def _serves(node: Node[Any, Any]) -> bool:
    """Tell whether a master accepts connections, as far as is known from its server.

    If it does, an acquire that has failed at its own deadline says nothing about the master.
    """
    return node.error is None or isinstance(node.error, SlowConnectError)


def _concerns(lease: Lease[Any, Any]) -> bool:
    return lease.request is MASTER and lease.fixed_node is None
