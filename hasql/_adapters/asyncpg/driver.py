"""asyncpg as a driver."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg

from hasql._adapters.asyncpg.connection import Connection, Pool, connect_of, failure_of, sqlstate_of
from hasql._adapters.asyncpg.login import open_session
from hasql._adapters.asyncpg.pool import AsyncpgPool
from hasql.driver import Driver, Endpoint, PoolSizes, check_keywords, check_sizes
from hasql.driver.arguments import ROUTING, refuse_keywords, with_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hasql._adapters.asyncpg.session import AsyncpgSession

__all__ = ("AsyncpgDriver",)

#: What `pool_factory_kwargs` may hold: asyncpg's arguments, without those that name a host.
_OF_CONNECTIONS = signature(asyncpg.connect).parameters.keys() - ROUTING.keys()
_OF_POOLS = signature(asyncpg.create_pool).parameters.keys() - ROUTING.keys() - {"connect_kwargs"}


class AsyncpgDriver(Driver[Pool, Connection]):
    """The driver for asyncpg, and for libraries that build on it.

    Args:
        create_pool: `asyncpg.create_pool`, or the function of a library that builds on asyncpg.
        also: The names of the arguments that `create_pool` takes besides asyncpg's.
    """

    ages: ClassVar[Mapping[str, tuple[str, bool]]] = {
        "max_idle": ("max_inactive_connection_lifetime", True),
    }
    checks_count_as_use: ClassVar[bool] = True

    def __init__(
        self, create_pool: Callable[..., Pool] = asyncpg.create_pool, also: Iterable[str] = ()
    ) -> None:
        self._create_pool = create_pool
        self._keywords = _OF_POOLS | _OF_CONNECTIONS | {*also}

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        refuse_keywords(kwargs, ROUTING, "pool_factory_kwargs: hasql takes no argument {!r}")
        check_keywords(kwargs, self._keywords, "asyncpg's pool")
        return check_sizes(kwargs, minimum=("min_size", 10), maximum=("max_size", 10))

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        return with_bounds(kwargs, self.sizes(kwargs), (minimum, maximum), ("min_size", "max_size"))

    async def open(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        report: Callable[[Connection, BaseException], None],
    ) -> AsyncpgPool:
        sizes = self.sizes(kwargs)
        return await AsyncpgPool(endpoint, kwargs, sizes, report, self._create_pool).open()

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> AsyncpgSession:
        return await open_session(endpoint, kwargs, connect_of(kwargs), on_lost)

    failure = staticmethod(failure_of)
    sqlstate = staticmethod(sqlstate_of)
