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

    Who waits has its token already, which is there by a certain moment: whoever comes later gets a
    later one. A token is given back by who is cancelled before it has a connection.

    Args:
        rate_limit: What the user asked for.
        waiters: What tasks wait with, or threads: here till their tokens are there.
        clock: The manager's.
    """

    def __init__(
        self, rate_limit: RateLimit, waiters: Waiters[None, None], clock: Callable[[], float]
    ) -> None:
        self._waits = TokenWaits(rate_limit, waiters, clock)
        self._lock = self._waits.lock
        self._buckets = TokenBuckets(Rate.parse(rate_limit.rate), clock)

    def enter(self, lease: Lease[Any, Any], deadline: float) -> Awaitable[None] | None:
        """Take a token for a task's acquire, or have it wait for one."""
        seconds = self._take(self._waits.key(), lease, deadline)
        return self._waits.wait(seconds) if seconds else None

    def enter_in_thread(self, lease: Lease[Any, Any], deadline: float) -> None:
        """Take a token for a thread's acquire, or wait for one."""
        key = self._waits.key()
        with self._lock:
            seconds = self._take(key, lease, deadline)
        if seconds:
            self._waits.wait_in_thread(seconds)

    def _take(self, key: str, lease: Lease[Any, Any], deadline: float) -> float:
        """Take a token, and return in how many seconds it is there."""
        longest_wait = self._waits.longest_wait(deadline)
        seconds = self._buckets.take(key, longest_wait)
        if seconds:
            if seconds > longest_wait:
                raise self._waits.refusal(key, seconds)
            self._waits.waits += 1
        lease.token = key
        return seconds

    def failed(self, lease: Lease[Any, Any], error: BaseException) -> None:
        """Give the token back of an acquire that was cancelled."""
        if lease.token is not None:
            with self._lock:
                key, lease.token = lease.token, None
                if key is not None and not isinstance(error, Exception):
                    self._buckets.give_back(key)

    def close(self) -> None:
        """Let nobody in any more, and nobody wait."""
        self._waits.close()

    async def end(self) -> None:
        """Leave nothing open."""

    def measure(self) -> RateLimitMetrics:
        """Take a snapshot."""
        return self._waits.measure(len(self._buckets))
