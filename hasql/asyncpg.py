"""The pool manager for asyncpg."""

from __future__ import annotations

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    from hasql._adapters.asyncpg.connection import Connection, Pool
    from hasql._adapters.asyncpg.driver import AsyncpgDriver
except ImportError as error:
    raise MissingExtraError("hasql.asyncpg needs asyncpg: pip install 'hasql[asyncpg]'") from error

__all__ = ("PoolManager",)


class PoolManager(BasePoolManager[Pool, Connection]):
    """Hands out asyncpg connections, as `asyncpg.Pool.acquire` does.

    `pool_factory_kwargs` takes the arguments of `asyncpg.create_pool`. An open transaction is
    rolled back when the connection is given back, as in asyncpg's own pool.
    """

    _driver = AsyncpgDriver()
    _plus_is_space = True
