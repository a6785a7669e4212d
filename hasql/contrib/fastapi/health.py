"""The health endpoints: whether the process lives, and whether it can serve."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql.base import BasePoolManager

__all__ = ("ClusterCounts", "HealthReport", "health_router")


@dataclass(frozen=True)
class ClusterCounts:
    """How many hosts of a cluster are in routing."""

    masters: int
    replicas: int


@dataclass(frozen=True)
class HealthReport:
    """The answer of the health endpoints."""

    status: Literal["ok", "unavailable"]
    clusters: dict[str, ClusterCounts]


def health_router(
    pools_of: Callable[[Request], Mapping[str, BasePoolManager[Any, Any]]],
) -> APIRouter:
    """Make a router with both endpoints; neither acquires a connection.

    Args:
        pools_of: Returns the pool managers of a request's application, by their names.
    """
    router = APIRouter(prefix="/health", tags=["health"])

    def answer(status: int, report: HealthReport) -> JSONResponse:
        return JSONResponse(asdict(report), status, headers={"Cache-Control": "no-store"})

    async def live(request: Request) -> JSONResponse:
        """Answer 200 as long as the process can answer."""
        return answer(200, HealthReport("ok", _counts(pools_of(request))))

    async def ready(request: Request) -> JSONResponse:
        """Answer 200 if each cluster has a master, else 503."""
        clusters = _counts(pools_of(request))
        if all(counts.masters for counts in clusters.values()):
            return answer(200, HealthReport("ok", clusters))
        return answer(503, HealthReport("unavailable", clusters))

    unavailable: dict[int | str, dict[str, Any]] = {503: {"model": HealthReport}}
    router.add_api_route("/live", live, response_model=HealthReport)
    router.add_api_route("/ready", ready, response_model=HealthReport, responses=unavailable)
    return router


def _counts(pools: Mapping[str, BasePoolManager[Any, Any]]) -> dict[str, ClusterCounts]:
    return {
        name: ClusterCounts(pool.master_pool_count, pool.replica_pool_count)
        for name, pool in pools.items()
    }
