"""Rates that the `limits` library keeps, in memory or on Redis: the only module that uses it.

The library goes by the wall clock, which the processes that share a rate have in common.
"""

from time import time
from typing import Any, Final

import limits
from limits import aio
from redis import BlockingConnectionPool
from redis.asyncio import BlockingConnectionPool as AsyncBlockingConnectionPool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from hasql.resilience.rate_limit import IN_MEMORY, RateLimit
from hasql.resilience.rates import Rate

__all__ = ("CONNECTIONS", "TaskRates", "ThreadRates")

#: The namespace of all hasql's keys in the storage.
_NAMESPACE: Final = "hasql"
#: The highest number of connections to Redis.
CONNECTIONS: Final = 10
#: Seconds that a refused acquire waits at least before it asks again.
_SHORTEST_WAIT: Final = 0.002

_STRATEGIES: Final[dict[str, tuple[type[Any], type[Any]]]] = {
    "moving-window": (
        limits.strategies.MovingWindowRateLimiter,
        aio.strategies.MovingWindowRateLimiter,
    ),
    "fixed-window": (
        limits.strategies.FixedWindowRateLimiter,
        aio.strategies.FixedWindowRateLimiter,
    ),
    "sliding-window-counter": (
        limits.strategies.SlidingWindowCounterRateLimiter,
        aio.strategies.SlidingWindowCounterRateLimiter,
    ),
}


class _Rates:
    def __init__(self, rate_limit: RateLimit) -> None:
        rate = Rate.parse(rate_limit.rate)
        self._item = limits.RateLimitItemPerSecond(rate.count, rate.seconds, _NAMESPACE)

    def _seconds_till(self, reset_time: float) -> float:
        return max(_SHORTEST_WAIT, reset_time - time())


class TaskRates(_Rates):
    """A rate for tasks, which does not block their loop.

    Args:
        rate_limit: The options.
        seconds: How many seconds Redis may take to answer.
    """

    def __init__(self, rate_limit: RateLimit, seconds: float) -> None:
        super().__init__(rate_limit)
        self._pool: Any = None
        storage: Any
        if rate_limit.storage == IN_MEMORY:
            storage = aio.storage.MemoryStorage()
        else:
            self._pool = AsyncBlockingConnectionPool.from_url(
                _url_of(rate_limit), **_options(AsyncRetry, seconds)
            )
            storage = aio.storage.RedisStorage(
                f"async+{rate_limit.storage}", implementation="redispy", connection_pool=self._pool
            )
        self._strategy = _STRATEGIES[rate_limit.strategy][1](storage)

    async def take(self, key: str) -> float:
        """Take a token and return 0, or return in how many seconds there will be one."""
        if await self._strategy.hit(self._item, key):
            return 0.0
        stats = await self._strategy.get_window_stats(self._item, key)
        return self._seconds_till(stats.reset_time)

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._pool is not None:
            await self._pool.aclose()


class ThreadRates(_Rates):
    """A rate for threads, each of which waits for Redis itself; otherwise like `TaskRates`."""

    def __init__(self, rate_limit: RateLimit, seconds: float) -> None:
        super().__init__(rate_limit)
        self._pool: Any = None
        storage: Any
        if rate_limit.storage == IN_MEMORY:
            storage = limits.storage.MemoryStorage()
        else:
            self._pool = BlockingConnectionPool.from_url(
                _url_of(rate_limit), **_options(Retry, seconds)
            )
            storage = limits.storage.RedisStorage(rate_limit.storage, connection_pool=self._pool)
        self._strategy = _STRATEGIES[rate_limit.strategy][0](storage)

    def take(self, key: str) -> float:
        """Take a token and return 0, or return in how many seconds there will be one."""
        if self._strategy.hit(self._item, key):
            return 0.0
        return self._seconds_till(self._strategy.get_window_stats(self._item, key).reset_time)

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._pool is not None:
            self._pool.disconnect()


def _options(retry: type[Any], seconds: float) -> dict[str, Any]:
    """Return the options of a connection pool: limits on number and time, and one retry.

    A command is tried once more if its connection failed, but not after a timeout: a second try
    would take as long again.
    """
    return {
        "max_connections": CONNECTIONS,
        "timeout": seconds,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": retry(NoBackoff(), 1, (RedisConnectionError,)),
    }


def _url_of(rate_limit: RateLimit) -> str:
    """Return the URL for redis-py, which uses another scheme for Unix sockets."""
    return rate_limit.storage.replace("redis+unix://", "unix://", 1)
