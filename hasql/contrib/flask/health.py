"""The health endpoints: whether the process lives, and whether it can serve."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from flask import Blueprint, jsonify

from hasql.errors import NotAvailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response

    from hasql.contrib.flask.clusters import AppClusters
    from hasql.sync.base import BaseSyncPoolManager

__all__ = ("health_blueprint",)

_START_TIMEOUT: Final = 0.5
"""Seconds that the first request waits for a master, because it starts the pool managers."""
_SERVICE_UNAVAILABLE: Final = 503


def health_blueprint(clusters_here: Callable[[], AppClusters]) -> Blueprint:
    """Make a blueprint with both endpoints; neither acquires a connection.

    Args:
        clusters_here: Returns the clusters of the current application.
    """
    blueprint = Blueprint("hasql_health", __name__)

    @blueprint.get("/live")
    def live() -> Response:
        """Answer 200 as long as the process can answer."""
        return _report("ok", _counts(_managers(clusters_here())))

    @blueprint.get("/ready")
    def ready() -> Response:
        """Answer 200 if each cluster has a master, else 503."""
        managers = _managers(clusters_here())
        for manager in managers.values():
            if not manager.metrics().nodes:  # not started yet
                with suppress(NotAvailableError):
                    manager.ready(1, 0, timeout=_START_TIMEOUT)
        counts = _counts(managers)
        if all(of_one["masters"] for of_one in counts.values()):
            return _report("ok", counts)
        response = _report("unavailable", counts)
        response.status_code = _SERVICE_UNAVAILABLE
        return response

    return blueprint


def _managers(clusters: AppClusters) -> dict[str, BaseSyncPoolManager[Any, Any]]:
    return {name: cluster.manager for name, cluster in clusters.by_name.items()}


def _counts(managers: dict[str, BaseSyncPoolManager[Any, Any]]) -> dict[str, dict[str, int]]:
    return {
        name: {"masters": manager.master_pool_count, "replicas": manager.replica_pool_count}
        for name, manager in managers.items()
    }


def _report(status: str, counts: dict[str, dict[str, int]]) -> Response:
    response = jsonify(status=status, clusters=counts)
    response.headers["Cache-Control"] = "no-store"
    return response
