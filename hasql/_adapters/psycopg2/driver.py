"""psycopg2 as a driver for threads."""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
import psycopg2
from psycopg2 import extensions
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql.psycopg2 import dialect
from sqlalchemy.pool import Pool, QueuePool

from hasql._adapters.psycopg import failure as of_psycopg
from hasql._adapters.psycopg.login import open_session
from hasql._adapters.psycopg2.failure import failure_of, sqlstate_of
from hasql._adapters.psycopg2.library import LIBRARY
from hasql._adapters.psycopg2.parameters import OF_LIBPQ, is_of_libpq
from hasql._adapters.psycopg2.pool import Psycopg2Pool
from hasql._adapters.sqlalchemy.arguments import resized, sizes_of
from hasql.driver import Driver, Endpoint, Failure, PoolSizes, check_keywords
from hasql.driver.arguments import ROUTING, refuse_keywords
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hasql.driver import Session

__all__ = ("Psycopg2Driver",)

_OF_POOLS = frozenset({*signature(QueuePool).parameters, *signature(Pool).parameters}) - {
    "creator",
    "dialect",
    "kw",
    "timeout",
}
_FACTORIES = frozenset({"connection_factory", "cursor_factory"})
#: Arguments that say where to connect or how psycopg2 works, and those for what hasql does itself.
_OURS = {
    **ROUTING,
    **dict.fromkeys(("async", "async_"), "its connections are for threads"),
    "creator": "hasql opens the connections; what psycopg2.connect takes can be given as well",
    "dialect": "hasql itself gives the pool psycopg2's",
    "service": "name the service in the DSN",
    "timeout": "an acquire waits for acquire_timeout, or for the timeout it is given",
}


class Psycopg2Driver(Driver[QueuePool, extensions.connection]):
    """psycopg2, and SQLAlchemy's queue pool, as a whole."""

    ages: ClassVar[Mapping[str, tuple[str, bool]]] = {"max_lifetime": ("recycle", False)}

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        refuse_keywords(kwargs, _OURS, "pool_factory_kwargs: hasql takes no argument {!r}")
        known = {name for name in kwargs if is_of_libpq(name)} | OF_LIBPQ | _OF_POOLS | _FACTORIES
        check_keywords(kwargs, known, "neither SQLAlchemy's QueuePool nor psycopg2.connect")
        for name in _FACTORIES & kwargs.keys():
            if kwargs[name] is not None and not callable(kwargs[name]):
                raise ConfigurationError(f"pool_factory_kwargs[{name!r}] must be a class")
        if not isinstance(kwargs.get("recycle", -1), int | float):
            raise ConfigurationError("pool_factory_kwargs['recycle'] must be a number of seconds")
        sizes = sizes_of(kwargs)
        try:
            QueuePool(lambda: None, **_of_pool(kwargs))  # type: ignore[arg-type]  # opens none
        except (TypeError, ValueError, exc.SQLAlchemyError) as error:
            raise ConfigurationError(f"pool_factory_kwargs: {error}") from error
        return sizes

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        return resized(kwargs, minimum, maximum)

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        report: Callable[[extensions.connection, BaseException], None],
    ) -> Psycopg2Pool:
        del report  # psycopg2 shows the error of a statement only to the thread that runs it
        of_connections = {name: v for name, v in kwargs.items() if name not in _OF_POOLS}
        connect = partial(LIBRARY.connect, endpoint, of_connections)
        return Psycopg2Pool(self.sizes(kwargs), _of_pool(kwargs), connect)

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> Session:
        return await open_session(endpoint, LIBRARY.login_arguments(kwargs), on_lost)

    def failure(self, error: BaseException) -> Failure:
        if isinstance(error, exc.TimeoutError):
            return Failure.FULL  # the application has taken connections from the pool directly
        if isinstance(error, psycopg.Error):
            return of_psycopg.failure_of(error)  # from a probe, which uses psycopg 3
        return failure_of(error)

    sqlstate = staticmethod(sqlstate_of)


def _of_pool(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in kwargs.items() if name in _OF_POOLS}
    if given.get("pre_ping"):  # without a dialect the pool cannot do that
        given["dialect"] = dialect(dbapi=psycopg2)  # type: ignore[no-untyped-call]
    return given
