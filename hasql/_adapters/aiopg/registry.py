"""All connections of an aiopg pool, from the moment psycopg2 makes one until it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import psycopg2

from hasql._adapters.aiopg.connection import (
    LOST,
    abort_connection,
    address_of,
    close_raw,
    in_hot_standby,
    is_read_only,
    lost_while_opened,
)
from hasql._adapters.aiopg.raw_connection import connection_factory
from hasql._adapters.libpq import shut_down
from hasql.driver.destinations import Destinations

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    import aiopg

    from hasql._adapters.aiopg.addresses import Addresses
    from hasql._adapters.aiopg.logins import PoolLogins
    from hasql.driver.session_settings import SettingsMade

__all__ = ("ConnectionRegistry",)


class ConnectionRegistry:
    """The connections of a pool, as psycopg2 and aiopg tell of them.

    aiopg itself notices a lost connection only when a task asks for one, and does not tell of the
    connections that it is opening.
    """

    def __init__(
        self,
        kwargs: Mapping[str, Any],
        addresses: Addresses,
        logins: PoolLogins,
        on_loss: Callable[[aiopg.Connection], None],
    ) -> None:
        self._logins = logins
        self._new = connection_factory(kwargs, addresses, logins.parameters)
        self._has_left = addresses.has_left
        self._user_hook = kwargs.get("on_connect")
        #: Called when an open connection has ended, whichever side has ended it.
        self._on_loss = on_loss
        #: By psycopg2's connection: the task that opens it. Once it is open, it is in `_open`.
        self._connecting: dict[Any, asyncio.Task[Any] | None] = {}
        #: The tasks whose connection was lost while they were opening it.
        self._interrupted: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._open: dict[Any, aiopg.Connection] = {}
        #: The open connections that are leased.
        self._leased: set[Any] = set()
        self.destinations = Destinations()
        #: The arguments of aiopg's pool by which the registry learns of its connections.
        self.hooks = {"connection_factory": self._make, "on_connect": self._add}

    def _make(self, *args: Any, **kwargs: Any) -> Any:
        raw = self._new(*args, **kwargs)
        raw.on_end = self._remove
        self._connecting[raw] = asyncio.current_task()
        return raw

    async def _prepare(self, connection: aiopg.Connection) -> SettingsMade:
        """Make a new connection ready for use; return what has become of its settings."""
        try:
            made = await self._logins.set_up(connection)
            if self._user_hook is not None:
                await self._user_hook(connection)
        except BaseException as error:
            lost = connection.closed and isinstance(error, psycopg2.InterfaceError)
            abort_connection(connection)
            if lost:
                raise lost_while_opened() from error
            raise
        return made

    async def _add(self, connection: aiopg.Connection) -> None:
        made = await self._prepare(connection)
        if connection.closed:
            raise lost_while_opened()
        if self._has_left(address_of(connection)):
            abort_connection(connection)
            raise ConnectionError(
                "the host's name moved to another address while the connection was being opened"
            )
        del self._connecting[connection.raw]
        self._open[connection.raw] = connection
        self.destinations.opened(
            connection.raw,
            in_hot_standby(connection),
            read_only=is_read_only(connection),
            address=address_of(connection),
            made=made,
        )

    def _remove(self, raw: Any) -> None:
        opener = self._connecting.pop(raw, None)
        if opener is not None and raw.closed == LOST:
            self._interrupted.add(opener)
        self._leased.discard(raw)
        self.destinations.closed(raw)
        if (connection := self._open.pop(raw, None)) is not None:
            self._on_loss(connection)

    @property
    def size(self) -> int:
        """How many connections are open."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """How many connections are open and not leased, as far as is known here."""
        return len(self._open) - len(self._leased)

    def note_lease(self, connection: aiopg.Connection) -> None:
        """Take note that a connection is leased."""
        self._leased.add(connection.raw)

    def note_release(self, connection: aiopg.Connection) -> None:
        """Take note that a connection is no longer leased."""
        self._leased.discard(connection.raw)

    def is_connecting(self, task: asyncio.Task[Any] | None) -> bool:
        """Tell whether a task is opening a connection."""
        return task in self._connecting.values()

    def close_unfinished(self, task: asyncio.Task[Any] | None) -> bool:
        """Close the connection that a task failed to open; tell whether it had been lost before.

        aiopg leaves a connection open if its query for hstore's types fails.
        """
        for raw, opener in tuple(self._connecting.items()):
            if opener is task:
                close_raw(raw)
        if task is None or task not in self._interrupted:
            return False
        self._interrupted.discard(task)
        return True

    def abort_connects(self) -> None:
        """Abort the connections that are being opened."""
        for raw in tuple(self._connecting):
            shut_down(raw.fileno())

    def abort_all(
        self,
        but: Container[aiopg.Connection | None] = (),
        to: Callable[[str | None], bool] = lambda _: True,
    ) -> None:
        """Abort all connects, and the open connections whose address `to` accepts, except `but`."""
        for raw, connection in tuple(self._open.items()):
            if connection not in but and to(self.destinations.address_of(raw)):
                abort_connection(connection)
        self.abort_connects()
