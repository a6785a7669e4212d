"""hasql's backend, which tells Django's tests what is not for it."""

from __future__ import annotations

from functools import cached_property

from django.db.backends.postgresql.features import DatabaseFeatures

from hasql.contrib.django.base import DatabaseWrapper as ClusterWrapper

__all__ = ("DatabaseWrapper",)

_OF_POOLS = (
    "test_connect_pool",
    "test_connect_pool_set_to_true",
    "test_connect_pool_with_timezone",
    "test_pooling_health_checks",
    "test_pooling_not_support_persistent_connections",
)


class OwnFeatures(DatabaseFeatures):
    """PostgreSQL's features."""

    @cached_property
    def django_test_skips(self) -> dict[str, set[str]]:  # type: ignore[override]  # as Django does
        """Return what is not for this backend, by the reason."""
        tests = {f"backends.postgresql.tests.Tests.{name}" for name in _OF_POOLS}
        return {**super().django_test_skips, "OPTIONS['pool'] is refused": tests}


class DatabaseWrapper(ClusterWrapper):
    """hasql's wrapper."""

    features_class = OwnFeatures
