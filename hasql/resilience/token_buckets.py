"""The token buckets: how many acquires there may be in a time, in memory."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from hasql.resilience.rates import Rate

__all__ = ("TokenBuckets",)

MOST_KEYS: Final = 10_000
"""The highest number of keys that are kept."""

#: A wait of fewer seconds than this is only a rounding error.
_AT_ONCE = 1e-6


class TokenBuckets:
    """One bucket for each key, full at first, which refills evenly.

    A bucket is stored as the time at which it will be full again. When there are too many keys, the
    least recently used one is forgotten. Its bucket may not have been full. So all new keys begin
    as empty as the emptiest forgotten bucket, and no key gets more than the rate.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float], most_keys: int = MOST_KEYS) -> None:
        self._seconds = float(rate.seconds)
        self._interval = rate.seconds / rate.count
        self._clock = clock
        self._most_keys = most_keys
        self._full_at: OrderedDict[str, float] = OrderedDict()
        #: When the emptiest forgotten bucket would be full again.
        self._forgotten_full_at = -float("inf")

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, longest_wait: float) -> float:
        """Take a token; return in how many seconds it is valid.

        No token is taken if that is more than `longest_wait` seconds.
        """
        now, kept = self._clock(), self._full_at
        full_at = kept.get(key)
        if full_at is None:
            full_at = self._forgotten_full_at
            if len(kept) >= self._most_keys:
                _, forgotten = kept.popitem(last=False)
                self._forgotten_full_at = max(self._forgotten_full_at, forgotten)
        else:
            kept.move_to_end(key)
        full_at = max(full_at, now) + self._interval
        wait = full_at - self._seconds - now
        if wait < _AT_ONCE:
            wait = 0.0
        if wait <= longest_wait or not wait:
            kept[key] = full_at  # last, so that an interrupted thread has taken the token or not
        return wait

    def give_back(self, key: str) -> None:
        """Give back a token that was not used."""
        full_at = self._full_at.get(key)
        if full_at is not None:
            self._full_at[key] = full_at - self._interval
