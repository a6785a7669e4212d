"""The cadence: how soon after one probe of a node the next one is due."""

from collections.abc import Callable
from random import uniform
from time import monotonic

__all__ = ("Cadence",)

#: Seconds between probes of a burst. A server needs 20 to 70 us for each (measured), so that a
#: thousand clients cost it half a core; who reads learns of a promotion sooner, by the answers.
_BURST_DELAY = 0.2
#: Seconds that a burst lasts after a signal, and while there is no master until it slows down.
_SIGNAL_LENGTH = 3.0
_SEARCH_LENGTH = 10.0
#: What it slows down to.
_BURST_SLOWEST = 0.5


class Cadence:
    """Steady while nothing happens, in bursts after a signal and while something is urgent."""

    def __init__(self, refresh_delay: float, is_urgent: Callable[[], bool]) -> None:
        self._refresh_delay = refresh_delay
        self._is_urgent = is_urgent
        #: When the burst began that a signal has started, and since when it has been urgent.
        self._signalled_at: float | None = None
        self._urgent_since: float | None = None

    @property
    def bursts(self) -> bool:
        """Whether a signal came not long ago."""
        began = self._signalled_at
        return began is not None and monotonic() - began <= _SIGNAL_LENGTH

    @property
    def hurries(self) -> bool:
        """Whether probes are many, and should be cheap."""
        return self.bursts or self._is_urgent()

    def burst(self) -> None:
        """Begin a burst; one under way just goes on."""
        if not self.bursts:
            self._signalled_at = monotonic()

    def delay(self) -> float:
        """Return the seconds from the beginning of one probe to that of the next."""
        now = monotonic()
        if not self._is_urgent():
            self._urgent_since = None
        elif self._urgent_since is None:
            self._urgent_since = now
        if self.bursts:
            delay = _BURST_DELAY
        elif self._urgent_since is not None:
            over = max(0.0, now - self._urgent_since - _SEARCH_LENGTH)
            # Doubling each second; where it ends is reached long before the power overflows.
            delay = min(_BURST_DELAY * 2 ** min(over, 10.0), _BURST_SLOWEST)
        else:
            return self._refresh_delay * uniform(0.9, 1.1)  # noqa: S311  # no secret
        return min(delay, self._refresh_delay) * uniform(0.75, 1.25)  # noqa: S311  # no secret
