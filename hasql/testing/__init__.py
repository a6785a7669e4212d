"""A real replicated PostgreSQL on loopback, for tests that must see a failover.

.. code-block:: python

    async with LocalCluster(replicas=2) as cluster:
        print(cluster.dsn)
        cluster.master.kill()

The pytest plugin offers the same cluster as the fixture ``pg_cluster``. Names are loaded when they
are first used, because pytest imports this package in every run of every project that has hasql
installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hasql.testing.errors import ClusterError
    from hasql.testing.local_cluster import LocalCluster
    from hasql.testing.node import LocalNode

__all__ = ("ClusterError", "LocalCluster", "LocalNode")

_HOMES = {"ClusterError": "errors", "LocalCluster": "local_cluster", "LocalNode": "node"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
