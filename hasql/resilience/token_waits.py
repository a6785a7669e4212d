"""Waiting for a token of the rate limit, for tasks and threads, and the counts of these waits."""

from collections.abc import Callable
from typing import Any

from hasql._routing.waiters import Waiters
from hasql.driver.os_threads import new_guard
from hasql.errors import PoolManagerClosedError, RateLimitedError
from hasql.metrics import RateLimitMetrics
from hasql.resilience.rate_limit import RateLimit

__all__ = ("TokenWaits",)


class TokenWaits:
    """Acquires that wait until a token is valid. All waits end at once when the manager closes.

    Args:
        rate_limit: The options.
        waiters: The waiters, for tasks or for threads; those of tasks end at a given time.
        clock: The manager's clock.
    """

    def __init__(
        self, rate_limit: RateLimit, waiters: Waiters[None, None], clock: Callable[[], float]
    ) -> None:
        self._rate_limit = rate_limit
        self._waiters = waiters
        self._clock = clock
        #: Held only briefly; no other lock is taken while it is held.
        self.lock = new_guard()
        self._closed = False
        #: How many acquires had to wait and were refused, and how often the storage has failed.
        self.waits = self.refusals = self.storage_errors = 0

    def key(self) -> str:
        """Ask the application for the key of an acquire. Raises TypeError if it is not a str."""
        if self._rate_limit.key is None:
            return ""
        found = self._rate_limit.key()
        if not isinstance(found, str):
            msg = f"the key of a RateLimit must return a str, not {type(found).__name__}"
            raise TypeError(msg)
        return found

    def longest_wait(self, deadline: float) -> float:
        """Return how many seconds an acquire may wait. Raises PoolManagerClosedError."""
        if self._closed:
            raise _closed()
        return deadline - self._clock() if self._rate_limit.wait else 0.0

    async def wait(self, seconds: float) -> None:
        """Wait in a task for so many seconds."""
        waiter: Any = self._waiters.join(None, self._clock() + seconds)  # a future
        try:
            await waiter
        except TimeoutError:
            pass  # the time is over, as intended
        finally:
            self._waiters.leave(None, waiter)

    def wait_in_thread(self, seconds: float) -> None:
        """Wait in a thread for so many seconds."""
        waiter: Any = None  # a `ThreadWaiter`
        try:
            with self.lock:
                waiter = self._waiters.join(None, 0.0)
                if self._closed:
                    raise _closed()
            if waiter.ended_within(seconds):
                waiter.result()
        finally:
            if waiter is not None:
                try:
                    self._leave(waiter)
                except BaseException:  # an interrupt
                    self._leave(waiter)
                    raise

    def _leave(self, waiter: Any) -> None:  # noqa: ANN401  # as above
        with self.lock:
            self._waiters.leave(None, waiter)

    def refusal(self, key: str, seconds: float) -> RateLimitedError:
        """Make the error that says when the next token is valid."""
        self.refusals += 1
        whose = f" of key {key!r}" if key else ""
        why = "which is after the deadline" if self._rate_limit.wait else "and wait=False"
        msg = (
            f"the rate of {self._rate_limit.rate}{whose} is used up: the next token is there in "
            f"{seconds:.3f} s, {why}; try then, or raise the rate"
        )
        return RateLimitedError(msg, seconds)

    def too_many(self, storage: str, seconds: float) -> RateLimitedError:
        """Make the error for an acquire that waited so long for its turn to ask, in vain."""
        with self.lock:
            self.refusals += 1
        msg = (
            f"the storage of the rate limit ({storage}) was busy answering others for "
            f"{seconds:.3f} s, until the deadline: try later, or do less at once"
        )
        return RateLimitedError(msg, seconds)

    def close(self) -> None:
        """Refuse all acquires from now on, and end all waits."""
        with self.lock:
            self._closed = True
            self._waiters.dismiss(_closed())

    def measure(self, keys: int, others: int = 0) -> RateLimitMetrics:
        """Take a snapshot; `others` is the number of acquires that wait elsewhere."""
        with self.lock:
            waiting = self._waiters.count + others
            return RateLimitMetrics(self.waits, self.refusals, waiting, keys, self.storage_errors)


def _closed() -> PoolManagerClosedError:
    return PoolManagerClosedError("the pool manager is closing")
