"""psycopg 3 as a driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import isawaitable, signature
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import psycopg
import psycopg_pool
from psycopg.conninfo import make_conninfo

from hasql._adapters.psycopg.failure import failure_of, sqlstate_of
from hasql._adapters.psycopg.login import open_session
from hasql._adapters.psycopg.pool import Connection, Pool, PsycopgPool
from hasql.driver import Driver, Endpoint, Failure, PoolSizes, check_keywords, check_sizes
from hasql.driver.arguments import ROUTING, refuse_keywords, with_bounds
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from hasql._adapters.psycopg.session import PsycopgSession

__all__ = ("PsycopgDriver", "check_pool_kwargs")

_OnLost: TypeAlias = Callable[[], None]
_Report: TypeAlias = Callable[[Connection, BaseException], None]
_ROUTING = {**ROUTING, "service": "name the service in the DSN"}
_OF_CONNECTIONS = frozenset(signature(psycopg.AsyncConnection.connect).parameters)
_OF_POOLS = frozenset(signature(psycopg_pool.AsyncConnectionPool).parameters)
#: Arguments for what hasql does itself, and why each cannot be given.
_OURS = {
    "close_returns": "a connection is given back by leaving its block, or by release()",
    "open": "hasql opens a pool when its host answers",
    "reconnect_failed": "hasql itself connects again as soon as a host answers",
    "reconnect_timeout": "hasql itself connects again as soon as a host answers",
}


def _check_connect_kwargs(kwargs: object, connection_class: object) -> None:
    if not isinstance(kwargs, Mapping):
        return  # none, or a function that returns them
    refuse_keywords(
        kwargs, _ROUTING, "pool_factory_kwargs['kwargs']: {!r} must be given in the DSN"
    )
    if connection_class is None:  # the user's own class may take what libpq does not know
        try:
            make_conninfo(**{name: v for name, v in kwargs.items() if name not in _OF_CONNECTIONS})
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(f"pool_factory_kwargs['kwargs']: {error}") from None


def check_pool_kwargs(kwargs: Mapping[str, Any]) -> PoolSizes:
    """Check the arguments of a psycopg pool, for tasks or threads, and return its sizes.

    Raises ConfigurationError if an argument is unknown or not allowed, or a value is invalid.
    """
    refuse_keywords(kwargs, _OURS, "pool_factory_kwargs: {!r} cannot be given")
    refuse_keywords(kwargs, _ROUTING, "pool_factory_kwargs: hasql takes no argument {!r}")
    check_keywords(kwargs, _OF_POOLS, "psycopg's pool")
    _check_connect_kwargs(kwargs.get("kwargs"), kwargs.get("connection_class"))
    given = {name: value for name, value in kwargs.items() if value is not None}
    least = given.get("min_size", 4)
    return check_sizes(given, minimum=("min_size", 4), maximum=("max_size", least))


class PsycopgDriver(Driver[Pool, Connection]):
    """psycopg 3 and its pool as a whole."""

    ages: ClassVar[Mapping[str, tuple[str, bool]]] = {
        "max_lifetime": ("max_lifetime", True),
        "max_idle": ("max_idle", True),
    }

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        return check_pool_kwargs(kwargs)

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        return with_bounds(kwargs, self.sizes(kwargs), (minimum, maximum), ("min_size", "max_size"))

    async def open(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], report: _Report
    ) -> PsycopgPool:
        del report  # psycopg shows the error of a statement only to the task that runs it
        return await PsycopgPool(endpoint, kwargs, self.sizes(kwargs)).open()

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: _OnLost
    ) -> PsycopgSession:
        extra = kwargs.get("kwargs") or {}
        if callable(extra):
            extra = extra()
            extra = await extra if isawaitable(extra) else extra
        user_class = kwargs.get("connection_class") or psycopg.AsyncConnection
        return await open_session(endpoint, extra, on_lost, user_class.connect)

    def failure(self, error: BaseException) -> Failure:
        if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
            return Failure.FULL
        return failure_of(error)

    sqlstate = staticmethod(sqlstate_of)
