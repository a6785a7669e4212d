"""A pool of asyncpg with all that the core needs of one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from hasql.driver import Failure, PendingConnects, PoolSizes, Refill, left_to_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

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


def _in_maintenance() -> bool:
    """Tell whether this is asyncpg's task that keeps a pool at its minimum.

    It has no public mark, so it is known by its name. Under another name its failures would be
    retried and logged by asyncpg as ever: later than could be, but safely.
    """
    task = asyncio.current_task()
    code = getattr(task and task.get_coro(), "cr_code", None)
    return code is not None and code.co_name == "_maintain_min_size"


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
        return self

    async def _connect_one(self, *args: Any, **kwargs: Any) -> RawConnection:
        try:
            connecting = left_to_end(self._connect(*args, **kwargs), asyncpg.Connection.terminate)
            connection = await self._connects.run(connecting)
        except Exception as error:
            if not _in_maintenance() or failure_of(error) not in {Failure.BROKEN, Failure.FULL}:
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
        try:
            # asyncpg begins to fill a pool when one of its connections closes.
            self.abort(await self.pool.acquire(timeout=1))
        except Exception:  # noqa: BLE001  # whatever it was, the next answered probe tries again
            self._refill.postpone()

    @property
    def size(self) -> int:
        return len(self._open)

    def acquire(self, **kwargs: Any) -> Awaitable[Connection]:
        """See `DriverPool`."""
        return self.pool.acquire(**kwargs)

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
