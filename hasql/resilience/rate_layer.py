"""The rate limit in memory, as a layer around leases: a token for each acquire."""

from collections.abc import Awaitable, Callable
from typing import Any

from hasql._leasing.layers import Layer
from hasql._leasing.lease import Lease
from hasql._routing.waiters import Waiters
from hasql.driver.os_threads import new_guard
from hasql.errors import PoolManagerClosedError, RateLimitedError
from hasql.metrics import RateLimitMetrics
from hasql.resilience.rate_limit import RateLimit
from hasql.resilience.rates import Rate
from hasql.resilience.token_buckets import TokenBuckets

__all__ = ("RateLimitLayer", "key_of", "refusal")


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
        self._rate_limit = rate_limit
        self._key = rate_limit.key
        self._waits_for_it = rate_limit.wait
        self._waiters = waiters
        self._clock = clock
        # Held for a moment at a time; who holds it takes no other lock.
        self._lock = new_guard()
        self._buckets = TokenBuckets(Rate.parse(rate_limit.rate), clock)
        self._closed = False
        self._waits = self._refusals = 0

    # Letting in

    def enter(self, lease: Lease[Any, Any], deadline: float) -> Awaitable[None] | None:
        """Take a token for a task's acquire, or have it wait for one."""
        key = "" if self._key is None else key_of(self._key)
        if wait := self._take(key, lease, deadline):
            return self._wait(wait)
        return None

    async def _wait(self, seconds: float) -> None:
        waiter: Any = self._waiters.join(None, self._clock() + seconds)  # a future
        try:
            await waiter
        except TimeoutError:
            pass  # that is what it has waited for
        finally:
            self._waiters.leave(None, waiter)

    def enter_in_thread(self, lease: Lease[Any, Any], deadline: float) -> None:
        """Take a token for a thread's acquire, or wait for one."""
        key = "" if self._key is None else key_of(self._key)
        with self._lock:
            wait = self._take(key, lease, deadline)
        if wait:
            self._wait_in_thread(wait)

    def _wait_in_thread(self, seconds: float) -> None:
        waiter: Any = None  # a future
        try:
            with self._lock:
                waiter = self._waiters.join(None, 0.0)
                if self._closed:
                    raise _closed()
            waiter.result(seconds)
        except TimeoutError:
            pass  # as above
        finally:
            if waiter is not None:
                try:
                    self._leave(waiter)
                except BaseException:  # an interrupt
                    self._leave(waiter)
                    raise

    def _leave(self, waiter: Any) -> None:  # noqa: ANN401  # a future
        with self._lock:
            self._waiters.leave(None, waiter)

    def _take(self, key: str, lease: Lease[Any, Any], deadline: float) -> float:
        """Take a token, and return for how long to wait until it is there."""
        if self._closed:
            raise _closed()
        patience = deadline - self._clock() if self._waits_for_it else 0.0
        wait = self._buckets.take(key, patience)
        if wait:
            if wait > patience:
                self._refusals += 1
                raise refusal(self._rate_limit, key, wait)
            self._waits += 1
        lease.token = key
        return wait

    # Ends

    def failed(self, lease: Lease[Any, Any], error: BaseException) -> None:
        """Give the token back of an acquire that was cancelled."""
        if lease.token is not None:
            with self._lock:
                key, lease.token = lease.token, None
                if key is not None and not isinstance(error, Exception):
                    self._buckets.give_back(key)

    def close(self) -> None:
        """Let nobody in any more, and nobody wait."""
        with self._lock:
            self._closed = True
            self._waiters.dismiss(_closed())

    def measure(self) -> RateLimitMetrics:
        """Take a snapshot."""
        with self._lock:
            waiting, keys = self._waiters.count, len(self._buckets)
            return RateLimitMetrics(self._waits, self._refusals, waiting, keys, 0)


def key_of(key: Callable[[], str]) -> str:
    """Ask the application for the key of an acquire. Raises TypeError for what is none."""
    found = key()
    if not isinstance(found, str):
        msg = f"the key of a RateLimit must return a str, not {type(found).__name__}"
        raise TypeError(msg)
    return found


def refusal(rate_limit: RateLimit, key: str, seconds: float) -> RateLimitedError:
    """Make the error that says when there is a token again."""
    whose = f" of key {key!r}" if key else ""
    why = "which is after the deadline" if rate_limit.wait else "and wait=False"
    msg = (
        f"the rate of {rate_limit.rate}{whose} is used up: the next token is there in "
        f"{seconds:.3f} s, {why}; try then, or raise the rate"
    )
    return RateLimitedError(msg, seconds)


def _closed() -> PoolManagerClosedError:
    return PoolManagerClosedError("the pool manager is closing")
