"""The pool manager for SQLAlchemy's asyncio extension, over asyncpg or psycopg 3."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

from hasql.base import BasePoolManager
from hasql.cluster.dsn import Dsn
from hasql.driver import Failure, PoolSizes, check_keywords
from hasql.errors import ConfigurationError, MissingExtraError

_EXTRA = "hasql.asyncsqlalchemy needs {}: pip install 'hasql[sqlalchemy{}]'"

try:
    import_module("greenlet")  # SQLAlchemy would miss it no sooner than at the first connect
    from sqlalchemy import URL, Engine, exc
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

    from hasql._adapters.sqlalchemy.login import open_session
    from hasql._adapters.sqlalchemy.pool import EnginePool
    from hasql._adapters.sqlalchemy.query import UrlQuery
    from hasql._adapters.sqlalchemy.sessionmaker import async_sessionmaker
except ImportError as error:
    raise MissingExtraError(_EXTRA.format("SQLAlchemy 2 with greenlet", "")) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hasql._adapters.sqlalchemy.beneath import Beneath
    from hasql.driver import Driver, Session

__all__ = ("PoolManager", "async_sessionmaker")


def _load(name: str) -> Beneath | None:
    try:
        return cast("Beneath", import_module(name))
    except ImportError:
        return None


#: The libraries beneath, as a DSN names them. They are loaded here, as it takes a while, and pool
#: managers are made where an event loop runs.
_BENEATH = {
    "asyncpg": _load("hasql._adapters.sqlalchemy.over_asyncpg"),
    "psycopg": _load("hasql._adapters.sqlalchemy.over_psycopg"),
}
_POOL_SIZE = 5
_MAX_OVERFLOW = 10
#: PostgreSQL serves no more connections than these: what "no limit" amounts to.
_NO_LIMIT = 262_143
#: What SQLAlchemy's `create_engine` takes for itself and for its queue pool.
_OF_POOLS = {
    "connect_args",
    "echo_pool",
    "empty_in_strategy",
    "enable_from_linting",
    "future",
    "max_overflow",
    "plugins",
    "pool_events",
    "pool_logging_name",
    "pool_pre_ping",
    "pool_recycle",
    "pool_reset_on_return",
    "pool_size",
    "pool_timeout",
    "pool_use_lifo",
}
#: What hasql decides: that each host has a queue pool, and how its connections are opened.
_OURS = {"async_creator", "creator", "dbapi", "dialect", "module", "pool", "poolclass", "url"}


class _Driver:
    """SQLAlchemy over one library."""

    def __init__(self, dsn: Dsn) -> None:
        name = dsn.driver or "asyncpg"
        if name not in _BENEATH:
            msg = (
                f"the DSN asks for postgresql+{name}://, which hasql does not know for "
                "SQLAlchemy's asyncio: use postgresql+asyncpg:// or postgresql+psycopg://"
            )
            raise ConfigurationError(msg)
        beneath = _BENEATH[name]
        if beneath is None:
            raise MissingExtraError(_EXTRA.format(name, f",{name}"))
        self._beneath = beneath
        self._query = UrlQuery(dsn, beneath.URL_ARGUMENTS)
        self._scheme = f"postgresql+{name}"
        self._dbapi_error: type[Exception] = beneath.dialect.import_dbapi().Error
        self._keywords = {*_OF_POOLS, *_parameters(beneath.dialect), *_parameters(Engine)} - _OURS

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        for name in sorted(_OURS & kwargs.keys()):
            raise ConfigurationError(
                f"pool_factory_kwargs: {name!r} is not for the application: hasql makes one queue "
                "pool for each host, and opens its connections with connect_args"
            )
        check_keywords(kwargs, self._keywords, "create_async_engine")
        sizes = _sizes(kwargs)
        if not isinstance(given := kwargs.get("connect_args", {}), Mapping):
            raise ConfigurationError(f"connect_args must be a dict, not {type(given).__name__}")
        self._beneath.check_connect_args(given)
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
        dsn: str,
        kwargs: Mapping[str, Any],
        report: Callable[[AsyncConnection, BaseException], None],
    ) -> EnginePool:
        parsed, query, sizes = Dsn.parse(dsn), self._query, _sizes(kwargs)
        url = _shown(self._scheme, parsed).set(query=query.of_plugins)
        kwargs = {**kwargs, "connect_args": query.connect_args(kwargs)}
        return EnginePool(query.dsn_without(parsed), url, kwargs, sizes, self._beneath, report)

    async def connect(
        self, dsn: str, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        parsed, connect_args = Dsn.parse(dsn), self._query.connect_args(kwargs)
        url, dsn = _shown(self._scheme, parsed), self._query.dsn_without(parsed)
        return await open_session(self._beneath, dsn, url, connect_args, on_lost)

    def failure(self, error: BaseException) -> Failure:
        if isinstance(error, exc.TimeoutError):
            return Failure.FULL  # connections were taken from the engine directly
        if isinstance(error, exc.StatementError) and error.orig is not None:
            error = error.orig
        if isinstance(error, self._dbapi_error) and error.__cause__ is not None:
            error = error.__cause__  # asyncpg's own; psycopg's is as it was
        return self._beneath.failure_of(error)


def _sizes(kwargs: Mapping[str, Any]) -> PoolSizes:
    size = _integer(kwargs, "pool_size", _POOL_SIZE, 0)
    overflow = _integer(kwargs, "max_overflow", _MAX_OVERFLOW, -1)
    return PoolSizes(0, _NO_LIMIT if size == 0 or overflow == -1 else size + overflow)


def _parameters(whose: type) -> Iterator[str]:
    for each in whose.__mro__:
        if "__init__" in vars(each):
            yield from signature(each).parameters


def _integer(kwargs: Mapping[str, Any], name: str, default: int, least: int) -> int:
    value = kwargs.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"pool_factory_kwargs[{name!r}] must be an int, {least} or more, not {value!r}"
        raise ConfigurationError(msg)
    return value


def _shown(scheme: str, dsn: Dsn) -> URL:
    """Make the URL that an engine shows; its connections are opened from the DSN itself."""
    (host,) = dsn.hosts
    is_directory = host.host.startswith("/")
    return URL.create(
        scheme,
        username=dsn.user,
        host=None if is_directory else host.host,
        port=None if is_directory else host.port,
        database=dsn.dbname,
    )


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

    def _driver_of(self, dsn: Dsn) -> Driver[AsyncEngine, AsyncConnection]:
        return _Driver(dsn)
