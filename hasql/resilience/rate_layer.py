"""The rate limit in memory, as a layer around leases: a token for each acquire."""

from collections.abc import Awaitable, Callable
from typing import Any

from hasql._leasing.layers import Layer
from hasql._leasing.lease import Lease
from hasql._routing.waiters import Waiters
from hasql.metrics import RateLimitMetrics
from hasql.resilience.rate_limit import RateLimit
from hasql.resilience.rates import Rate
from hasql.resilience.token_buckets import TokenBuckets
from hasql.resilience.token_waits import TokenWaits

__all__ = ("RateLimitLayer",)


class RateLimitLayer(Layer):
    """Token buckets around the leases of one manager.

    An acquire that waits has taken its token already, one that becomes valid at a certain time.
    Acquires that come later get later tokens. An acquire that is cancelled before it has a
    connection gives its token back.

    Args:
        rate_limit: The options.
        waiters: The waiters, for tasks or for threads; here they last until tokens are valid.
        clock: The manager's clock.
    """

    def __init__(
        self, rate_limit: RateLimit, waiters: Waiters[None, None], clock: Callable[[], float]
    ) -> None:
        self._waits = TokenWaits(rate_limit, waiters, clock)
        self._lock = self._waits.lock
        self._buckets = TokenBuckets(Rate.parse(rate_limit.rate), clock)

    def enter(self, lease: Lease[Any, Any], deadline: float) -> Awaitable[None] | None:
        """Take a token for a task's acquire; return an awaitable if it is only valid later."""
        seconds = self._take(self._waits.key(), lease, deadline)
        return self._waits.wait(seconds) if seconds else None

    def enter_in_thread(self, lease: Lease[Any, Any], deadline: float) -> None:
        """Take a token for a thread's acquire, and wait until it is valid."""
        key = self._waits.key()
        with self._lock:
            seconds = self._take(key, lease, deadline)
        if seconds:
            self._waits.wait_in_thread(seconds)

    def _take(self, key: str, lease: Lease[Any, Any], deadline: float) -> float:
        """Take a token, and return in how many seconds it is valid."""
        longest_wait = self._waits.longest_wait(deadline)
        seconds = self._buckets.take(key, longest_wait)
        if seconds:
            if seconds > longest_wait:
                raise self._waits.refusal(key, seconds)
            self._waits.waits += 1
        lease.token = key
        return seconds

    def failed(self, lease: Lease[Any, Any], error: BaseException) -> None:
        """Give back the token of an acquire that was cancelled."""
        if lease.token is not None:
            with self._lock:
                key, lease.token = lease.token, None
                if key is not None and not isinstance(error, Exception):
                    self._buckets.give_back(key)

    def close(self) -> None:
        """Refuse all acquires from now on, and end all waits."""
        self._waits.close()

    async def end(self) -> None:
        """Do nothing: token buckets leave nothing open."""

    def measure(self) -> RateLimitMetrics:
        """Take a snapshot."""
        return self._waits.measure(len(self._buckets))
