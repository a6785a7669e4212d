"""The pool manager for aiopg.sa: aiopg's connections that take SQLAlchemy's expressions.

What `hasql.aiopg` says about connecting applies to this module as well.
"""

from __future__ import annotations

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    from aiopg.sa import Engine, SAConnection

    from hasql._adapters.aiopg.sa import AiopgSaDriver
except ImportError as error:  # also aiopg's own ImportError, where SQLAlchemy 2 is installed
    raise MissingExtraError(
        "hasql.aiopg_sa needs aiopg and SQLAlchemy 1.4, not 2: pip install 'hasql[aiopg-sa]'"
    ) from error

__all__ = ("PoolManager",)


class PoolManager(BasePoolManager[Engine, SAConnection]):
    """Hands out aiopg.sa connections, as `aiopg.sa.Engine.acquire` does.

    `pool_factory_kwargs` takes the arguments of `aiopg.sa.create_engine` and of `psycopg2.connect`.
    When a connection is given back, whatever was not committed is rolled back. An `SAConnection`
    that was given back or closed stays closed for good.
    """

    _driver = AiopgSaDriver()
