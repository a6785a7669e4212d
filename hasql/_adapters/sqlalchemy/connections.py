"""The connections of the driver beneath that an engine of SQLAlchemy's has opened."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, exc

from hasql.driver import PendingConnects
from hasql.errors import PoolManagerClosedError

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Engine
    from sqlalchemy.pool import ConnectionPoolEntry

    from hasql._adapters.sqlalchemy.beneath import Beneath

__all__ = ("MAY_PASS", "Connections", "PassedError")

#: Set for an acquire that is to pass over a place of the pool whose connection was lost.
MAY_PASS: ContextVar[bool] = ContextVar("may_pass", default=False)


class PassedError(Exception):
    """There is an idle connection behind a place that has none; never leaves the adapter."""


class Connections:
    """All connections of one engine.

    They are opened here, from the DSN as it is, through `async_creator_fn` of SQLAlchemy's
    dialects: that is what lets them be counted, and broken at any moment.
    """

    def __init__(self, dsn: str, beneath: Beneath) -> None:
        self._dsn = dsn
        self._beneath = beneath
        self._pending = PendingConnects()
        #: Open connections, with SQLAlchemy's record of each once it has one.
        self._open: dict[Any, ConnectionPoolEntry | None] = {}
        #: Those that SQLAlchemy still prepares for use, and who waits for that.
        self._fresh: dict[Any, asyncio.Task[Any] | None] = {}
        self._closed = False

    def watch(self, engine: Engine) -> None:
        """Follow what becomes of them in the engine that they are opened for."""
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "close", self._closes)
        event.listen(engine, "close_detached", self._closes)

    async def connect(self, *_: object, **kwargs: Any) -> Any:
        """Open one for the engine."""
        if self._closed:
            raise PoolManagerClosedError("the pool manager is closed")
        if MAY_PASS.get() and not all(map(self._beneath.has_died, self.idle())):
            raise PassedError  # a place goes to the end of SQLAlchemy's queue then
        # An acquire goes on in a task of its own from here; time limits belong to one task.
        await asyncio.sleep(0)
        raw = await self._pending.run(self._beneath.connect(self._dsn, kwargs, self._forget))
        self._open[raw] = None
        self._fresh[raw] = asyncio.current_task()
        return raw

    def _connected(self, _: object, record: ConnectionPoolEntry) -> None:
        self._open[record.driver_connection] = record

    def _checked_out(self, _: object, record: ConnectionPoolEntry, __: object) -> None:
        raw = record.driver_connection
        self._fresh.pop(raw, None)
        if self._beneath.has_died(raw):
            self._forget(raw)
            # SQLAlchemy opens another one in its place.
            raise exc.DisconnectionError("the connection was lost while it was idle")

    def _closes(self, adapted: Any, _: object = None) -> None:
        self._forget(adapted.driver_connection)

    def __len__(self) -> int:
        return len(self._open)

    def idle(self) -> list[Any]:
        """Return those that wait for use."""
        return [
            raw
            for raw, record in self._open.items()
            if record is not None and not record.in_use and record.driver_connection is raw
        ]

    def break_off(self, raw: Any) -> None:
        """Break one at once."""
        self._forget(raw)
        self._beneath.break_off(raw)

    def _forget(self, raw: Any) -> None:
        self._open.pop(raw, None)
        self._fresh.pop(raw, None)

    def give_up(self, task: asyncio.Task[Any]) -> None:
        """End an acquire, by breaking what is still prepared for it."""
        fresh = [raw for raw, waiting in self._fresh.items() if waiting is task]
        for raw in fresh:
            self.break_off(raw)
        if not any(map(self._beneath.in_use, fresh)):
            task.cancel()

    def end_connects(self) -> None:
        """End what is not ready for use yet."""
        self._pending.end()
        for raw in tuple(self._fresh):
            self.break_off(raw)

    def purge(self, kept: Collection[Any]) -> None:
        """Break all but some."""
        self.end_connects()
        for raw in self._open.keys() - kept:
            self.break_off(raw)

    def close(self) -> None:
        """Break all, and open no more."""
        self._closed = True
        self.purge(())
