"""The pool manager for asyncpg."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeAlias

from hasql.base import BasePoolManager
from hasql.driver import Failure, PoolSizes, check_keywords, check_sizes
from hasql.errors import MissingExtraError

try:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy
except ImportError as error:
    msg = "hasql.asyncpg needs asyncpg: pip install 'hasql[asyncpg]'"
    raise MissingExtraError(msg) from error

__all__ = ("PoolManager",)

if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
    RawConnection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Pool, Connection, RawConnection = asyncpg.Pool, PoolConnectionProxy, asyncpg.Connection
_Connect: TypeAlias = Callable[..., Awaitable[RawConnection]]

log = logging.getLogger("hasql")

#: What `pool_factory_kwargs` may hold: all of asyncpg's arguments but those that say where to.
_ROUTING = {"dsn", "host", "loop", "port", "target_session_attrs"}
_OF_CONNECTIONS = frozenset(signature(asyncpg.connect).parameters) - _ROUTING
_OF_POOLS = frozenset(signature(asyncpg.create_pool).parameters) - _ROUTING - {"connect_kwargs"}


class _Session:
    """A reserved connection."""

    def __init__(self, connection: RawConnection, on_lost: Callable[[], None]) -> None:
        self._connection = connection
        self._on_lost: Callable[[], None] | None = on_lost
        connection.add_termination_listener(self._lost)

    @property
    def closed(self) -> bool:
        return self._connection.is_closed()

    @property
    def in_hot_standby(self) -> bool | None:
        return _in_hot_standby(self._connection)

    async def fetch_row(self, sql: str) -> Sequence[object]:
        row = await self._connection.fetchrow(sql)
        assert row is not None  # noqa: S101  # a probe selects exactly one row
        return tuple(row)

    def kill(self) -> None:
        self._on_lost = None
        self._connection.terminate()

    def _lost(self, _connection: object) -> None:
        if self._on_lost is not None:
            self._on_lost()


class _Pool:
    """One asyncpg pool, and all connections it has opened.

    Knowing them, by the pool's public `connect` hook, is what lets it be purged at once:
    asyncpg's `expire_connections()` leaves idle sockets open until somebody needs a connection.
    """

    def __init__(self, dsn: str, kwargs: Mapping[str, Any], sizes: PoolSizes) -> None:
        self.sizes = sizes
        self.plain_acquire = kwargs.get("setup") is None
        self._connect: _Connect = kwargs.get("connect") or asyncpg.connect
        self._open: set[RawConnection] = set()
        self._connecting: set[asyncio.Timeout] = set()
        #: Server processes of leased connections that a purge has left open until they are back.
        self._expired: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self.pool: Pool = asyncpg.create_pool(
            dsn,
            **{
                **kwargs,
                "connect": self._connect_one,
                "min_size": sizes.minimum,
                "max_size": sizes.maximum,
            },
        )

    async def _connect_one(self, *args: Any, **kwargs: Any) -> RawConnection:  # noqa: ANN401  # what asyncpg's pool passes on
        # No time limit of our own: it is there for a purge to end the attempt.
        async with asyncio.timeout(None) as attempt:
            self._connecting.add(attempt)
            try:
                connection = await self._connect(*args, **kwargs)
            finally:
                self._connecting.discard(attempt)
        self._open.add(connection)
        # The listener is called with the proxy while the connection is leased.
        connection.add_termination_listener(lambda _: self._open.discard(connection))
        return connection

    @property
    def size(self) -> int:
        return len(self._open)

    async def acquire(self, **kwargs: Any) -> Connection:  # noqa: ANN401  # asyncpg's own arguments
        try:
            return await self.pool.acquire(**kwargs)
        except asyncpg.InterfaceError as error:
            if self.pool.is_closing():
                raise ConnectionError(str(error)) from error
            raise

    async def release(
        self,
        connection: Connection,
        *,
        timeout: float,
        **kwargs: Any,  # noqa: ANN401  # asyncpg's own arguments
    ) -> None:
        if self._expired and not self.is_closed(connection):
            pid = connection.get_server_pid()
            if pid in self._expired:
                self._expired.discard(pid)
                self.abort(connection)
        # Cancelling a reset would make asyncpg ask the server to cancel it, over a new
        # connection that a silent host does not accept either. A broken one ends at once.
        timer = self._loop.call_later(timeout, self.abort, connection)
        try:
            await self.pool.release(connection, **kwargs)
        except Exception as error:  # noqa: BLE001  # closed by asyncpg; the use of it has ended well
            log.debug("a connection was closed instead of reset: %r", error)
        except BaseException:
            self.abort(connection)
            raise
        finally:
            timer.cancel()

    def in_hot_standby(self, connection: Connection) -> bool | None:
        return _in_hot_standby(connection)

    def is_closed(self, connection: Connection) -> bool:
        try:
            return connection.is_closed()
        except asyncpg.InterfaceError:
            return True  # its proxy was detached when it was terminated, or released directly

    def abort(self, connection: Connection) -> None:
        with suppress(asyncpg.InterfaceError):  # as in is_closed()
            connection.terminate()

    def purge(self, lent: Iterable[Connection]) -> None:
        for attempt in self._connecting:
            if not attempt.expired():
                attempt.reschedule(self._loop.time())
        self._expired = {c.get_server_pid() for c in lent if not self.is_closed(c)}
        for connection in tuple(self._open):
            if connection.is_closed() or connection.get_server_pid() not in self._expired:
                self._open.discard(connection)
                connection.terminate()

    def idle(self) -> int:
        return self.pool.get_idle_size()

    async def close(self) -> None:
        await self.pool.close()

    def terminate(self) -> None:
        self.pool.terminate()
        self.purge(())


class _Driver:
    """asyncpg as a whole."""

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        check_keywords(kwargs, _OF_POOLS | _OF_CONNECTIONS, "asyncpg's pool")
        maximum = kwargs.get("max_size", 10)
        # Who lowers the maximum alone means asyncpg's default minimum no more.
        minimum = kwargs.get("min_size", min(10, maximum) if isinstance(maximum, int) else 10)
        return check_sizes(minimum, maximum, names=("min_size", "max_size"))

    async def open(self, dsn: str, kwargs: Mapping[str, Any]) -> _Pool:
        pool = _Pool(dsn, kwargs, self.sizes(kwargs))
        _ = await pool.pool
        return pool

    async def connect(
        self, dsn: str, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> _Session:
        connect: _Connect = kwargs.get("connect") or asyncpg.connect
        arguments = {name: value for name, value in kwargs.items() if name in _OF_CONNECTIONS}
        return _Session(await connect(dsn, **arguments), on_lost)

    def failure(self, error: BaseException) -> Failure:
        if isinstance(error, asyncpg.PostgresError):
            return Failure.of_sqlstate(error.sqlstate or "")
        if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
            return Failure.REFUSED
        return Failure.of_exception(error)


def _in_hot_standby(connection: Connection | RawConnection) -> bool | None:
    flag = getattr(connection.get_settings(), "in_hot_standby", None)
    return None if flag is None else flag == "on"


class PoolManager(BasePoolManager[Pool, Connection]):
    """Hands out asyncpg connections, as `asyncpg.Pool.acquire` does.

    `pool_factory_kwargs` are those of `asyncpg.create_pool`. An open transaction is rolled back
    when the connection is given back, as by asyncpg's pool.
    """

    _driver = _Driver()
