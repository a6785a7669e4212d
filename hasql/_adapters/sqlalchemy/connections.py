"""The driver's connections that an engine of SQLAlchemy's has opened."""

# long: opening a connection, what is known of it, and what ends it belong together.

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, exc

from hasql._adapters.sqlalchemy.checkout_retry import MAY_RETRY, RetryCheckoutError
from hasql._adapters.sqlalchemy.connect_limit import ConnectLimit
from hasql._adapters.sqlalchemy.pre_pings import PrePings
from hasql.driver.connects import PendingConnects
from hasql.driver.destinations import Destinations
from hasql.driver.unclaimed_connects import UnclaimedConnects
from hasql.errors import PoolManagerClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy import Engine
    from sqlalchemy.pool import ConnectionPoolEntry

    from hasql._adapters.sqlalchemy.library import DbapiLibrary
    from hasql.driver import Endpoint

__all__ = ("EngineConnections",)


class EngineConnections:
    """All connections of one engine.

    SQLAlchemy's dialects take the argument `async_creator_fn`, by which the connections are opened
    here, from the unchanged DSN. So each one is known, can be counted, and can be aborted at any
    moment.
    """

    def __init__(self, endpoint: Endpoint, library: DbapiLibrary, *, lifo: bool) -> None:
        self._endpoint = endpoint
        self._library = library
        #: Whether the pool is last in, first out: then asking again would give the same place.
        self._lifo = lifo
        #: Acquires that wait for a new connection, but would also take one that is given back.
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._unclaimed = UnclaimedConnects[Any](lambda raw: not library.is_dead(raw))
        self._pending, self._limit = PendingConnects(), ConnectLimit()
        #: The open connections, each with SQLAlchemy's record of it once there is one.
        self._open: dict[Any, ConnectionPoolEntry | None] = {}
        self.destinations = Destinations()
        #: Connections that SQLAlchemy still prepares for use, each with the task that waits for it.
        self._fresh: dict[Any, asyncio.Task[Any] | None] = {}
        self._closed = False

    def watch(self, engine: Engine) -> None:
        """Follow what becomes of the connections in the engine that they are opened for."""
        self._pre_pings = PrePings(engine.dialect, self.abort)
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "checkout", self._on_checkout)
        event.listen(engine, "checkin", self._on_checkin)
        for name in ("close", "close_detached"):
            event.listen(engine, name, self._on_close)

    async def connect(self, *_: object, **kwargs: Any) -> Any:
        """Open a connection for the engine."""
        if self._closed:
            raise PoolManagerClosedError("the pool manager is closed")
        self._pre_pings.raise_if_ended()
        may_retry = MAY_RETRY.get() and not self._lifo
        if may_retry and not all(map(self._library.is_dead, self._idle_ones())):
            raise RetryCheckoutError  # this moves the empty place to the end of SQLAlchemy's queue
        # `ShieldedOperations` moves an acquire to a task of its own at its first pause. So pause
        # here: `current_task` below is that task.
        await asyncio.sleep(0)
        opening = self._unclaimed.take() or asyncio.create_task(self._open_one(kwargs))
        raw = await self._opened_or_given_back(opening)
        self._fresh[raw] = asyncio.current_task()
        return raw

    async def _open_one(self, kwargs: dict[str, Any]) -> Any:
        connect = partial(self._library.connect, self._endpoint, kwargs, self._forget)
        (raw, address), made = await self._pending.run(
            self._limit.run(connect), lambda opened: self._library.abort(opened.connection[0])
        )
        if self._closed:  # the connect began after `close` had ended those under way
            self._library.abort(raw)
            raise PoolManagerClosedError("the pool manager is closed")
        self._open[raw] = None
        flag, read_only = self._library.in_hot_standby(raw), self._library.is_read_only(raw)
        self.destinations.opened(raw, flag, read_only=read_only, address=address, made=made)
        return raw

    async def _opened_or_given_back(self, opening: asyncio.Task[Any]) -> Any:
        """Wait for a connect. Raises RetryCheckoutError if a connection is given back first."""
        given_back = asyncio.get_running_loop().create_future()
        if MAY_RETRY.get():
            self._waiting.append(given_back)
        try:
            await asyncio.wait({opening, given_back}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._unclaimed.put(opening)
            raise
        finally:
            if given_back in self._waiting:
                self._waiting.remove(given_back)
        if not opening.done():
            self._unclaimed.put(opening)
            raise RetryCheckoutError
        if given_back.done():
            self._wake_one()
        return opening.result()

    def _on_checkin(self, adapted: Any, _: object) -> None:
        if adapted is None:
            return
        raw = adapted.driver_connection
        if self._library.is_clean(raw):
            self._wake_one()
        else:
            # SQLAlchemy could not roll back, as when another task's statement runs, but takes the
            # connection back all the same. Abort it, so that the next checkout replaces it.
            self.abort(raw)

    def _wake_one(self) -> None:
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(None)
                break

    def _on_connect(self, _: object, record: ConnectionPoolEntry) -> None:
        self._open[record.driver_connection] = record

    def _on_checkout(self, _: object, record: ConnectionPoolEntry, __: object) -> None:
        raw = record.driver_connection
        self._fresh.pop(raw, None)
        if self._library.is_dead(raw):
            self._forget(raw)  # because of the error, SQLAlchemy closes it and opens another one
            raise exc.DisconnectionError("the connection was lost while it was idle")

    def _on_close(self, adapted: Any, _: object = None) -> None:
        self._forget(adapted.driver_connection)
        if MAY_RETRY.get() is not None:
            # An acquire closes the connection because it is too old. Abort it: closing it would
            # wait for the server, which may be silent.
            self._library.abort(adapted.driver_connection)

    def __len__(self) -> int:
        return len(self._open)

    def idle(self) -> int:
        """Return how many connections wait for use."""
        return len(self._idle_ones()) + self._unclaimed.idle()

    def _idle_ones(self) -> list[Any]:
        return [
            raw
            for raw, record in self._open.items()
            if record is not None and not record.in_use and record.driver_connection is raw
        ]

    def abort(self, raw: Any) -> None:
        """Abort a connection."""
        self._forget(raw)
        self._library.abort(raw)

    def abort_unless_returned(self, raw: Any, adapted: Any) -> None:
        """Abort a leased connection unless it is back in the pool: it may not have been closed."""
        if (record := self._open.get(raw)) is None or record.dbapi_connection is not adapted:
            self.abort(raw)

    def _forget(self, raw: Any) -> None:
        self._open.pop(raw, None)
        self._fresh.pop(raw, None)
        self.destinations.closed(raw)

    def give_up(self, task: asyncio.Task[Any]) -> None:
        """End an acquire by aborting the connections that are still being prepared for it."""
        fresh = [raw for raw, waiting in self._fresh.items() if waiting is task]
        fresh += self._pre_pings.of(task)
        for raw in fresh:
            self.abort(raw)
        if not any(map(self._library.in_use, fresh)):
            task.cancel()

    def end_connects(self) -> None:
        """End every connect, and abort the connections that are not ready for use yet."""
        self._pending.end()
        self._pre_pings.end()
        for raw in tuple(self._fresh):
            self.abort(raw)

    def purge(
        self, kept: Collection[Any], to: Callable[[str | None], bool] = lambda _: True
    ) -> None:
        """Abort all to addresses that `to` accepts, except `kept`, and all not ready for use."""
        self.end_connects()
        for raw in self._open.keys() - kept:
            if to(self.destinations.address_of(raw)):
                self.abort(raw)

    def close(self) -> None:
        """Abort all connections, and open no more."""
        self._closed = True
        self.purge(())
