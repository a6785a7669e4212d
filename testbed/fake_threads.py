"""The scriptable cluster of `testbed.fake_driver`, for a pool manager for threads.

The servers live in the manager's event loop, because its monitors wait for them there. A test
therefore changes them with `ThreadManager.in_loop`.
"""

from __future__ import annotations

import re
from functools import partial
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from hasql.driver import Driver, Endpoint, Failure, PoolSizes, ThreadPool
from hasql.driver.destinations import Destinations
from hasql.driver.thread_waiter import ThreadWaiter
from hasql.sync.base import BaseSyncPoolManager
from testbed.fake_driver import FakeConnection, FakeDriver, FakeServer, ScriptedNames
from testbed.fake_transactions import FakeThreadTransaction

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from hasql._probing.followed_names import NameSource
    from hasql.cluster.host import HostSpec
    from hasql.driver.time_left import TimeLeft

#: Seconds after which a thread that still waits here makes the test fail.
_TOO_LONG = 20.0


class ThreadConnection(FakeConnection):
    """A connection that a thread uses, and waits for."""

    def __init__(self, server: FakeServer) -> None:
        self._lost = Event()  # first: the server may lose the connection as soon as it has it
        super().__init__(server)

    def use(self) -> None:
        """Run a statement: succeed, hang while the server is frozen, or fail."""
        while not self.closed and (self.server.frozen or self.server.silent_after_login):
            assert self._lost.wait(0.001) or not self._waits_too_long()
        if self.closed:
            msg = "the connection was closed in the middle of the operation"
            raise ConnectionResetError(msg)
        self._flag = not self.server.master if self.server.lie is None else self.server.lie

    _waited = 0

    def _waits_too_long(self) -> bool:
        self._waited += 1
        return self._waited * 0.001 > _TOO_LONG

    def lose(self) -> None:
        super().lose()
        self._lost.set()


class FakeThreadPool(ThreadPool["FakeThreadPool", ThreadConnection]):
    """A driver's pool for threads, and the adapter's view of it, in one class."""

    def __init__(
        self, server: Callable[[str | None], FakeServer], endpoint: Endpoint, sizes: PoolSizes
    ) -> None:
        #: Returns the server at an address of the host.
        self._server = server
        self._endpoint = endpoint
        self.pool = self
        self.destinations = Destinations()
        self.sizes = sizes
        self.free: list[ThreadConnection] = []
        self.lent: set[ThreadConnection] = set()
        self.connecting: set[ThreadWaiter[None]] = set()
        self.most_lent = 0
        self.closed = False
        self.generation = 0
        #: A test's own actions: when a thread acquires, has acquired or has connected, when
        #: `is_closed` is asked, and at the end of a block.
        self.on_acquire: Callable[[], object] = lambda: None
        self.on_acquired: Callable[[ThreadConnection], object] = lambda _: None
        self.on_connected: Callable[[], object] = lambda: None
        self.on_look: Callable[[], object] = lambda: None
        self.leave_block: Any = lambda *_: None
        self._lock = Lock()

    @property
    def size(self) -> int:
        return sum(not connection.closed for connection in (*self.free, *self.lent))

    def acquire(self, time_left: TimeLeft, **kwargs: Any) -> ThreadConnection:
        assert not kwargs
        self.on_acquire()
        with self._lock:
            connection = self._idle()
            if connection is None:
                assert len(self.lent) < self.sizes.maximum, "the core lets nobody wait in the pool"
        if connection is None:
            connection = self._connect(time_left)
            with self._lock:
                self.lent.add(connection)
        self.most_lent = max(self.most_lent, len(self.lent))
        self.on_acquired(connection)
        return connection

    def _idle(self) -> ThreadConnection | None:
        while self.free:
            connection = self.free.pop()
            if not connection.closed:
                self.lent.add(connection)
                return connection
        return None

    def _connect(self, time_left: TimeLeft) -> ThreadConnection:
        address = next(iter(self._endpoint.addresses), None)
        server, began = self._server(address), self.generation
        server.logins += 1
        while server.frozen:
            answer: ThreadWaiter[None] = ThreadWaiter()
            self.connecting.add(answer)
            try:
                time_left.wait(answer)
            finally:
                self.connecting.discard(answer)
        if not server.alive:
            msg = f"connection refused by {server.host}"
            raise ConnectionRefusedError(msg)
        if server.login_error is not None:
            raise server.login_error
        connection = ThreadConnection(server)
        self.on_connected()
        if began != self.generation or self.closed:
            connection.lose()
            raise ConnectionError("hasql gave up on the host while connecting to it")
        connection.on_closed = self.destinations.closed
        flag = connection.in_hot_standby
        self.destinations.opened(connection, flag, read_only=False, address=address)
        return connection

    def release(self, connection: ThreadConnection, **kwargs: Any) -> None:
        assert not kwargs
        if connection not in self.lent:
            return
        try:
            if not connection.closed:
                connection.use()
                connection.resets += 1
        except ConnectionError:
            pass
        finally:
            with self._lock:
                self.lent.discard(connection)
                if not connection.closed:
                    self.free.append(connection)

    def count_rows(self, connection: ThreadConnection, sql: str) -> int:
        connection.use()
        if "set_config" in sql:
            return connection.set(sql)
        names = sql.partition("system_identifier")[1:], sql.partition("postmaster_start")[1:]
        server = connection.server
        server.questions += 1
        wanted = [re.search(r"=\) (\d+)", rest) for name, rest in names if name]
        identity = {server.system_id, server.started_at}
        return int(server.master and all(x and int(x[1]) in identity for x in wanted))

    transaction = FakeThreadTransaction

    def roll_back(self, connection: ThreadConnection) -> None:
        connection.use()

    def is_read_only(self, connection: ThreadConnection) -> bool:
        return connection.read_only

    def in_hot_standby(self, connection: ThreadConnection) -> bool | None:
        return connection.in_hot_standby

    def is_closed(self, connection: ThreadConnection) -> bool:
        self.on_look()
        return connection.closed

    # As with SQLAlchemy's engine, a connection that was given back has no lease any more: it cannot
    # be aborted then, and a purge does not spare it.

    def abort(self, connection: ThreadConnection) -> None:
        if connection in self.lent:
            connection.lose()

    def purge(self, leased: Iterable[ThreadConnection]) -> None:
        self.drain(leased, lambda _: True)

    def drain(
        self, leased: Iterable[ThreadConnection], has_left: Callable[[str | None], bool]
    ) -> None:
        with self._lock:
            nobodys = {*self.free, *self.lent} - self.lent.intersection(leased)
        for connection in nobodys:
            if has_left(self.destinations.address_of(connection)):
                connection.lose()
        self.end_connects()

    def end_connects(self) -> None:
        self.generation += 1
        for answer in tuple(self.connecting):
            if not answer.done():
                answer.set_exception(ConnectionError("hasql gave up on the host while connecting"))

    def idle(self) -> int:
        return len(self.free)

    async def warm_up(self) -> None:
        if not self._server(None).alive:
            raise ConnectionRefusedError
        if not self.free:
            self.free.append(ThreadConnection(self._server(None)))

    async def close(self) -> None:
        await self._server(None).answer()
        self.terminate()

    def terminate(self) -> None:
        self.closed = True
        self.end_connects()
        with self._lock:
            for connection in (*self.free, *self.lent):
                connection.lose()
            self.free.clear()


class FakeThreadDriver(Driver[FakeThreadPool, ThreadConnection]):
    """The driver of a fake cluster whose connections threads use."""

    def __init__(self, servers: Mapping[HostSpec, FakeServer]) -> None:
        self._sessions = FakeDriver(servers)
        #: The server at each address, for names that hasql follows.
        self.at = self._sessions.at
        self.pools: list[FakeThreadPool] = []

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        return self._sessions.sizes(kwargs)

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        return self._sessions.resized(kwargs, minimum, maximum)

    async def connect(self, *args: Any) -> FakeConnection:
        return await self._sessions.connect(*args)

    async def open(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], report: object
    ) -> FakeThreadPool:
        del report
        server = partial(self._sessions.server_at, endpoint.host)
        pool = FakeThreadPool(server, endpoint, self.sizes(kwargs))
        self.pools.append(pool)
        return pool

    def failure(self, error: BaseException) -> Failure:
        return self._sessions.failure(error)

    def sqlstate(self, error: BaseException) -> str | None:
        return self._sessions.sqlstate(error)


class ThreadManager(BaseSyncPoolManager[FakeThreadPool, ThreadConnection]):
    """A pool manager for threads on a fake cluster."""

    def __init__(
        self, servers: Mapping[str, FakeServer], names: ScriptedNames | None = None, **kwargs: Any
    ) -> None:
        self._names = names
        by_host = {server.host: server for server in servers.values()}
        self.driver = FakeThreadDriver(by_host)
        self._driver = self.driver  # type: ignore[misc]  # one cluster for each test
        hosts = ",".join(map(str, by_host))
        super().__init__(f"postgresql://user:secret@{hosts}/app", **kwargs)

    def _name_source(self, _: object, /) -> Callable[[], NameSource] | None:  # type: ignore[override]  # of this one
        names = self._names  # None if the hosts have no names to follow
        return None if names is None else lambda: names

    def in_loop(self, change: Callable[[], object]) -> None:
        """Change a server in the loop, and wait until that is done."""

        async def done() -> None:
            change()

        self._run(done)

    def wait_in_loop(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine in the loop, and wait until it is done."""
        self._run(work)

    @property
    def waiting(self) -> int:
        """How many threads wait for a connection."""
        return self.metrics().waiting

    def pool_of(self, name: str) -> FakeThreadPool:
        """Return the pool on a host."""
        return next(pool for pool in self.driver.pools if self.host(pool).startswith(f"{name}:"))
