"""A pool of asyncpg with all that the core needs of one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from hasql.driver import Failure, PendingConnects, PoolSizes, Refill

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = (
    "AsyncpgPool",
    "Connection",
    "Pool",
    "RawConnection",
    "connect_of",
    "failure_of",
    "in_hot_standby",
)

# As strings: asyncpg's classes take their parameter in its stubs alone.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
RawConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_HOOKS = ("connect", "init", "reset", "setup")


def connect_of(kwargs: Mapping[str, Any]) -> Any:
    """Return what opens a connection: the user's own, or asyncpg's."""
    return kwargs.get("connect") or asyncpg.connect


def in_hot_standby(connection: Connection | RawConnection) -> bool | None:
    """Return what the server reported last; PostgreSQL does since version 14."""
    flag = getattr(connection.get_settings(), "in_hot_standby", None)
    return None if flag is None else flag == "on"


def failure_of(error: BaseException) -> Failure:
    """Say what an exception tells of the server."""
    if isinstance(error, asyncpg.PostgresError):
        return Failure.of_sqlstate(error.sqlstate or "")
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return Failure.REFUSED
    if isinstance(error, asyncpg.InternalClientError):
        return Failure.BROKEN  # as after the last words of a server that is going down
    return Failure.of_exception(error)


class AsyncpgPool:
    """One asyncpg pool, and all connections it has opened.

    Knowing them, by the pool's public `connect` hook, is what lets it be purged at once: asyncpg's
    own `expire_connections()` leaves idle sockets open until somebody needs a connection.
    """

    def __init__(self, dsn: str, kwargs: Mapping[str, Any], sizes: PoolSizes) -> None:
        self.sizes = sizes
        self._users: Any = {name: kwargs.get(name) for name in _HOOKS}
        self._connects = PendingConnects()
        self._open: set[RawConnection] = set()
        #: Whether an acquire is being begun: asyncpg gets from there to `connect` without a pause.
        self._asked = True
        self._refill = Refill(self._wake_refill)
        setup = self._users["setup"] and partial(self._hook, "setup")
        ours = {"connect": self._connect_one, "init": None, "setup": setup}
        ours |= {"reset": self._reset_one, "min_size": sizes.minimum, "max_size": sizes.maximum}
        self.pool: Pool = asyncpg.create_pool(dsn, **{**kwargs, **ours})
        self.idle, self.close = self.pool.get_idle_size, self.pool.close
        self.end_connects, self.host_answers = self._connects.end, self._refill.host_answers

    async def open(self) -> AsyncpgPool:
        try:
            _ = await self.pool
        except BaseException:
            self.purge(())  # connects that asyncpg began at the same time may go on
            raise
        self._asked = False
        return self

    async def _connect_one(self, *args: Any, **kwargs: Any) -> RawConnection:
        asked = self._asked
        try:
            connection = await self._connects.run(self._connect(*args, **kwargs))
        except Exception as error:
            if asked or failure_of(error) not in {Failure.BROKEN, Failure.FULL}:
                raise
            # asyncpg's own task fills the pool: it ends here, to be woken when the host answers.
            self._refill.postpone()
            raise asyncio.CancelledError from error
        self._open.add(connection)
        # The listener is called with the proxy while the connection is leased.
        connection.add_termination_listener(lambda _: self._open.discard(connection))
        return connection

    async def _connect(self, *args: Any, **kwargs: Any) -> RawConnection:
        connection: RawConnection = await connect_of(self._users)(*args, **kwargs)
        if self._users["init"] is not None:
            await self._hook("init", connection)
        return connection

    async def _hook(self, name: str, connection: Any) -> None:
        try:
            await self._users[name](connection)
        except BaseException:
            connection.terminate()  # else asyncpg says goodbye to a server that may be silent
            raise

    async def _reset_one(self, connection: RawConnection) -> None:
        # asyncpg shields the reset from cancellation, in a task that nobody else can await: when
        # `release` has broken the connection it has to end there without an error.
        try:
            if self._users["reset"] is not None:
                await self._users["reset"](connection)
            elif query := connection.get_reset_query():
                await connection.execute(query)
        except Exception:
            if not connection.is_closed():
                raise

    async def _wake_refill(self) -> None:
        with suppress(Exception):  # asyncpg begins to fill a pool when a connection closes
            self.abort(await self.pool.acquire(timeout=1))

    @property
    def size(self) -> int:
        return len(self._open)

    async def acquire(self, **kwargs: Any) -> Connection:
        self._asked = True
        try:
            return await self.pool.acquire(**kwargs)
        finally:
            self._asked = False

    async def release(self, connection: Connection, **kwargs: Any) -> None:
        try:
            await self.pool.release(connection, **kwargs)
        except BaseException:
            self.abort(connection)
            raise

    in_hot_standby = staticmethod(in_hot_standby)

    def is_closed(self, connection: Connection) -> bool:
        try:
            return connection.is_closed()
        except asyncpg.InterfaceError:
            return True  # its proxy was detached when it was terminated, or released directly

    def abort(self, connection: Connection) -> None:
        with suppress(asyncpg.InterfaceError):  # as in is_closed()
            connection.terminate()

    def purge(self, lent: Iterable[Connection]) -> None:
        self._connects.end()
        pids = {each.get_server_pid() for each in lent if not self.is_closed(each)}
        for raw in tuple(self._open):
            if raw.is_closed() or raw.get_server_pid() not in pids:
                self._open.discard(raw)
                raw.terminate()

    def terminate(self) -> None:
        self._refill.cancel()
        self.pool.terminate()
        self.purge(())
