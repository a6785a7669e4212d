"""What SQLAlchemy's drivers for tasks and threads share: the arguments and URL of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from sqlalchemy import URL, exc

from hasql._adapters.sqlalchemy.arguments import check_arguments, resized, sizes_of
from hasql._adapters.sqlalchemy.query import UrlQuery
from hasql.cluster.dsn import Dsn
from hasql.driver import ConnT, Driver, Endpoint, Failure, PoolSizes, PoolT
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql._adapters.sqlalchemy.library import EngineLibrary

__all__ = ("EngineConfig", "EngineDriver", "load")

_LibraryT = TypeVar("_LibraryT", bound="EngineLibrary")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The values from which the engine of one host is made."""

    endpoint: Endpoint
    url: URL
    #: The engine's arguments; `connect_args` are those of the library's `connect`.
    kwargs: dict[str, Any]

    @property
    def connect_args(self) -> dict[str, Any]:
        """The arguments of the library's `connect`."""
        given: dict[str, Any] = self.kwargs["connect_args"]
        return given


def load(name: str) -> Any:
    """Return the `LIBRARY` of a module; None if a package that it imports is missing."""
    try:
        return import_module(name).LIBRARY
    except ImportError:
        return None


class EngineDriver(Driver[PoolT, ConnT], Generic[PoolT, ConnT, _LibraryT]):
    """SQLAlchemy over one library.

    Args:
        dsn: The pool manager's DSN.
        name: The name of the library in a URL.
        library: The library.
        create_engine: SQLAlchemy's function that makes an engine, for tasks or for threads.
    """

    ages: ClassVar[Mapping[str, tuple[str, bool]]] = {"max_lifetime": ("pool_recycle", False)}

    def __init__(
        self, dsn: Dsn, name: str, library: _LibraryT, create_engine: Callable[..., Any]
    ) -> None:
        self._library = library
        self._create_engine = create_engine
        self._query = UrlQuery(dsn, library.url_arguments)
        self._scheme = f"postgresql+{name}"
        self._dbapi_error: type[Exception] = library.dialect.import_dbapi().Error

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        return resized(kwargs, minimum, maximum)

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        check_arguments(kwargs, self._library.dialect, create=self._create_engine.__name__)
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
        """Make an engine, which opens nothing, and note which parameters its plugins take."""
        url = URL.create(self._scheme)
        if self._query.plugins or kwargs.get("plugins"):
            query = self._query.rest
            url = url.set(query={**query, **self._query.plugins})
            engine = self._create_engine(url, **kwargs)
            self._query.leave_to_plugins(query.keys() - engine.url.query.keys())
        else:
            self._create_engine(url, **kwargs)

    def _for_pool(self, endpoint: Endpoint, kwargs: Mapping[str, Any]) -> EngineConfig:
        config = self._for_session(endpoint, kwargs)
        return replace(config, url=config.url.set(query=self._query.of_plugins))

    def _for_session(self, endpoint: Endpoint, kwargs: Mapping[str, Any]) -> EngineConfig:
        parsed, query = Dsn.parse(endpoint.dsn), self._query
        return EngineConfig(
            endpoint.with_dsn(query.dsn_without(parsed)),
            _shown(self._scheme, parsed),
            {**kwargs, "connect_args": query.connect_args(kwargs)},
        )

    def failure(self, error: BaseException) -> Failure:
        if isinstance(error, exc.TimeoutError):
            return Failure.FULL  # the application has taken connections from the engine directly
        return self._library.failure_of(self._origin(error))

    def sqlstate(self, error: BaseException) -> str | None:
        code = self._library.sqlstate_of(self._origin(error))
        own = isinstance(error, exc.SQLAlchemyError | self._dbapi_error)
        return "" if code is None and own else code

    def _origin(self, error: BaseException) -> BaseException:
        """Return the library's own error, without the errors that SQLAlchemy has wrapped it in."""
        if isinstance(error, exc.StatementError) and error.orig is not None:
            error = error.orig
        if isinstance(error, self._dbapi_error) and error.__cause__ is not None:
            error = error.__cause__  # asyncpg's own error, which SQLAlchemy has wrapped
        return error


def _shown(scheme: str, dsn: Dsn) -> URL:
    """Make the URL that an engine shows. The DSN itself is what connections are opened from."""
    (host,) = dsn.hosts
    is_directory = host.host.startswith("/")
    return URL.create(
        scheme,
        username=dsn.user,
        host=None if is_directory else host.host,
        port=None if is_directory else host.port,
        database=dsn.dbname,
    )
