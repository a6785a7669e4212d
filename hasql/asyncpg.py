"""The pool manager for asyncpg."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, TypeAlias

from hasql.base import BasePoolManager
from hasql.driver import PoolSizes, check_keywords, check_sizes, left_to_end
from hasql.errors import MissingExtraError

try:
    import asyncpg
except ImportError as error:
    raise MissingExtraError("hasql.asyncpg needs asyncpg: pip install 'hasql[asyncpg]'") from error

from hasql._asyncpg_pool import (
    AsyncpgPool,
    Connection,
    Pool,
    RawConnection,
    connect_of,
    failure_of,
    in_hot_standby,
)

__all__ = ("PoolManager",)

_OnLost: TypeAlias = Callable[[], None]
#: What `pool_factory_kwargs` may hold: all of asyncpg's arguments but those that say where to.
_ROUTING = {"dsn", "host", "loop", "port", "target_session_attrs"}
_OF_CONNECTIONS = frozenset(signature(asyncpg.connect).parameters) - _ROUTING
_OF_POOLS = frozenset(signature(asyncpg.create_pool).parameters) - _ROUTING - {"connect_kwargs"}


class _Session:
    """A reserved connection."""

    def __init__(self, connection: RawConnection, on_lost: _OnLost) -> None:
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


class _Driver:
    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        check_keywords(kwargs, _OF_POOLS | _OF_CONNECTIONS, "asyncpg's pool")
        return check_sizes(kwargs, minimum=("min_size", 10), maximum=("max_size", 10))

    async def open(self, dsn: str, kwargs: Mapping[str, Any]) -> AsyncpgPool:
        return await AsyncpgPool(dsn, kwargs, self.sizes(kwargs)).open()

    async def connect(self, dsn: str, kwargs: Mapping[str, Any], on_lost: _OnLost) -> _Session:
        arguments = {name: value for name, value in kwargs.items() if name in _OF_CONNECTIONS}
        connecting = connect_of(kwargs)(dsn, **arguments)
        return _Session(await left_to_end(connecting, asyncpg.Connection.terminate), on_lost)

    failure = staticmethod(failure_of)


class PoolManager(BasePoolManager[Pool, Connection]):
    """Hands out asyncpg connections, as `asyncpg.Pool.acquire` does.

    `pool_factory_kwargs` are those of `asyncpg.create_pool`. An open transaction is rolled back
    when the connection is given back, as by asyncpg's pool.
    """

    _driver = _Driver()
