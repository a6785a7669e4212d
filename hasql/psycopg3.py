"""The pool manager for psycopg 3."""

from __future__ import annotations

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    from hasql._adapters.psycopg.driver import PsycopgDriver
    from hasql._adapters.psycopg.pool import Connection, Pool
except ImportError as error:
    msg = "hasql.psycopg3 needs psycopg and its pool: pip install 'hasql[psycopg]'"
    raise MissingExtraError(msg) from error

__all__ = ("PoolManager",)


class PoolManager(BasePoolManager[Pool, Connection]):
    """Hands out psycopg connections, as `psycopg_pool.AsyncConnectionPool.connection` does.

    `pool_factory_kwargs` takes the arguments of `psycopg_pool.AsyncConnectionPool`, without
    `conninfo` and `open`; its `kwargs` are the arguments of `psycopg.AsyncConnection.connect`.
    Leaving ``async with`` commits an open transaction, or rolls it back on an exception; `release`
    rolls it back.
    """

    _driver = PsycopgDriver()
