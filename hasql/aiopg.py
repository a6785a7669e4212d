"""The pool manager for aiopg.

aiopg opens the connections of a pool one after the other, and does not follow libpq to the second
attempt that `sslmode=prefer` and `allow` may need: choose another where TLS is set up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    import aiopg

    from hasql._adapters.aiopg.driver import AiopgDriver
    from hasql._adapters.aiopg.pool import AiopgPool
except ImportError as error:
    raise MissingExtraError("hasql.aiopg needs aiopg: pip install 'hasql[aiopg]'") from error

if TYPE_CHECKING:
    from hasql.driver import PoolSizes

__all__ = ("PoolManager",)


def _make_pool(sizes: PoolSizes) -> AiopgPool[aiopg.Pool, aiopg.Connection]:
    return AiopgPool(sizes, aiopg.create_pool)


class PoolManager(BasePoolManager[aiopg.Pool, aiopg.Connection]):
    """Hands out aiopg connections, as `aiopg.Pool.acquire` does.

    `pool_factory_kwargs` are those of `aiopg.create_pool` and of `psycopg2.connect`. An open
    transaction is rolled back when the connection is given back, and the connection is kept;
    aiopg's pool would close it with a warning.
    """

    _driver = AiopgDriver(_make_pool)
