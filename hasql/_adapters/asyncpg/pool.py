"""A pool of asyncpg with all that the core needs of one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from hasql._adapters.asyncpg.connection import (
    Connection,
    Pool,
    RawConnection,
    connect_of,
    count_rows,
    failure_of,
    guard_from_forks,
    in_hot_standby,
    is_read_only,
)
from hasql._adapters.asyncpg.tasks import Releases, heed_releases, runs
from hasql._adapters.hooks import Hooks
from hasql.driver import Failure, PoolSizes
from hasql.driver.connects import PendingConnects, Refill, left_to_end
from hasql.driver.destinations import Destinations
from hasql.driver.holder import NeverHeldBefore

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

__all__ = ("AsyncpgPool",)

_HOOKS = ("connect", "init", "reset", "setup")


class AsyncpgPool(NeverHeldBefore):
    """One asyncpg pool, and all connections it has opened.

    Knowing them, by the pool's public `connect` hook, is what lets it be purged at once: asyncpg's
    own `expire_connections()` leaves idle sockets open until somebody needs a connection.

    `create_pool` is `asyncpg.create_pool`, or a library's own way to call it.
    """

    def __init__(
        self,
        dsn: str,
        kwargs: Mapping[str, Any],
        sizes: PoolSizes,
        create_pool: Callable[..., Pool] = asyncpg.create_pool,
    ) -> None:
        self.sizes = sizes
        self._users: Any = {name: kwargs.get(name) for name in _HOOKS}
        self._connects, self._resets = PendingConnects(), Hooks()
        #: With the key of each: see `key`.
        self._open: dict[RawConnection, Hashable] = {}
        self.destinations = Destinations()
        self._releases = Releases()
        self._refill = Refill(self._fill)
        setup = self._users["setup"] and self._set_up
        ours = {"connect": self._connect_one, "init": None, "setup": setup}
        ours |= {"reset": self._reset_one, "min_size": sizes.minimum, "max_size": sizes.maximum}
        self.pool = create_pool(dsn, **{**kwargs, **ours})
        self._heeding = False
        # asyncpg's own methods where nothing is to be added: each layer costs every acquire.
        self.acquire: Any = self.pool.acquire
        self.release: Any = self.pool.release
        self.idle, self.close = self.pool.get_idle_size, self.pool.close
        self.end_connects = self._connects.end

    async def open(self) -> AsyncpgPool:
        try:
            _ = await self.pool
        except BaseException:
            self.purge(())  # connects that asyncpg began at the same time may go on
            raise
        return self

    async def _connect_one(self, *args: Any, **kwargs: Any) -> RawConnection:
        try:
            connecting = left_to_end(self._connect(*args, **kwargs), asyncpg.Connection.terminate)
            connection = await self._connects.run(connecting)
        except Exception as error:
            maintained = runs(asyncio.current_task(), "Pool._maintain_min_size")
            if not maintained or failure_of(error) not in {Failure.BROKEN, Failure.FULL}:
                raise
            # asyncpg's own task fills the pool: it ends here, as the host's next answer does that.
            raise asyncio.CancelledError from error
        guard_from_forks(connection)
        self._open[connection] = key = connection.get_settings()
        flag, read_only = in_hot_standby(connection), is_read_only(connection)
        self.destinations.opened(key, flag, read_only=read_only)
        # The listener is called with the proxy while the connection is leased.
        connection.add_termination_listener(lambda _: self._forget(connection))
        return connection

    def _forget(self, connection: RawConnection) -> None:
        key = self._open.pop(connection, None)
        self.destinations.closed(key)
        self._resets.end(key)  # which waits for something else, maybe
        self._releases.tell(key)

    def key(self, connection: Connection) -> Hashable | None:
        # A proxy is new for each lease; what the server has reported is kept in one place.
        return None if self.is_closed(connection) else connection.get_settings()

    count_rows = staticmethod(count_rows)

    async def _connect(self, *args: Any, **kwargs: Any) -> RawConnection:
        connection: RawConnection = await connect_of(self._users)(*args, **kwargs)
        if self._users["init"] is not None:
            await self._hook("init", connection)
        return connection

    async def _set_up(self, connection: Connection) -> None:
        await self._connects.run(self._hook("setup", connection))

    async def _hook(self, name: str, connection: Any) -> None:
        try:
            await self._users[name](connection)
        except BaseException:
            connection.terminate()  # else asyncpg says goodbye to a server that may be silent
            raise

    async def _reset_one(self, connection: RawConnection) -> None:
        # In a task that nobody else can await: of a broken one it has to end without an error.
        try:
            if reset := self._users["reset"]:
                await self._resets.run(self._open.get(connection), reset(connection))
            elif query := connection.get_reset_query():
                await connection.execute(query)
        except Exception:
            if not connection.is_closed():
                raise
        finally:
            self._releases.tell(self._open.get(connection))

    async def released(self, connection: Connection) -> None:
        # asyncpg waits until the server has ended a cancelled statement, and has the reset hook
        # run; or the connection ends. After either it has no more to wait for.
        await self._releases.end_of(self.key(connection))

    def leave_block(self, *_: object) -> None:
        """A transaction is ended by asyncpg's own blocks, or rolled back by the reset."""

    def host_answers(self) -> None:
        if self.size < self.sizes.minimum:
            self._refill.postpone()
        self._refill.host_answers()

    async def _fill(self) -> None:
        # asyncpg does so by itself since 0.32, but no more once we have ended it. Begun together,
        # each of these has a place to itself: first the idle connections, gone for a round trip,
        # then those that are missing.
        if (missing := self.sizes.minimum - self.size) > 0:
            uses = (self._use() for _ in range(missing + self.idle()))
            _ = await asyncio.gather(*uses, return_exceptions=True)  # the next answer tries again

    async def _use(self) -> None:
        await self.release(await self.pool.acquire(timeout=1))

    @property
    def size(self) -> int:
        return len(self._open)

    in_hot_standby = staticmethod(in_hot_standby)

    def is_closed(self, connection: Connection) -> bool:
        try:
            return connection.is_closed()
        except asyncpg.InterfaceError:
            return True  # its proxy was detached when it was terminated, or released directly

    def abort(self, connection: Connection) -> None:
        with suppress(asyncpg.InterfaceError):  # as in is_closed()
            if connection.is_in_transaction() and not self._heeding:
                self._heeding = True  # once for all that are aborted now: there may be many tasks
                asyncio.get_running_loop().call_soon(self._heed)
            self._resets.end(connection.get_settings())
            connection.terminate()

    def _heed(self) -> None:
        self._heeding = False
        heed_releases()

    def purge(self, lent: Iterable[Connection]) -> None:
        self._connects.end()
        pids = {each.get_server_pid() for each in lent if not self.is_closed(each)}
        for raw in tuple(self._open):
            if raw.is_closed() or raw.get_server_pid() not in pids:
                self._forget(raw)
                raw.terminate()

    def terminate(self) -> None:
        self._refill.cancel()
        self.pool.terminate()
        self.purge(())
