"""The roster of a pool: every connection it opens, from psycopg2's first word to its last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hasql._adapters.aiopg.connection import (
    break_off,
    close_raw,
    connection_factory,
    in_hot_standby,
    is_read_only,
)
from hasql._adapters.libpq import shut_down
from hasql.driver.destinations import Destinations

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    import aiopg

    from hasql._adapters.aiopg.addresses import Addresses

__all__ = ("Roster",)


class Roster:
    """What psycopg2 and aiopg tell of the connections of a pool.

    aiopg itself learns of a lost one when it is asked for, and cannot be asked for those that it
    is opening.
    """

    def __init__(
        self, kwargs: Mapping[str, Any], addresses: Addresses, on_loss: Callable[[], None]
    ) -> None:
        self._new = connection_factory(kwargs, addresses)
        self._users_hook = kwargs.get("on_connect")
        #: Called when an open one has ended, whoever has ended it.
        self._on_loss = on_loss
        #: By psycopg2's connection: those that are being opened, are open, and are open and lent.
        self._connecting: dict[Any, asyncio.Task[Any] | None] = {}
        self._open: dict[Any, aiopg.Connection] = {}
        self._lent: set[Any] = set()
        self.destinations = Destinations()
        #: What aiopg's pool has to be given to keep the roster.
        self.hooks = {"connection_factory": self._make, "on_connect": self._enter}

    def _make(self, *args: Any, **kwargs: Any) -> Any:
        raw = self._new(*args, **kwargs)
        raw.on_end = self._strike
        self._connecting[raw] = asyncio.current_task()
        return raw

    async def _enter(self, connection: aiopg.Connection) -> None:
        if self._users_hook is not None:
            try:
                await self._users_hook(connection)
            except BaseException:
                break_off(connection)
                raise
        if connection.closed:
            raise ConnectionError("the connection was lost while it was being opened")
        del self._connecting[connection.raw]
        self._open[connection.raw] = connection
        self.destinations.opened(
            connection.raw, in_hot_standby(connection), read_only=is_read_only(connection)
        )

    def _strike(self, raw: Any) -> None:
        self._connecting.pop(raw, None)
        self._lent.discard(raw)
        self.destinations.closed(raw)
        if self._open.pop(raw, None) is not None:
            self._on_loss()

    @property
    def size(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def at_rest(self) -> int:
        """How many are open and not lent, as far as we know."""
        return len(self._open) - len(self._lent)

    def lend(self, connection: aiopg.Connection) -> None:
        """Take note that one is lent."""
        self._lent.add(connection.raw)

    def take_back(self, connection: aiopg.Connection) -> None:
        """Take note that one is not lent any more."""
        self._lent.discard(connection.raw)

    def is_connecting(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a task is opening one."""
        return task in self._connecting.values()

    def drop(self, task: asyncio.Task[Any] | None) -> None:
        """Close what a task was opening when it failed.

        aiopg leaves a connection open whose first query, for hstore's types, has failed.
        """
        for raw, opener in tuple(self._connecting.items()):
            if opener is task:
                close_raw(raw)

    def break_connects(self) -> None:
        """Break those that are being opened."""
        for raw in tuple(self._connecting):
            shut_down(raw.fileno())

    def break_all(self, but: Container[aiopg.Connection | None] = ()) -> None:
        """Break those that are open, but for some, and those that are being opened."""
        for connection in tuple(self._open.values()):
            if connection not in but:
                break_off(connection)
        self.break_connects()
