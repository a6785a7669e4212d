"""The load control of one manager: its layers for breaker, rate limit and admission."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hasql._leasing.layers import Layer
from hasql._routing.node import Node
from hasql._routing.waiters import Waiters
from hasql.driver import Driver
from hasql.events import Event
from hasql.metrics import AdmissionMetrics, BreakerMetrics, RateLimitMetrics
from hasql.resilience.admission_layer import AdaptiveAdmissionLayer, AdmissionLayer
from hasql.resilience.breaker_layer import BreakerLayer
from hasql.resilience.options import ResilienceOptions
from hasql.resilience.rate_layer import RateLimitLayer
from hasql.resilience.rate_limit import RateLimit
from hasql.resilience.stored_rate_layer import StoredRateLayer

__all__ = ("LoadControl", "LoadMetrics")


@dataclass(frozen=True, slots=True)
class LoadMetrics:
    """A snapshot of the load control; a feature that is off is None."""

    admission: AdmissionMetrics | None
    replica_admission: AdmissionMetrics | None
    rate_limit: RateLimitMetrics | None
    breaker: BreakerMetrics | None


class LoadControl:
    """The layers that refuse acquires of one manager, or make them wait.

    The breaker is outermost, because it refuses at once.

    Args:
        options: The options.
        driver: Judges what its errors mean.
        clock: The manager's clock.
        new_waiters: Makes the waiters, for tasks or for threads.
        masters: Returns the masters in routing.
        tell: Tells listeners of an event.
        hide: Masks passwords in a text.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        options: ResilienceOptions,
        driver: Driver[Any, Any],
        clock: Callable[[], float],
        new_waiters: Callable[[], Waiters[Any, Any]],
        masters: Callable[[], list[Node[Any, Any]]],
        tell: Callable[[Event], object],
        hide: Callable[[str], str],
    ) -> None:
        self._breaker: BreakerLayer | None = None
        self._rate_limit: RateLimitLayer | StoredRateLayer | None = None
        self._admission: AdmissionLayer | None = None
        if options.breaker is not None:
            self._breaker = BreakerLayer(options.breaker, driver, clock, masters, tell, hide)
        if options.rate_limit is not None:
            self._rate_limit = _rate_layer(options.rate_limit, new_waiters, clock, hide)
        if (admission := options.admission) is not None:
            kind = AdaptiveAdmissionLayer if admission.adaptive else AdmissionLayer
            self._admission = kind(admission, new_waiters, clock)

    def layers(self) -> list[Layer]:
        """Return the layers that are on, the outermost first."""
        layers = self._breaker, self._rate_limit, self._admission
        return [layer for layer in layers if layer is not None]

    def master_seen(self, began: float | None) -> None:
        """Note that a master was seen: see `BreakerLayer.master_seen`."""
        if self._breaker is not None:
            self._breaker.master_seen(began)

    def close(self) -> None:
        """End all waits: the manager is closing, and each acquire is told so."""
        for layer in (self._breaker, self._rate_limit, self._admission):
            if layer is not None:
                layer.close()

    async def end(self) -> None:
        """Close what is still open: the manager has closed."""
        if self._rate_limit is not None:
            await self._rate_limit.end()

    def measure(self) -> LoadMetrics:
        """Take a snapshot."""
        admission = replicas = None
        if self._admission is not None:
            admission, replicas = self._admission.measure()
        rate_limit = None if self._rate_limit is None else self._rate_limit.measure()
        breaker = None if self._breaker is None else self._breaker.measure()
        return LoadMetrics(admission, replicas, rate_limit, breaker)


def _rate_layer(
    rate_limit: RateLimit,
    new_waiters: Callable[[], Waiters[Any, None]],
    clock: Callable[[], float],
    hide: Callable[[str], str],
) -> RateLimitLayer | StoredRateLayer:
    if rate_limit.is_in_buckets:
        return RateLimitLayer(rate_limit, new_waiters(), clock)
    return StoredRateLayer(rate_limit, new_waiters, clock, hide)
