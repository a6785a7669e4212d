"""An application whose pool manager sheds load; refusals on purpose do not count as errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from chaos.application import Application
from hasql.errors import BreakerOpenError, OverloadedError
from hasql.resilience import Admission, Breaker, RateLimit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("WithLoadControl",)

#: Seconds that a worker rests after a refusal.
_REST = 0.01


class WithLoadControl(Application):
    """Uses admission, a rate limit and the breaker; all their permits must come back."""

    # As many permits as connections, because afterwards every connection is tried.
    options: ClassVar[dict[str, Any]] = {
        "admission": Admission(10, replica_limit=20, reserve=0.0),
        "rate_limit": RateLimit("5000/second"),
        "breaker": Breaker(threshold=3, recovery=0.3),
    }

    async def _write(self, client: int, number: int) -> None:
        try:
            await super()._write(client, number)
        except (BreakerOpenError, OverloadedError):
            await self.workers.rest(_REST)

    async def _read(self, client: int, number: int) -> None:
        try:
            await super()._read(client, number)
        except OverloadedError:
            await self.workers.rest(_REST)

    def unforgiven(self) -> Iterator[str]:
        """Yield the permits that did not come back, and the waiters that are left."""
        metrics = self.manager.metrics()
        for gate in (metrics.admission, metrics.replica_admission):
            if gate.in_use or gate.waiting:
                yield f"{gate.in_use} permits are out, and {gate.waiting} wait"
        if metrics.rate_limit.waiting:
            yield f"{metrics.rate_limit.waiting} wait for a token"
