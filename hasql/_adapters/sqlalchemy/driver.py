"""SQLAlchemy as a driver, over the library that the DSN names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import URL, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from hasql._adapters.sqlalchemy.arguments import check_arguments, sizes_of
from hasql._adapters.sqlalchemy.login import open_session
from hasql._adapters.sqlalchemy.pool import EnginePool
from hasql._adapters.sqlalchemy.query import UrlQuery
from hasql.cluster.dsn import Dsn
from hasql.driver import Driver, Endpoint, Failure, PoolSizes
from hasql.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql._adapters.sqlalchemy.library import DbapiLibrary
    from hasql.driver import Session

__all__ = ("SqlalchemyDriver",)


def _load(name: str) -> DbapiLibrary | None:
    try:
        return cast("DbapiLibrary", import_module(name).LIBRARY)
    except ImportError:
        return None


#: The libraries that SQLAlchemy may work with, as a DSN names them. They are imported here, as that
#: takes a while, and pool managers are made where an event loop runs.
_LIBRARIES = {
    "asyncpg": _load("hasql._adapters.sqlalchemy.asyncpg_library"),
    "psycopg": _load("hasql._adapters.sqlalchemy.psycopg_library"),
}


class SqlalchemyDriver(Driver[AsyncEngine, AsyncConnection]):
    """SQLAlchemy over one library."""

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
        self._library = library
        self._query = UrlQuery(dsn, library.url_arguments)
        self._scheme = f"postgresql+{name}"
        self._dbapi_error: type[Exception] = library.dialect.import_dbapi().Error

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        check_arguments(kwargs, self._library.dialect)
        sizes = sizes_of(kwargs)
        if not isinstance(given := kwargs.get("connect_args", {}), Mapping):
            raise ConfigurationError(f"connect_args must be a dict, not {type(given).__name__}")
        self._library.check_connect_args(given)
        try:
            self._check_engine(kwargs)
        except (TypeError, ValueError, exc.SQLAlchemyError) as error:
            raise ConfigurationError(f"pool_factory_kwargs: {error}") from error
        return sizes

    def _check_engine(self, kwargs: Mapping[str, Any]) -> None:
        """Make an engine, which opens nothing, and see what its plugins take of the URL."""
        url = URL.create(self._scheme)
        if self._query.plugins or kwargs.get("plugins"):
            query = self._query.rest
            engine = create_async_engine(url.set(query={**query, **self._query.plugins}), **kwargs)
            self._query.leave_to_plugins(query.keys() - engine.url.query.keys())
        else:
            create_async_engine(url, **kwargs)

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        report: Callable[[AsyncConnection, BaseException], None],
    ) -> EnginePool:
        parsed, query, sizes = Dsn.parse(endpoint.dsn), self._query, sizes_of(kwargs)
        url = _shown(self._scheme, parsed).set(query=query.of_plugins)
        kwargs = {**kwargs, "connect_args": query.connect_args(kwargs)}
        endpoint = endpoint.with_dsn(query.dsn_without(parsed))
        return EnginePool(endpoint, url, kwargs, sizes, self._library, report)

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        parsed, connect_args = Dsn.parse(endpoint.dsn), self._query.connect_args(kwargs)
        url = _shown(self._scheme, parsed)
        endpoint = endpoint.with_dsn(self._query.dsn_without(parsed))
        return await open_session(self._library, endpoint, url, connect_args, on_lost)

    def failure(self, error: BaseException) -> Failure:
        if isinstance(error, exc.TimeoutError):
            return Failure.FULL  # others have taken connections from the engine directly
        if isinstance(error, exc.StatementError) and error.orig is not None:
            error = error.orig
        if isinstance(error, self._dbapi_error) and error.__cause__ is not None:
            error = error.__cause__  # asyncpg's own error, which SQLAlchemy has wrapped
        return self._library.failure_of(error)


def _shown(scheme: str, dsn: Dsn) -> URL:
    """Make the URL that an engine shows. Its connections are opened from the DSN itself."""
    (host,) = dsn.hosts
    is_directory = host.host.startswith("/")
    return URL.create(
        scheme,
        username=dsn.user,
        host=None if is_directory else host.host,
        port=None if is_directory else host.port,
        database=dsn.dbname,
    )
