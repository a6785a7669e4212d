"""Django on a replicated cluster: a database backend, a router for reads, and a middleware.

``"ENGINE": "hasql.contrib.django"`` in ``DATABASES`` selects Django's own backend for PostgreSQL,
with connections that come from a pool manager.
"""

from hasql.errors import MissingExtraError

try:
    import psycopg_pool  # noqa: F401  # needed by the backend, which Django imports by name

    from hasql.contrib.django.middleware import read_your_writes
    from hasql.contrib.django.replica_router import ReplicaRouter
except ModuleNotFoundError as error:
    msg = "hasql.contrib.django needs Django and psycopg: pip install 'hasql[django]'"
    raise MissingExtraError(msg) from error

__all__ = ("ReplicaRouter", "read_your_writes")
