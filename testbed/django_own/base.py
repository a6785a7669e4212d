"""hasql's backend, which also tells Django's tests which of them do not apply to it."""

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
    """PostgreSQL's features, and the tests to skip."""

    @cached_property
    def django_test_skips(self) -> dict[str, set[str]]:  # type: ignore[override]  # as Django does
        """Return the tests that do not apply to this backend, by the reason."""
        skips: dict[str, set[str]] = {**super().django_test_skips}
        of_pools: tuple[str, ...] = _OF_POOLS
        if django.VERSION >= (6, 1):  # Django allows no skip of a test that does not exist
            of_pools += _OF_POOLS_SINCE_6_1
            skips["it names the caller of our method, which calls Django's"] = {
                _OF_WARNINGS_SINCE_6_1
            }
        skips["OPTIONS['pool'] is refused"] = {
            f"backends.postgresql.tests.Tests.{name}" for name in of_pools
        }
        return skips


class DatabaseWrapper(ClusterWrapper):
    """hasql's connection wrapper, with the features above."""

    features_class = OwnFeatures
