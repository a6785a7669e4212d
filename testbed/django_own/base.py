"""hasql's backend, which tells Django's tests what is not for it."""

from __future__ import annotations

from functools import cached_property

import django
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
_OF_POOLS_SINCE_6_1 = ("test_pool_check_can_be_overridden", "test_pool_options_not_mutated")
_OF_WARNINGS_SINCE_6_1 = (
    "backends.base.test_creation.TestDbCreationTests.test_serialize_deprecation"
)


class OwnFeatures(DatabaseFeatures):
    """PostgreSQL's features."""

    @cached_property
    def django_test_skips(self) -> dict[str, set[str]]:  # type: ignore[override]  # as Django does
        """Return what is not for this backend, by the reason."""
        skips: dict[str, set[str]] = {**super().django_test_skips}
        of_pools: tuple[str, ...] = _OF_POOLS
        if django.VERSION >= (6, 1):  # Django asks for no test that is not there
            of_pools += _OF_POOLS_SINCE_6_1
            skips["it names the caller of our method, which calls Django's"] = {
                _OF_WARNINGS_SINCE_6_1
            }
        skips["OPTIONS['pool'] is refused"] = {
            f"backends.postgresql.tests.Tests.{name}" for name in of_pools
        }
        return skips


class DatabaseWrapper(ClusterWrapper):
    """hasql's wrapper."""

    features_class = OwnFeatures
