"""A pool of asyncpg, with everything that the core needs of a pool."""

# long: it is one class, with the methods that the core needs of a pool and no others.

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from hasql._adapters.asyncpg.connection import (
    Connection,
    Pool,
    RawConnection,
    check_open,
    connect_of,
    count_rows,
    failure_of,
    guard_from_forks,
    in_hot_standby,
    is_closed,
    is_read_only,
    roll_back,
)
from hasql._adapters.asyncpg.fatal_errors import report_end
from hasql._adapters.asyncpg.login import (
    connect_for_pool,
    is_opened_still,
    terminate_opened,
    without_choice,
)
from hasql._adapters.asyncpg.pool_tasks import (
    DetachedReleases,
    ReleaseErrors,
    runs_method,
)
from hasql._adapters.asyncpg.resets import ConnectionResets
from hasql._adapters.asyncpg.transactions import AsyncpgTransaction
from hasql.driver import AsyncPool, Endpoint, Failure, PoolSizes
from hasql.driver.connects import PendingConnects, Refill, leave_to_itself
from hasql.driver.deadline import cancellations
from hasql.driver.destinations import Destinations
from hasql.driver.unclaimed_connects import UnclaimedConnects

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from hasql._adapters.session_setup import WithSettings

__all__ = ("AsyncpgPool",)

#: Seconds that a connect may still take after the acquire that began it has stopped waiting.
_LIMIT_UNCLAIMED = 2.0
#: Seconds after which such a connection is closed if no acquire has taken it. asyncpg does not
#: know of it, and so does not apply its own limit for idle connections.
_LONGEST_UNCLAIMED = 60.0
_HOOKS = ("connect", "init", "reset", "setup")


class AsyncpgPool(AsyncPool[Pool, Connection]):
    """One asyncpg pool, and all connections it has opened.

    The adapter opens them in the pool's public `connect` hook. So it knows them, and can purge them
    at once; asyncpg's own `expire_connections()` leaves idle sockets open until they are needed.

    `create_pool` is `asyncpg.create_pool`, or a function of another library that calls it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        kwargs: Mapping[str, Any],
        sizes: PoolSizes,
        report: Callable[[Connection, BaseException], None],
        create_pool: Callable[..., Pool] = asyncpg.create_pool,
    ) -> None:
        self.sizes = sizes
        self._endpoint, self._report = endpoint, report
        self._user_hooks: Any = {name: kwargs.get(name) for name in _HOOKS}
        self._connects = PendingConnects()
        self._unclaimed = UnclaimedConnects(is_opened_still)
        #: How often all connects were ended. A connect begun before that is not kept for others.
        self._connects_ended = 0
        #: The open connections, with the key of each.
        self._open: dict[RawConnection, Hashable] = {}
        self.destinations = known = Destinations()
        self._releases, self._refill = DetachedReleases(), Refill(self._fill)
        reset, ended = self._user_hooks["reset"], self._releases.note_end
        self._resets = ConnectionResets(reset, endpoint.settings, known, ended)
        setup = self._user_hooks["setup"] and self._set_up
        ours = {"connect": self._connect_one, "init": None, "setup": setup}
        ours |= {"reset": self._resets.run, "min_size": sizes.minimum, "max_size": sizes.maximum}
        self.pool = create_pool(without_choice(endpoint.dsn), **{**kwargs, **ours})
        self._release_errors = ReleaseErrors()
        # Bound directly to asyncpg's methods: a method around each would slow every acquire down.
        self.acquire: Any = self.pool.acquire
        self.release: Any = self.pool.release
        self.idle: Any = self.pool.get_idle_size

    async def open(self) -> AsyncpgPool:
        try:
            _ = await self.pool
        except BaseException:
            self.purge(())  # asyncpg opens several at once: when one fails, the others may go on
            raise
        return self

    async def _connect_one(self, _: str, **kwargs: Any) -> RawConnection:
        try:
            (connection, address), made = await self._opened(kwargs)
            check_open(connection)
        except Exception as error:
            maintained = runs_method(asyncio.current_task(), "Pool._maintain_min_size")
            if not maintained or failure_of(error) not in {Failure.BROKEN, Failure.FULL}:
                raise
            # This is asyncpg's task that fills the pool. It would retry at longer and longer
            # intervals. End it; the pool is refilled as soon as the host answers a probe.
            raise asyncio.CancelledError from error
        guard_from_forks(connection)
        self._open[connection] = key = connection.get_settings()
        flag, read_only = in_hot_standby(connection), is_read_only(connection)
        self.destinations.opened(key, flag, read_only=read_only, address=address, made=made)
        report_end(connection, self._report, self._forget)
        return connection

    async def _opened(self, kwargs: Any) -> WithSettings[tuple[RawConnection, str | None]]:
        """Wait for a connect: one that another acquire no longer waits for, or a new one."""
        before, ended = cancellations(), self._connects_ended
        while True:
            unclaimed = self._unclaimed.take()
            connecting = unclaimed or asyncio.create_task(self._connect(kwargs))
            try:
                opened = await self._connects.run(asyncio.shield(connecting))
            except asyncio.CancelledError:
                if unclaimed and unclaimed.cancelled() and cancellations() == before:
                    continue  # the limit for unclaimed connects has cancelled it; take another
                if ended != self._connects_ended:  # `end_connects` was called meanwhile
                    leave_to_itself(connecting, terminate_opened)
                    raise
                if not unclaimed:
                    later, drop = asyncio.get_running_loop().call_later, self._unclaimed.drop
                    later(_LIMIT_UNCLAIMED, connecting.cancel)
                    later(_LONGEST_UNCLAIMED, drop, connecting, terminate_opened)
                self._unclaimed.put(connecting)
                raise
            except ConnectionError:  # the connect has failed, or the host was given up
                leave_to_itself(connecting, terminate_opened)
                raise
            return opened

    def _forget(self, connection: RawConnection) -> None:
        key = self._open.pop(connection, None)
        self.destinations.closed(key)
        self._resets.end(key)  # the hook may be waiting for something other than the connection
        self._releases.note_end(key)

    def key(self, connection: Connection) -> Hashable | None:
        # Each lease has a new proxy, but `get_settings()` stays the same object for a connection.
        return None if self.is_closed(connection) else connection.get_settings()

    transaction: Any = AsyncpgTransaction
    count_rows, roll_back = staticmethod(count_rows), staticmethod(roll_back)
    is_read_only = staticmethod(is_read_only)

    async def _connect(self, kwargs: Any) -> WithSettings[tuple[RawConnection, str | None]]:
        opened = await connect_for_pool(self._endpoint, connect_of(self._user_hooks), kwargs)
        if self._user_hooks["init"] is not None:
            await self._hook("init", opened.connection[0])
        return opened

    async def _set_up(self, connection: Connection) -> None:
        await self._connects.run(self._hook("setup", connection))

    async def _hook(self, name: str, connection: Any) -> None:
        try:
            await self._user_hooks[name](connection)
        except BaseException:
            connection.terminate()  # otherwise asyncpg waits for a server that may be silent
            raise

    async def released(self, connection: Connection) -> None:
        # After a release is cancelled, asyncpg still waits until the server has ended the
        # statement, and runs the reset hook. The release ends with that, or with the connection.
        await self._releases.wait_for_end(self.key(connection))

    def host_answers(self) -> None:
        if self.size < self.sizes.minimum:
            self._refill.postpone()
        self._refill.host_answers()

    async def _fill(self) -> None:
        # asyncpg refills its pool by itself since 0.32, but not after `_connect_one` has ended the
        # task that does it. All acquires here begin before any of them ends, so each takes a
        # different place in the pool. The first ones get the idle connections, which costs a round
        # trip each, and the rest open the missing ones.
        if (missing := self.sizes.minimum - self.size) > 0:
            uses = (self._use() for _ in range(missing + self.idle()))
            # Errors do not matter: the next answer of the host makes the pool try again.
            _ = await asyncio.gather(*uses, return_exceptions=True)

    async def _use(self) -> None:
        await self.release(await self.pool.acquire(timeout=1))

    @property
    def size(self) -> int:
        return len(self._open)

    in_hot_standby = staticmethod(in_hot_standby)
    is_closed = staticmethod(is_closed)

    def abort(self, connection: Connection) -> None:
        with suppress(asyncpg.InterfaceError):  # the proxy was detached, as in `is_closed`
            if connection.is_in_transaction():
                self._release_errors.retrieve()
            self._resets.end(connection.get_settings())
            connection.terminate()

    def purge(self, leased: Iterable[Connection]) -> None:
        self.drain(leased, lambda _: True)

    def drain(self, leased: Iterable[Connection], has_left: Callable[[str | None], bool]) -> None:
        self.end_connects()
        kept = {each.get_settings() for each in leased if not self.is_closed(each)}
        for raw, key in tuple(self._open.items()):
            if key not in kept and has_left(self.destinations.address_of(key)):
                self._forget(raw)
                raw.terminate()

    def end_connects(self) -> None:
        self._connects_ended += 1
        self._connects.end()
        self._unclaimed.end(terminate_opened)

    async def close(self) -> None:
        self.end_connects()
        await self.pool.close()

    def terminate(self) -> None:
        self._refill.cancel()
        self.pool.terminate()
        self.purge(())
