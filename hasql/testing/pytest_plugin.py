"""The pytest fixture ``pg_cluster``: a real replicated PostgreSQL for an application's tests.

pytest imports this module in every run of every project that has hasql installed. It therefore
imports most of its dependencies only when a test asks for the fixture.
"""

from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing._source import Source
    from hasql.testing.local_cluster import LocalCluster

__all__ = ("pg_cluster", "pytest_addoption")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options ``--pg-version`` and ``--pg-source``, and the same as ini settings."""
    group = parser.getgroup("hasql", "hasql: a real replicated PostgreSQL")
    group.addoption(
        "--pg-version",
        help="major version of PostgreSQL for pg_cluster, like 18 (default: the newest there is)",
    )
    group.addoption(
        "--pg-source",
        choices=("auto", "wheel", "local", "docker"),
        help="where pg_cluster takes PostgreSQL from (default: auto)",
    )
    parser.addini("hasql_pg_version", "major version of PostgreSQL for pg_cluster", default="")
    parser.addini("hasql_pg_source", "where pg_cluster takes PostgreSQL from", default="")


class _SharedCluster:
    """The cluster of a test session: started on first use, replaced if it cannot be repaired."""

    def __init__(self, version: str, source: str) -> None:
        if version and not version.isdecimal():
            raise pytest.UsageError(
                f"--pg-version / hasql_pg_version: {version!r} is not a major version, like 18"
            )
        self._version = int(version) if version else None
        self._source = cast("Source", source or "auto")
        self._cluster: LocalCluster | None = None

    def healthy(self) -> "LocalCluster":
        """Return the cluster, with one master and all other nodes streaming from it."""
        from hasql.testing.errors import ClusterError
        from hasql.testing.local_cluster import LocalCluster

        if self._cluster is not None:
            try:
                self._cluster.heal()
            except ClusterError:
                self.close()  # beyond repair; a new cluster takes a second
            else:
                return self._cluster
        cluster = LocalCluster(
            version=self._version,
            source=self._source,
            scram_iterations=1,  # safe: a random password of 128 bits cannot be guessed anyway
        )
        self._cluster = cluster.__enter__()
        return self._cluster

    def close(self) -> None:
        """Stop the cluster, if there is one."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.__exit__(None, None, None)


@pytest.fixture(scope="session")
def _hasql_shared_cluster(pytestconfig: pytest.Config) -> "Iterator[_SharedCluster]":
    shared = _SharedCluster(
        pytestconfig.getoption("--pg-version") or pytestconfig.getini("hasql_pg_version"),
        pytestconfig.getoption("--pg-source") or pytestconfig.getini("hasql_pg_source"),
    )
    yield shared
    shared.close()


@pytest.fixture
def pg_cluster(_hasql_shared_cluster: _SharedCluster) -> "LocalCluster":
    """A running `hasql.testing.LocalCluster`: one master, and two replicas that stream from it.

    The whole test session shares the servers; they start with the first test that uses the
    fixture. Before each test the roles are restored, whatever the last test killed, froze or
    promoted; what it wrote stays in the databases. Logins are quick because `scram_iterations`
    is 1. The fixture is an ordinary one, so it works in sync tests and in async tests of any
    plugin.
    """
    return _hasql_shared_cluster.healthy()
