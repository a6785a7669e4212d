"""The pool manager for asyncpgsa: asyncpg's connections that take SQLAlchemy's expressions."""

from __future__ import annotations

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    from hasql._adapters.asyncpg.connection import Pool
    from hasql._adapters.asyncpgsa.driver import AsyncpgsaConnection, AsyncpgsaDriver
except ImportError as error:  # also asyncpgsa's own ImportError, where SQLAlchemy 2 is installed
    raise MissingExtraError(
        "hasql.asyncpgsa needs asyncpgsa, which works only with SQLAlchemy 1.4: "
        "pip install 'hasql[asyncpgsa]'"
    ) from error

__all__ = ("PoolManager",)


class PoolManager(BasePoolManager[Pool, AsyncpgsaConnection]):
    """Hands out asyncpgsa's connections, as the pool of `asyncpgsa.create_pool` does.

    `pool_factory_kwargs` takes the arguments of `asyncpgsa.create_pool`. An open transaction is
    rolled back when the connection is given back, as in that pool.

    asyncpgsa 0.27.1, its last release, cannot compile `insert()` and `update()` of SQLAlchemy 1.4
    (https://github.com/CanopyTax/asyncpgsa/issues/114); use `text()` with parameters instead.
    """

    _driver = AsyncpgsaDriver()
    _plus_is_space = True
