"""The regular report on the pools, and the advice on their sizes."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from hasql._routing.node import Node
from hasql.diagnostics import about
from hasql.metrics import Metrics, NodeMetrics

__all__ = ("Reporting", "sizing_advice")

log = logging.getLogger("hasql")

#: A pool is larger than need be if at most one in so many of its connections was in use at once.
_SHARE_TO_SPARE = 4
#: A size that may well stay as it is.
_SMALL = 4


class Reporting:
    """Logs a snapshot of the pools every so many seconds. None: never, and there is no timer."""

    def __init__(self, every: float | None, nodes: Callable[[], Iterable[Node[Any, Any]]]) -> None:
        self._every = every
        self._nodes = nodes
        self._timer: asyncio.TimerHandle | None = None
        #: Returns the function that takes the snapshot; None once the manager was dropped.
        self.measure: Callable[[], Callable[[], Metrics] | None] = _nothing
        #: How many acquires had waited at the last report.
        self.waits_before = 0
        self._acquires_before = 0

    def begin(self) -> None:
        """Begin, in the event loop."""
        if self._every is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every, self._report)

    def cancel(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
        self._every = None

    def _report(self) -> None:
        self._timer = None
        if (measure := self.measure()) is not None:
            metrics = measure()
            waits, acquires = metrics.waits - self.waits_before, metrics.acquires
            acquires -= self._acquires_before
            self.waits_before, self._acquires_before = metrics.waits, metrics.acquires
            for node in self._nodes():
                node.peak = node.in_flight
            log.info(
                "pools: %s; %d acquires, %d of them waited, %d waiting now",
                "; ".join(map(_told, metrics.nodes)) or "none",
                acquires,
                waits,
                metrics.waiting,
                extra=about(
                    "pools",
                    pools=[_as_record(node) for node in metrics.nodes],
                    acquires=acquires,
                    waits=waits,
                    waiting=metrics.waiting,
                ),
            )
        self.begin()


def _nothing() -> None:
    pass


def _told(node: NodeMetrics) -> str:
    said = (
        f"{node.host} {node.role.value} {node.health.value} {node.in_flight} of {node.pool_max} "
        f"in use, {node.pool_peak} at most, {node.pool_idle} idle"
    )
    return said if node.advice is None else f"{said} ({node.advice})"


def _as_record(node: NodeMetrics) -> dict[str, Any]:
    return {
        "host": str(node.host),
        "role": node.role.value,
        "health": node.health.value,
        "min": node.pool_min,
        "max": node.pool_max,
        "used": node.in_flight,
        "peak": node.pool_peak,
        "idle": node.pool_idle,
        "advice": node.advice,
    }


def sizing_advice(node: Node[Any, Any], *, waited: bool) -> str | None:
    """Return advice on the sizes of a pool, by its use since the last report. None: no advice.

    Args:
        node: The pool's node.
        waited: Whether acquires have waited meanwhile, for any host.
    """
    peak, sizes = node.peak, node.sizes
    if peak >= sizes.maximum and waited:
        return (
            f"all {sizes.maximum} were in use at once while acquires waited: a larger max_size, "
            "or shorter leases, would avoid that"
        )
    if not peak:
        return None  # it may not serve at all
    if sizes.minimum > max(peak, _SMALL):
        return f"{sizes.minimum} are kept open, and {peak} were in use: min_size={peak} would do"
    if sizes.maximum > _SMALL and peak * _SHARE_TO_SPARE <= sizes.maximum:
        return f"at most {peak} of {sizes.maximum} were in use: max_size={2 * peak} would do"
    return None
