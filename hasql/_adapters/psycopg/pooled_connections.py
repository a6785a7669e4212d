"""The connections that a psycopg pool has opened."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from weakref import WeakSet

from psycopg.pq import PGconn

from hasql._adapters.psycopg.connection import PsycopgConnection
from hasql._adapters.psycopg.liveness import ignore_drop
from hasql._adapters.psycopg.login import connect_for_pool
from hasql._adapters.psycopg.server import count_rows, in_hot_standby, is_read_only
from hasql.driver.destinations import Destinations
from hasql.driver.session_settings import ALL_MADE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from psycopg import AsyncConnection

    from hasql._adapters.psycopg.connect_attempts import ConnectAttempts
    from hasql.driver import Endpoint

    Reset: TypeAlias = Callable[[PsycopgConnection], Awaitable[None]]

__all__ = ("OpenConnections",)


class OpenConnections:
    """The connections that one pool has opened and that are not closed yet.

    It learns of them through the pool's public `connection_class`. So hasql can purge the pool at
    once, and refill it without the pool's own back-off.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        attempts: ConnectAttempts,
        configure: Callable[[PsycopgConnection], Awaitable[None]] | None,
    ) -> None:
        self._endpoint = endpoint
        self._attempts = attempts
        self._configure = configure
        self._open: WeakSet[PsycopgConnection] = WeakSet()
        #: By `pgconn`, so that connections are not kept alive.
        self.destinations = Destinations()
        #: Called for each connection that is dropped.
        self.dropped = ignore_drop

    def class_of(self, user_class: type[AsyncConnection[Any]]) -> type[AsyncConnection[Any]]:
        """Derive the class that the pool uses from the application's class."""
        return type(user_class.__name__, (_PooledConnection, user_class), {"opened": self})

    async def connect(
        self,
        connect: Callable[..., Coroutine[Any, Any, PsycopgConnection]],
        kwargs: Mapping[str, Any],
    ) -> PsycopgConnection | None:
        """Connect for the pool; return None if the pool is closed."""
        address: str | None = None
        made = ALL_MADE

        async def connect_one() -> PsycopgConnection:
            nonlocal address, made
            opened = await connect_for_pool(self._endpoint, connect, kwargs)
            (connection, address), made = opened
            return connection

        connection = await self._attempts.run(connect_one, self._configure)
        if connection is not None:
            self._open.add(connection)
            flag, read_only = in_hot_standby(connection), is_read_only(connection)
            key = _key_of(connection)
            self.destinations.opened(key, flag, read_only=read_only, address=address, made=made)
        return connection

    def resetting(self, hook: Reset | None) -> Reset | None:
        """Return the application's hook, extended to make again the settings that it undoes."""
        settings, undone = self._endpoint.settings, self.destinations.undone_by_reset
        if hook is None or not settings:
            return hook

        async def reset(connection: PsycopgConnection) -> None:
            await hook(connection)
            if names := undone.get(_key_of(connection)):
                await count_rows(connection, settings.query(names))

        return reset

    def forget(self, connection: PsycopgConnection) -> None:
        """Stop counting a connection."""
        self._open.discard(connection)
        self.destinations.closed(_key_of(connection))

    def __len__(self) -> int:
        return len(self._open)

    def all(self) -> tuple[PsycopgConnection, ...]:
        """Return the connections that are open now."""
        return tuple(self._open)


class _PooledConnection(PsycopgConnection):
    """A connection of the pool, which connects when `OpenConnections` allows it."""

    opened: ClassVar[OpenConnections]

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
        """Connect when an attempt is due."""
        del conninfo  # the endpoint has it
        connection = await cls.opened.connect(super().connect, kwargs)
        # None: the pool is closing. It would log an error, but closes an unconnected one silently.
        return connection or cls(PGconn.connect_start(b"none="))

    async def close(self) -> None:
        """Close it as psycopg does."""
        self.opened.forget(self)
        await super().close()

    def __del__(self, warn: Any = warnings.warn, /) -> None:
        """Report a dropped lease, which gives the connection back; otherwise do as psycopg does."""
        # It may never have been leased, nor even opened: then `dropped` returns False.
        if self.lost or not self.opened.dropped(id(self), lambda: self):
            super().__del__(warn)


def _key_of(connection: AsyncConnection[Any]) -> Any:
    return connection.pgconn  # it stays the same, whichever object wraps it
