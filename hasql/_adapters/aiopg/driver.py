"""aiopg as a driver, for both kinds of its pool."""

from __future__ import annotations

import sys
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import aiopg
import psycopg2
from psycopg2 import extensions

from hasql._adapters.aiopg.addresses import Addresses
from hasql._adapters.aiopg.pool import AiopgPool
from hasql._adapters.aiopg.raw_connection import session_factory
from hasql._adapters.aiopg.session import AiopgSession
from hasql._adapters.psycopg2.failure import failure_of, sqlstate_of
from hasql._adapters.psycopg2.parameters import OF_LIBPQ, is_of_libpq
from hasql._adapters.reserved_session import with_settings_if_taken
from hasql.driver import (
    ConnT,
    Driver,
    Endpoint,
    PoolSizes,
    PoolT,
    check_keywords,
    check_sizes,
)
from hasql.driver.arguments import ROUTING, refuse_keywords, with_bounds
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ("AiopgDriver", "make_plain_pool")

_OF_AIOPG = frozenset(signature(aiopg.create_pool).parameters) - {"dsn", "kwargs"}
#: Arguments that say where to connect, or how psycopg2 works.
_OURS = {
    **ROUTING,
    **dict.fromkeys(("async", "async_"), "aiopg itself decides how psycopg2 works"),
    "service": "name the service in the DSN",
}


def make_plain_pool(sizes: PoolSizes) -> AiopgPool[aiopg.Pool, aiopg.Connection]:
    """Make the adapter of a pool that hands out aiopg's own connections."""
    return AiopgPool(sizes, aiopg.create_pool)


class AiopgDriver(Driver[PoolT, ConnT]):
    """aiopg as a whole.

    Args:
        make_pool: Makes the adapter of a pool, either aiopg's or aiopg.sa's.
        extra: The arguments that the pool takes besides aiopg's and libpq's.
    """

    ages: ClassVar[Mapping[str, tuple[str, bool]]] = {"max_idle": ("pool_recycle", False)}

    def __init__(
        self, make_pool: Callable[[PoolSizes], AiopgPool[PoolT, ConnT]], extra: Iterable[str] = ()
    ) -> None:
        self._make_pool = make_pool
        self._extra = frozenset(extra)

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        known = {name for name in kwargs if _is_of_libpq(name)} | OF_LIBPQ | _OF_AIOPG
        known |= {"connection_factory", "cursor_factory"} | self._extra
        refuse_keywords(kwargs, _OURS, "pool_factory_kwargs: hasql takes no argument {!r}")
        check_keywords(kwargs, known, "aiopg's pool")
        factory = kwargs.get("connection_factory")
        of_class = isinstance(factory, type) and issubclass(factory, extensions.connection)
        if factory is not None and not of_class:
            raise ConfigurationError(
                "pool_factory_kwargs['connection_factory'] must be a class derived from "
                "psycopg2.extensions.connection: hasql derives its own from it"
            )
        if kwargs.get("maxsize") == 0:
            kwargs = {**kwargs, "maxsize": sys.maxsize}  # aiopg takes 0 for "no maximum"
        return check_sizes(kwargs, minimum=("minsize", 1), maximum=("maxsize", 10))

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        return with_bounds(kwargs, self.sizes(kwargs), (minimum, maximum), ("minsize", "maxsize"))

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        report: Callable[[ConnT, BaseException], None],
    ) -> AiopgPool[PoolT, ConnT]:
        open_session = partial(self.connect, endpoint, kwargs, lambda: None)
        pool = self._make_pool(self.sizes(kwargs))
        return await pool.open(endpoint, kwargs, open_session, report)

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> AiopgSession:
        addresses = Addresses(endpoint)
        endpoint = await endpoint.for_login()
        given = endpoint.arguments(kwargs)
        ours: dict[str, Any] = {name: value for name, value in given.items() if _is_of_libpq(name)}
        ours |= {"enable_json": False, "enable_hstore": False, "enable_uuid": False}
        ours["timeout"] = None

        async def log_in(*, with_settings: bool) -> AiopgSession:
            make = session_factory(kwargs, addresses, with_settings=with_settings)
            connecting = partial(aiopg.connect, endpoint.dsn, **ours, connection_factory=make)
            connection = await addresses.try_each(connecting)
            return AiopgSession(connection, on_lost, in_transactions=not with_settings)

        session, _ = await with_settings_if_taken(log_in, psycopg2.OperationalError)
        return session

    failure = staticmethod(failure_of)
    sqlstate = staticmethod(sqlstate_of)


def _is_of_libpq(name: str) -> bool:
    return name not in _OF_AIOPG and is_of_libpq(name)
