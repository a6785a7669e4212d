"""The pool manager for psycopg 3 in threads."""

from __future__ import annotations

from hasql.errors import MissingExtraError

try:
    from hasql._adapters.psycopg.thread_driver import PsycopgThreadDriver
    from hasql._adapters.psycopg.thread_pool import SyncConnection, SyncPool
except ImportError as error:
    msg = "hasql.sync.psycopg3 needs psycopg and its pool: pip install 'hasql[psycopg]'"
    raise MissingExtraError(msg) from error

from hasql.sync.base import BaseSyncPoolManager

__all__ = ("PoolManager",)


class PoolManager(BaseSyncPoolManager[SyncPool, SyncConnection]):
    """Hands out psycopg connections, as `psycopg_pool.ConnectionPool.connection` does.

    `pool_factory_kwargs` takes the arguments of `psycopg_pool.ConnectionPool`, without `conninfo`
    and `open`; its `kwargs` are the arguments of `psycopg.Connection.connect`. A pool has 4
    connections unless `min_size` and `max_size` say otherwise. Leaving ``with`` commits an open
    transaction, or rolls it back on an exception; `putconn` rolls it back.
    """

    _driver = PsycopgThreadDriver()
