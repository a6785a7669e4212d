"""The pool manager for psycopg2 in threads, with SQLAlchemy's queue pool."""

from __future__ import annotations

from hasql.errors import MissingExtraError
from hasql.sync.base import BaseSyncPoolManager

try:
    from psycopg2.extensions import connection
    from sqlalchemy.pool import QueuePool

    from hasql._adapters.psycopg2.driver import Psycopg2Driver
except ImportError as error:
    raise MissingExtraError(
        "hasql.sync.psycopg2 needs psycopg2, SQLAlchemy 2 and, for its probes, psycopg: "
        "pip install 'hasql[psycopg2]'"
    ) from error

__all__ = ("PoolManager",)


class PoolManager(BaseSyncPoolManager[QueuePool, connection]):
    """Hands out psycopg2's own connections, as `psycopg2.connect` returns them.

    `pool_factory_kwargs` takes the arguments of SQLAlchemy's `QueuePool`, with its defaults; all
    others go to `psycopg2.connect`. At most `pool_size` + `max_overflow` connections are lent on
    each host. Whatever was not committed is rolled back when the connection is given back.
    """

    _driver = Psycopg2Driver()
