"""SQLAlchemy as a driver for threads, over the library that the DSN names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine

from hasql._adapters.sqlalchemy.arguments import sizes_of
from hasql._adapters.sqlalchemy.engine_driver import EngineDriver, load
from hasql._adapters.sqlalchemy.thread_library import EngineThreadLibrary
from hasql._adapters.sqlalchemy.thread_login import open_session
from hasql._adapters.sqlalchemy.thread_pool import EngineThreadPool
from hasql.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql.cluster.dsn import Dsn
    from hasql.driver import Endpoint, Session

__all__ = ("SqlalchemyThreadDriver",)

#: The libraries that SQLAlchemy may use, as a DSN names them.
_LIBRARIES: dict[str, EngineThreadLibrary | None] = {
    "psycopg": load("hasql._adapters.sqlalchemy.thread_psycopg_library"),
    "psycopg2": load("hasql._adapters.sqlalchemy.thread_psycopg2_library"),
}


class SqlalchemyThreadDriver(EngineDriver[Engine, Connection, EngineThreadLibrary]):
    """SQLAlchemy for threads over one library."""

    def __init__(self, dsn: Dsn) -> None:
        name = dsn.driver or "psycopg"
        if name not in _LIBRARIES:
            msg = (
                f"the DSN asks for postgresql+{name}://, which hasql does not know for threads: "
                "use postgresql+psycopg:// or postgresql+psycopg2://"
            )
            raise ConfigurationError(msg)
        library = _LIBRARIES[name]
        if library is None:
            raise MissingExtraError(
                f"hasql.sync.sqlalchemy needs {name}: pip install 'hasql[sqlalchemy,{name}]'"
            )
        super().__init__(dsn, name, library, create_engine)

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        report: Callable[[Connection, BaseException], None],
    ) -> EngineThreadPool:
        config = self._for_pool(endpoint, kwargs)
        return EngineThreadPool(config, sizes_of(kwargs), self._library, report)

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        config = self._for_session(endpoint, kwargs)
        args = config.connect_args
        return await open_session(self._library, config.endpoint, config.url, args, on_lost)
