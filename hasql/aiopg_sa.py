"""The pool manager for aiopg.sa: aiopg's connections that take SQLAlchemy's expressions.

What `hasql.aiopg` says of connecting goes for this as well.
"""

from __future__ import annotations

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    from aiopg.sa import Engine, SAConnection

    from hasql._adapters.aiopg.sa import AiopgSaDriver
except ImportError as error:  # aiopg's own ImportError too, where SQLAlchemy 2 is installed
    raise MissingExtraError(
        "hasql.aiopg_sa needs aiopg and SQLAlchemy 1.4, not 2: pip install 'hasql[aiopg-sa]'"
    ) from error

__all__ = ("PoolManager",)


class PoolManager(BasePoolManager[Engine, SAConnection]):
    """Hands out aiopg.sa connections, as `aiopg.sa.Engine.acquire` does.

    `pool_factory_kwargs` are those of `aiopg.sa.create_engine` and of `psycopg2.connect`. What has
    not been committed is rolled back when the connection is given back. A connection that was
    given back, or closed, is closed for good.
    """

    _driver = AiopgSaDriver()
