"""An application whose manager sheds load: what it is refused on purpose is no error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from chaos.application import Application
from hasql.errors import BreakerOpenError, OverloadedError
from hasql.resilience import Admission, Breaker, RateLimit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("WithLoadControl",)

#: Seconds for which whoever was refused rests.
_REST = 0.01


class WithLoadControl(Application):
    """Admission, a rate and the breaker are on, and give back all that they have given."""

    # As many permits as there are places: afterwards each of those is tried.
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
        """Yield what is left of permits and waiting."""
        metrics = self.manager.metrics()
        for gate in (metrics.admission, metrics.replica_admission):
            if gate.in_use or gate.waiting:
                yield f"{gate.in_use} permits are out, and {gate.waiting} wait"
        if metrics.rate_limit.waiting:
            yield f"{metrics.rate_limit.waiting} wait for a token"
