"""asyncpg as a driver, and the reserved connection."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import asyncpg

from hasql._adapters.asyncpg.connection import (
    Pool,
    RawConnection,
    connect_of,
    failure_of,
    in_hot_standby,
)
from hasql._adapters.asyncpg.pool import AsyncpgPool
from hasql.driver import PoolSizes, check_keywords, check_sizes, left_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ("AsyncpgDriver", "AsyncpgSession")

#: What `pool_factory_kwargs` may hold: all of asyncpg's arguments but those that say where to.
_ROUTING = {"dsn", "host", "loop", "port", "target_session_attrs"}
_OF_CONNECTIONS = frozenset(signature(asyncpg.connect).parameters) - _ROUTING
_OF_POOLS = frozenset(signature(asyncpg.create_pool).parameters) - _ROUTING - {"connect_kwargs"}


class AsyncpgSession:
    """A reserved connection."""

    def __init__(self, connection: RawConnection, on_lost: Callable[[], None]) -> None:
        self._connection = connection
        self._killed = False
        connection.add_termination_listener(lambda _: None if self._killed else on_lost())

    @property
    def closed(self) -> bool:
        return self._connection.is_closed()

    @property
    def in_hot_standby(self) -> bool | None:
        return in_hot_standby(self._connection)

    async def fetch_row(self, sql: str) -> Sequence[object]:
        return tuple(await self._connection.fetchrow(sql) or ())

    def kill(self) -> None:
        self._killed = True
        self._connection.terminate()


class AsyncpgDriver:
    """asyncpg as a whole.

    A library that makes asyncpg's pools in its own way gives its `create_pool`, and the names of
    the arguments which that takes besides asyncpg's.
    """

    def __init__(
        self, create_pool: Callable[..., Pool] = asyncpg.create_pool, also: Iterable[str] = ()
    ) -> None:
        self._create_pool = create_pool
        self._keywords = _OF_POOLS | _OF_CONNECTIONS | {*also}

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        check_keywords(kwargs, self._keywords, "asyncpg's pool")
        return check_sizes(kwargs, minimum=("min_size", 10), maximum=("max_size", 10))

    async def open(
        self, dsn: str, kwargs: Mapping[str, Any], report: Callable[[Any, BaseException], None]
    ) -> AsyncpgPool:
        del report  # asyncpg shows the errors of statements to those who run them alone
        return await AsyncpgPool(dsn, kwargs, self.sizes(kwargs), self._create_pool).open()

    async def connect(
        self, dsn: str, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> AsyncpgSession:
        arguments = {name: value for name, value in kwargs.items() if name in _OF_CONNECTIONS}
        connecting = connect_of(kwargs)(dsn, **arguments)
        return AsyncpgSession(await left_to_end(connecting, asyncpg.Connection.terminate), on_lost)

    failure = staticmethod(failure_of)
