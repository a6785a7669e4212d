"""The stopwatch: how long one host takes to answer a probe."""

from collections import deque
from statistics import median

__all__ = ("Stopwatch",)

_REST_ROUND_TRIPS = 10
_LEAST_REST = 0.01
_MOST_REST = 0.25


class Stopwatch:
    """The round trips of the last probes of one host, in seconds."""

    def __init__(self, window: int) -> None:
        self._round_trips: deque[float] = deque(maxlen=window)
        self._median: float | None = None

    def record(self, seconds: float) -> None:
        """Take in how long one answer took."""
        self._round_trips.append(seconds)
        self._median = None

    @property
    def median(self) -> float | None:
        """The median round trip in seconds; None before the first."""
        if self._median is None and self._round_trips:
            self._median = median(self._round_trips)
        return self._median

    @property
    def rest(self) -> float:
        """Seconds that have to pass between the beginnings of two probes, except on new evidence.

        Ten round trips keep the load of probing low, and signals that come closer together are one
        signal. The rest is bounded, because a single slow answer, or a stall of this process, must
        not keep a change from being seen.
        """
        return min(max(_REST_ROUND_TRIPS * (self.median or 0.0), _LEAST_REST), _MOST_REST)
