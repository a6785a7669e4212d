"""The pool manager for asyncpg."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import signature
from typing import Any, TypeAlias

from hasql.base import BasePoolManager
from hasql.driver import Failure, PendingConnects, PoolSizes, check_keywords, check_sizes, until
from hasql.errors import MissingExtraError

try:
    import asyncpg
except ImportError as error:
    raise MissingExtraError("hasql.asyncpg needs asyncpg: pip install 'hasql[asyncpg]'") from error

__all__ = ("PoolManager",)

_OnLost: TypeAlias = Callable[[], None]
# As strings: asyncpg's classes take their parameter in its stubs alone.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
RawConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

#: What `pool_factory_kwargs` may hold: all of asyncpg's arguments but those that say where to.
_ROUTING = {"dsn", "host", "loop", "port", "target_session_attrs"}
_OF_CONNECTIONS = frozenset(signature(asyncpg.connect).parameters) - _ROUTING
_OF_POOLS = frozenset(signature(asyncpg.create_pool).parameters) - _ROUTING - {"connect_kwargs"}


def _in_hot_standby(connection: Connection | RawConnection) -> bool | None:
    flag = getattr(connection.get_settings(), "in_hot_standby", None)
    return None if flag is None else flag == "on"


def _failure(error: BaseException) -> Failure:
    if isinstance(error, asyncpg.PostgresError):
        return Failure.of_sqlstate(error.sqlstate or "")
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return Failure.REFUSED
    if isinstance(error, asyncpg.InternalClientError):
        return Failure.BROKEN  # as after the last words of a server that is going down
    return Failure.of_exception(error)


class _Session:
    """A reserved connection."""

    def __init__(self, connection: RawConnection, on_lost: _OnLost) -> None:
        self._connection = connection
        self._killed = False
        connection.add_termination_listener(lambda _: None if self._killed else on_lost())

    @property
    def closed(self) -> bool:
        return self._connection.is_closed()

    @property
    def in_hot_standby(self) -> bool | None:
        return _in_hot_standby(self._connection)

    async def fetch_row(self, sql: str) -> Sequence[object]:
        return tuple(await self._connection.fetchrow(sql) or ())

    def kill(self) -> None:
        self._killed = True
        self._connection.terminate()


class _Pool:
    """One asyncpg pool, and all connections it has opened.

    Knowing them, by the pool's public `connect` hook, is what lets it be purged at once: asyncpg's
    own `expire_connections()` leaves idle sockets open until somebody needs a connection.
    """

    def __init__(self, dsn: str, kwargs: Mapping[str, Any], sizes: PoolSizes) -> None:
        self.sizes = sizes
        self._hooked = kwargs.get("setup") is not None
        #: Of the acquire that is being begun; asyncpg gets to its hook below without a pause.
        self._deadline: float | None = None
        self._connect: Any = kwargs.get("connect") or asyncpg.connect
        self._connects = PendingConnects(_failure)
        self._reset: Any = kwargs.get("reset")
        self._open: set[RawConnection] = set()
        #: Identities of leased connections that are to be closed once they are back.
        self._expired: set[int] = set()
        hooks = {"connect": self._connect_one, "reset": self._reset_one}
        bounds = {"min_size": sizes.minimum, "max_size": sizes.maximum}
        self.pool: Pool = asyncpg.create_pool(dsn, **{**kwargs, **hooks, **bounds})
        self.idle, self.close = self.pool.get_idle_size, self.pool.close
        self.host_answers = self._connects.host_answers

    async def _connect_one(self, *args: Any, **kwargs: Any) -> RawConnection:
        deadline, self._deadline = self._deadline, None
        connect: Callable[[], Awaitable[RawConnection]] = partial(self._connect, *args, **kwargs)
        connection = await self._connects.run(connect, deadline)
        self._open.add(connection)
        # The listener is called with the proxy while the connection is leased.
        connection.add_termination_listener(lambda _: self._open.discard(connection))
        return connection

    async def _reset_one(self, connection: RawConnection) -> None:
        """Reset as asyncpg or the user's own hook does.

        asyncpg shields the reset from cancellation, in a task that nobody else can await: when
        `release` has broken the connection it has to end there without an error.
        """
        try:
            if self._reset is not None:
                await self._reset(connection)
            elif query := connection.get_reset_query():
                await connection.execute(query)
        except Exception:
            if not connection.is_closed():
                raise

    @property
    def size(self) -> int:
        return len(self._open)

    async def acquire(self, deadline: float, **kwargs: Any) -> Connection:
        self._deadline = deadline
        try:
            taken = self.pool.acquire(**kwargs)
            return await (until(deadline, taken) if self._hooked else taken)
        finally:
            self._deadline = None

    async def release(self, connection: Connection, **kwargs: Any) -> None:
        if id(connection) in self._expired:
            self._expired.discard(id(connection))
            self.abort(connection)
        try:
            with suppress(Exception):  # asyncpg has closed it then, and its use has ended well
                await self.pool.release(connection, **kwargs)
        except BaseException:
            self.abort(connection)
            raise

    in_hot_standby = staticmethod(_in_hot_standby)

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
        spared = [connection for connection in lent if not self.is_closed(connection)]
        self._expired.update(map(id, spared))
        pids = {connection.get_server_pid() for connection in spared}
        for raw in tuple(self._open):
            if raw.is_closed() or raw.get_server_pid() not in pids:
                self._open.discard(raw)
                raw.terminate()

    def terminate(self) -> None:
        self.pool.terminate()
        self.purge(())


class _Driver:
    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        check_keywords(kwargs, _OF_POOLS | _OF_CONNECTIONS, "asyncpg's pool")
        return check_sizes(kwargs, minimum=("min_size", 10), maximum=("max_size", 10))

    async def open(self, dsn: str, kwargs: Mapping[str, Any]) -> _Pool:
        pool = _Pool(dsn, kwargs, self.sizes(kwargs))
        try:
            _ = await pool.pool
        except BaseException:
            pool.purge(())  # connects that asyncpg began at the same time may go on
            raise
        return pool

    async def connect(self, dsn: str, kwargs: Mapping[str, Any], on_lost: _OnLost) -> _Session:
        arguments = {name: value for name, value in kwargs.items() if name in _OF_CONNECTIONS}
        connect = kwargs.get("connect") or asyncpg.connect
        return _Session(await connect(dsn, **arguments), on_lost)

    failure = staticmethod(_failure)


class PoolManager(BasePoolManager[Pool, Connection]):
    """Hands out asyncpg connections, as `asyncpg.Pool.acquire` does.

    `pool_factory_kwargs` are those of `asyncpg.create_pool`. An open transaction is rolled back
    when the connection is given back, as by asyncpg's pool.
    """

    _driver = _Driver()
