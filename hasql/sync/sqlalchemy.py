"""The pool manager of threads for SQLAlchemy, over psycopg 3 or psycopg2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hasql.errors import MissingExtraError
from hasql.sync.base import BaseSyncPoolManager

try:
    from sqlalchemy import Connection, Engine

    from hasql._adapters.sqlalchemy.thread_driver import SqlalchemyThreadDriver
    from hasql._adapters.sqlalchemy.thread_sessionmaker import sessionmaker
except ImportError as error:
    raise MissingExtraError(
        "hasql.sync.sqlalchemy needs SQLAlchemy 2: pip install 'hasql[sqlalchemy]'"
    ) from error

if TYPE_CHECKING:
    from hasql.cluster.dsn import Dsn
    from hasql.resilience.thread_runs import ThreadRuns

__all__ = ("PoolManager", "sessionmaker")


class PoolManager(BaseSyncPoolManager[Engine, Connection]):
    """Hands out SQLAlchemy's connections, as `Engine.connect` does.

    The DSN says what is used beneath: ``postgresql+psycopg://``, which ``postgresql://`` stands for
    as well, or ``postgresql+psycopg2://``. `pool_factory_kwargs` are those of `create_engine`;
    `pool_size` + `max_overflow` connections are lent on a host at most. What was not committed is
    rolled back when the connection is given back.

    A connection that was lost is not replaced within its lease, as SQLAlchemy would do: the host
    may not be what was asked for any more.
    """

    _plus_is_space = True

    @property
    def runs(self) -> ThreadRuns[Engine, Connection]:
        """What does units of work, for session makers."""
        return self._runs

    def _driver_of(self, dsn: Dsn) -> SqlalchemyThreadDriver:
        return SqlalchemyThreadDriver(dsn)
