"""The connections of the driver beneath that an engine of SQLAlchemy's has opened."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, exc

from hasql._adapters.sqlalchemy.passing import MAY_PASS, PassedError
from hasql._adapters.sqlalchemy.pings import Pings
from hasql._adapters.sqlalchemy.spares import Spares
from hasql._adapters.sqlalchemy.turns import Turns
from hasql.driver.connects import PendingConnects
from hasql.driver.destinations import Destinations
from hasql.errors import PoolManagerClosedError

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Engine
    from sqlalchemy.pool import ConnectionPoolEntry

    from hasql._adapters.sqlalchemy.beneath import Beneath

__all__ = ("Connections",)


class Connections:
    """All connections of one engine.

    They are opened here, from the DSN as it is, through `async_creator_fn` of SQLAlchemy's
    dialects: that is what lets them be counted, and broken at any moment.
    """

    def __init__(self, dsn: str, beneath: Beneath, *, lifo: bool) -> None:
        self._dsn = dsn
        self._beneath = beneath
        #: Whether the pool would come up with the same place again, last in, first out.
        self._lifo = lifo
        #: Acquires that wait for a connection to be opened, to be told of one that is given back.
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._spares = Spares(beneath)
        self._pending = PendingConnects()
        self._turns = Turns()
        #: Open connections, with SQLAlchemy's record of each once it has one.
        self._open: dict[Any, ConnectionPoolEntry | None] = {}
        self.destinations = Destinations()
        #: Those that SQLAlchemy still prepares for use, and who waits for that.
        self._fresh: dict[Any, asyncio.Task[Any] | None] = {}
        self._closed = False

    def watch(self, engine: Engine) -> None:
        """Follow what becomes of them in the engine that they are opened for."""
        self._pings = Pings(engine.dialect, self.break_off)
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "checkin", self._checked_in)
        event.listen(engine, "close", self._closes)
        event.listen(engine, "close_detached", self._closes)

    async def connect(self, *_: object, **kwargs: Any) -> Any:
        """Open one for the engine."""
        if self._closed:
            raise PoolManagerClosedError("the pool manager is closed")
        self._pings.raise_if_ended()
        may_pass = MAY_PASS.get() and not self._lifo
        if may_pass and not all(map(self._beneath.has_died, self._at_rest())):
            raise PassedError  # a place goes to the end of SQLAlchemy's queue then
        # An acquire goes on in a task of its own from here.
        await asyncio.sleep(0)
        opening = self._spares.take() or asyncio.create_task(self._open_one(kwargs))
        raw = await self._opened_or_given_back(opening)
        self._fresh[raw] = asyncio.current_task()
        return raw

    async def _open_one(self, kwargs: dict[str, Any]) -> Any:
        raw = await self._pending.run(self._log_in(kwargs))
        if self._closed:  # the end of it came too late for this one, which nobody may wait for
            self._beneath.break_off(raw)
            raise PoolManagerClosedError("the pool manager is closed")
        self._open[raw] = None
        flag, read_only = self._beneath.in_hot_standby(raw), self._beneath.is_read_only(raw)
        self.destinations.opened(raw, flag, read_only=read_only)
        return raw

    async def _log_in(self, kwargs: dict[str, Any]) -> Any:
        async with self._turns.one():
            return await self._beneath.connect(self._dsn, kwargs, self._forget)

    async def _opened_or_given_back(self, opening: asyncio.Task[Any]) -> Any:
        """Wait for what is being opened; PassedError if one is given back before."""
        given_back = asyncio.get_running_loop().create_future()
        if MAY_PASS.get():
            self._waiting.append(given_back)
        try:
            await asyncio.wait({opening, given_back}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._spares.put(opening)
            raise
        finally:
            if given_back in self._waiting:
                self._waiting.remove(given_back)
        if not opening.done():
            self._spares.put(opening)
            raise PassedError
        if given_back.done():
            self._tell_of_idle()
        return opening.result()

    def _checked_in(self, adapted: Any, _: object) -> None:
        if adapted is None:
            return
        raw = adapted.driver_connection
        if self._beneath.is_clean(raw):
            self._tell_of_idle()
        else:
            # SQLAlchemy could not roll back, as a statement of another task runs, say, and takes
            # it back all the same. Broken, it is replaced when it is next taken.
            self.break_off(raw)

    def _tell_of_idle(self) -> None:
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(None)
                break

    def _connected(self, _: object, record: ConnectionPoolEntry) -> None:
        self._open[record.driver_connection] = record

    def _checked_out(self, _: object, record: ConnectionPoolEntry, __: object) -> None:
        raw = record.driver_connection
        self._fresh.pop(raw, None)
        if self._beneath.has_died(raw):
            self._forget(raw)  # SQLAlchemy opens another one in its place
            raise exc.DisconnectionError("the connection was lost while it was idle")

    def _closes(self, adapted: Any, _: object = None) -> None:
        self._forget(adapted.driver_connection)
        if MAY_PASS.get() is not None:
            # In an acquire, as it is too old: the server may be too silent for a goodbye.
            self._beneath.break_off(adapted.driver_connection)

    def __len__(self) -> int:
        return len(self._open)

    def idle(self) -> int:
        """Return how many wait for use."""
        return len(self._at_rest()) + self._spares.idle()

    def _at_rest(self) -> list[Any]:
        return [
            raw
            for raw, record in self._open.items()
            if record is not None and not record.in_use and record.driver_connection is raw
        ]

    def break_off(self, raw: Any) -> None:
        """Break one at once."""
        self._forget(raw)
        self._beneath.break_off(raw)

    def let_go(self, raw: Any, adapted: Any) -> None:
        """Break what was lent, unless it is back in the pool: SQLAlchemy may not have closed it."""
        if (record := self._open.get(raw)) is None or record.dbapi_connection is not adapted:
            self.break_off(raw)

    def _forget(self, raw: Any) -> None:
        self._open.pop(raw, None)
        self._fresh.pop(raw, None)
        self.destinations.closed(raw)

    def give_up(self, task: asyncio.Task[Any]) -> None:
        """End an acquire, by breaking what is still prepared for it."""
        fresh = [raw for raw, waiting in self._fresh.items() if waiting is task]
        fresh += self._pings.of(task)
        for raw in fresh:
            self.break_off(raw)
        if not any(map(self._beneath.in_use, fresh)):
            task.cancel()

    def end_connects(self) -> None:
        """End what is not ready for use yet."""
        self._pending.end()
        self._pings.end()
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
