"""The pool manager for SQLAlchemy's asyncio extension, over asyncpg or psycopg 3."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hasql.base import BasePoolManager
from hasql.errors import MissingExtraError

try:
    import_module("greenlet")  # SQLAlchemy would miss it no sooner than at the first connect
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from hasql._adapters.sqlalchemy.driver import SqlalchemyDriver
    from hasql._adapters.sqlalchemy.sessionmaker import async_sessionmaker
except ImportError as error:
    raise MissingExtraError(
        "hasql.asyncsqlalchemy needs SQLAlchemy 2 with greenlet: pip install 'hasql[sqlalchemy]'"
    ) from error

if TYPE_CHECKING:
    from hasql.cluster.dsn import Dsn
    from hasql.resilience.task_runs import TaskRuns

__all__ = ("PoolManager", "async_sessionmaker")


class PoolManager(BasePoolManager[AsyncEngine, AsyncConnection]):
    """Hands out SQLAlchemy's asyncio connections, as `AsyncEngine.connect` does.

    The DSN says what is used beneath: ``postgresql+asyncpg://``, which ``postgresql://`` stands
    for as well, or ``postgresql+psycopg://``. `pool_factory_kwargs` are those of
    `create_async_engine`; `pool_size` + `max_overflow` connections are lent on a host at most.
    What was not committed is rolled back when the connection is given back.

    A connection that was lost is not replaced within its lease, as SQLAlchemy would do: the host
    may not be what was asked for any more.
    """

    _plus_is_space = True

    @property
    def runs(self) -> TaskRuns[AsyncEngine, AsyncConnection]:
        """What does units of work, for session makers."""
        return self._runs

    def _driver_of(self, dsn: Dsn) -> SqlalchemyDriver:
        return SqlalchemyDriver(dsn)
