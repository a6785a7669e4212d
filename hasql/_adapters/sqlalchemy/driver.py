"""SQLAlchemy's asyncio extension as a driver, over the library that the DSN names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from hasql._adapters.sqlalchemy.arguments import sizes_of
from hasql._adapters.sqlalchemy.engine_driver import EngineDriver, load
from hasql._adapters.sqlalchemy.library import DbapiLibrary
from hasql._adapters.sqlalchemy.login import open_session
from hasql._adapters.sqlalchemy.pool import EnginePool
from hasql.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql.cluster.dsn import Dsn
    from hasql.driver import Endpoint, Session

__all__ = ("SqlalchemyDriver",)

#: The libraries that SQLAlchemy may use, as a DSN names them. Importing one takes a while, so it
#: happens here, and not when a pool manager is made in a running event loop.
_LIBRARIES: dict[str, DbapiLibrary | None] = {
    "asyncpg": load("hasql._adapters.sqlalchemy.asyncpg_library"),
    "psycopg": load("hasql._adapters.sqlalchemy.psycopg_library"),
}


class SqlalchemyDriver(EngineDriver[AsyncEngine, AsyncConnection, DbapiLibrary]):
    """SQLAlchemy's asyncio extension over one library."""

    def __init__(self, dsn: Dsn) -> None:
        name = dsn.driver or "asyncpg"
        if name not in _LIBRARIES:
            msg = (
                f"the DSN asks for postgresql+{name}://, which hasql does not know for "
                "SQLAlchemy's asyncio: use postgresql+asyncpg:// or postgresql+psycopg://"
            )
            raise ConfigurationError(msg)
        library = _LIBRARIES[name]
        if library is None:
            raise MissingExtraError(
                f"hasql.asyncsqlalchemy needs {name}: pip install 'hasql[sqlalchemy,{name}]'"
            )
        super().__init__(dsn, name, library, create_async_engine)

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        report: Callable[[AsyncConnection, BaseException], None],
    ) -> EnginePool:
        config = self._for_pool(endpoint, kwargs)
        sizes = sizes_of(kwargs)
        return EnginePool(config.endpoint, config.url, config.kwargs, sizes, self._library, report)

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        config = self._for_session(endpoint, kwargs)
        args = config.connect_args
        return await open_session(self._library, config.endpoint, config.url, args, on_lost)
