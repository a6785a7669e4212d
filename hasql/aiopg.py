"""The pool manager for aiopg.

aiopg opens the connections of a pool one after the other. Unlike libpq it does not make the second
attempt that `sslmode=prefer` and `allow` may need: choose another mode where TLS is set up.
"""

from __future__ import annotations

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    from aiopg import Connection, Pool

    from hasql._adapters.aiopg.driver import AiopgDriver, make_plain_pool
except ImportError as error:
    raise MissingExtraError("hasql.aiopg needs aiopg: pip install 'hasql[aiopg]'") from error

__all__ = ("PoolManager",)


class PoolManager(BasePoolManager[Pool, Connection]):
    """Hands out aiopg connections, as `aiopg.Pool.acquire` does.

    `pool_factory_kwargs` takes the arguments of `aiopg.create_pool` and of `psycopg2.connect`. When
    a connection is given back, its open transaction is rolled back and the connection is kept;
    aiopg's own pool would close it with a warning.
    """

    _driver = AiopgDriver(make_plain_pool)
