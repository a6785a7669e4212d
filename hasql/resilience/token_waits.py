"""Waiting for a token of the rate limit, for tasks and threads, and what is counted of it."""

from collections.abc import Callable
from typing import Any

from hasql._routing.waiters import Waiters
from hasql.driver.os_threads import new_guard
from hasql.errors import PoolManagerClosedError, RateLimitedError
from hasql.metrics import RateLimitMetrics
from hasql.resilience.rate_limit import RateLimit

__all__ = ("TokenWaits",)


class TokenWaits:
    """Who waits until a token is there. All end at once when the manager closes.

    Args:
        rate_limit: What the user asked for.
        waiters: What tasks wait with, or threads: till a moment at which they end.
        clock: The manager's.
    """

    def __init__(
        self, rate_limit: RateLimit, waiters: Waiters[None, None], clock: Callable[[], float]
    ) -> None:
        self._rate_limit = rate_limit
        self._waiters = waiters
        self._clock = clock
        #: Held for a moment at a time; who holds it takes no other lock.
        self.lock = new_guard()
        self._closed = False
        #: Acquires that had to wait, those that were refused, and times that the storage failed.
        self.waits = self.refusals = self.storage_errors = 0

    def key(self) -> str:
        """Ask the application for the key of an acquire. Raises TypeError for what is none."""
        if self._rate_limit.key is None:
            return ""
        found = self._rate_limit.key()
        if not isinstance(found, str):
            msg = f"the key of a RateLimit must return a str, not {type(found).__name__}"
            raise TypeError(msg)
        return found

    def longest_wait(self, deadline: float) -> float:
        """Return for how many seconds an acquire may wait. Raises PoolManagerClosedError."""
        if self._closed:
            raise _closed()
        return deadline - self._clock() if self._rate_limit.wait else 0.0

    async def wait(self, seconds: float) -> None:
        """Have a task wait."""
        waiter: Any = self._waiters.join(None, self._clock() + seconds)  # a future
        try:
            await waiter
        except TimeoutError:
            pass  # that is what it has waited for
        finally:
            self._waiters.leave(None, waiter)

    def wait_in_thread(self, seconds: float) -> None:
        """Have a thread wait."""
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
        """Make the error that says when there is a token again."""
        self.refusals += 1
        whose = f" of key {key!r}" if key else ""
        why = "which is after the deadline" if self._rate_limit.wait else "and wait=False"
        msg = (
            f"the rate of {self._rate_limit.rate}{whose} is used up: the next token is there in "
            f"{seconds:.3f} s, {why}; try then, or raise the rate"
        )
        return RateLimitedError(msg, seconds)

    def too_many(self, storage: str, seconds: float) -> RateLimitedError:
        """Make the error of who has waited so long for its turn to ask the storage, in vain."""
        with self.lock:
            self.refusals += 1
        msg = (
            f"the storage of the rate limit ({storage}) has answered others for {seconds:.3f} s, "
            "until the deadline: try later, or do less at once"
        )
        return RateLimitedError(msg, seconds)

    def close(self) -> None:
        """Let nobody in any more, and nobody wait."""
        with self.lock:
            self._closed = True
            self._waiters.dismiss(_closed())

    def measure(self, keys: int, others: int = 0) -> RateLimitMetrics:
        """Take a snapshot, with others that wait elsewhere."""
        with self.lock:
            waiting = self._waiters.count + others
            return RateLimitMetrics(self.waits, self.refusals, waiting, keys, self.storage_errors)


def _closed() -> PoolManagerClosedError:
    return PoolManagerClosedError("the pool manager is closing")
