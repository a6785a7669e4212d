"""A scriptable cluster and a driver for it, for truth tables that real servers could not produce.

A test changes servers by their methods (`kill`, `freeze`, `promote`, …). The driver then shows what
a real one would: sockets that close, statements that hang, flags that are sent with an answer.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

from hasql.base import BasePoolManager
from hasql.cluster.host import HostSpec, parse_host
from hasql.cluster.probe import STANDBY_QUERY, ProbeForm
from hasql.dns import Answer
from hasql.driver import (
    AsyncPool,
    Driver,
    Endpoint,
    Failure,
    PoolSizes,
    check_keywords,
    check_sizes,
)
from hasql.driver.arguments import with_bounds
from hasql.driver.destinations import Destinations
from hasql.driver.holder import HolderNotes, ReusesObjects
from testbed.fake_transactions import FakeTransaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from hasql._probing.followed_names import NameSource

    Report = Callable[["FakeConnection", BaseException], None]


_OF_A_TRANSACTION = re.compile(r"CASE WHEN '(\d+)'::pg_catalog.xid8")


class ServerError(Exception):
    """The error that a fake server answers instead of a row."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"SQLSTATE {sqlstate}")
        self.sqlstate = sqlstate


class DriverError(Exception):
    """An error of the fake driver itself, whose cause the driver cannot tell."""


class FakeServer:
    """One server of the fake cluster."""

    _starts = count(1)

    def __init__(
        self,
        host: HostSpec,
        *,
        master: bool,
        system_id: int = 7,
        timeline: int = 1,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.host = host
        self._clock = clock
        self.master = master
        self.system_id: int | None = system_id
        self.timeline = timeline
        self.started_at = next(self._starts)
        self._up_since = clock()
        self.position = 1000
        self.flushed = 1000
        #: What it reports as a master about the recovery before that: the position where it ended,
        #: whether the server was a standby until then, and, if so, the time (in microseconds) of
        #: the last commit that it replayed.
        self.recovered_to: int | None = None
        self.was_standby = False
        self.last_replayed: int | None = None
        #: The age, in seconds, of the last commit that it has replayed as a standby.
        self.replay_age: float | None = None
        self.followed: int | None = None
        #: The outcome of transactions, by their ids; a transaction not listed is in progress.
        self.statuses: dict[int, str | None] = {}
        self.frozen = False
        #: Whether it accepts logins and then stays silent.
        self.silent_after_login = False
        self.alive = True
        #: Raised for every new connection, None to accept them.
        self.login_error: Exception | None = None
        #: SQLSTATE for a probe of this form or a larger one, None to answer.
        self.denies: dict[ProbeForm, str] = {}
        #: Whether its connections report in_hot_standby, and the wrong value that a pooler makes
        #: them report; None for the right one.
        self.reports_flag = True
        self.lie: bool | None = None
        #: The same for pooled connections alone; the monitor's connection is not affected.
        self.lie_to_pool: bool | None = None
        #: Whether it is behind a pooler, so that another process answers than the login named.
        self.pooler = False
        #: The SQLSTATE with which a setting of the role ends sessions whose probes do not bring
        #: their own settings; None if no setting does.
        self.limits: str | None = None
        #: How something between client and server changes the rows of its probes.
        self.garble: Callable[[Sequence[str | None]], Sequence[str | None]] = tuple
        self.connections: list[FakeConnection] = []
        self.probes: list[ProbeForm] = []
        self.logins = 0
        #: What a login awaits before anything else, such as the look-up of a name.
        self.before_login: Callable[[], Awaitable[object]] | None = None
        self.questions = 0
        #: Seconds that each answer takes.
        self.latency = 0.0
        self._thawed = asyncio.Event()
        #: What happens in a step of a unit of work: "begin", "mark", "commit" or "rollback".
        self.script: dict[str, Callable[[FakeConnection], object]] = {}
        #: How transactions have ended here.
        self.ended: list[str] = []
        #: The id that each writing transaction gets; None if transactions only read.
        self.xid: int | None = None

    def mark_row(self) -> Sequence[str | None]:
        """Answer the query that is made before COMMIT."""
        if self.xid is None:
            return (None,) * 8
        wal_file = f"{self.timeline:08X}0000000000000001"
        of_server = wal_file, self.system_id, self.started_at, None, 0
        return tuple(map(_text, (self.xid, 1000, 900, *of_server)))

    def status(self, xid: int) -> str | None:
        """Return the outcome of a transaction."""
        return self.statuses.get(xid, "in progress")

    def kill(self) -> None:
        self.alive = False
        for connection in tuple(self.connections):
            connection.lose()

    def restart(self, *, master: bool | None = None) -> None:
        self.kill()
        self.alive = True
        self.started_at = next(self._starts)
        self._up_since = self._clock()
        self.recovered_to, self.was_standby, self.last_replayed = self.position, False, None
        if master is not None:
            self.master = master

    def drop_pooled(self) -> None:
        """Close all connections except those of monitors, as a proxy may do."""
        for connection in tuple(self.connections):
            if connection.on_lost is None:
                connection.lose()

    def freeze(self) -> None:
        self.frozen = True
        self._thawed.clear()

    def thaw(self) -> None:
        self.frozen = False
        self._thawed.set()

    def promote(self) -> None:
        self.master, self.was_standby, self.recovered_to = True, True, self.position
        self.timeline += 1

    async def answer(self) -> None:
        """Return when the server would answer: after its latency, and once it is not frozen."""
        await asyncio.sleep(self.latency)
        while self.frozen:
            await self._thawed.wait()

    async def log_in(self) -> FakeConnection:
        self.logins += 1
        if self.before_login is not None:
            await self.before_login()
        if not self.pooler:  # a pooler accepts logins by itself
            await self.answer()
        if not self.alive:
            msg = f"connection refused by {self.host}"
            raise ConnectionRefusedError(msg)
        if self.login_error is not None:
            raise self.login_error
        return FakeConnection(self)

    @property
    def uptime(self) -> float:
        """Seconds since it was started."""
        return self._clock() - self._up_since

    @property
    def history(self) -> tuple[int | None, int | None, bool | None, int | None, int | None]:
        """The history that a probe reads.

        Of a master: the position flushed, the position where its recovery ended, whether it was a
        standby until then, and the time of the last commit that it replayed. Of a standby: only the
        timeline that it follows.
        """
        if self.master:
            return self.flushed, self.recovered_to, self.was_standby, self.last_replayed, None
        return None, None, None, None, self.followed

    def row(self, form: ProbeForm, pid: int) -> Sequence[object]:
        """Answer a probe, as the server process with this pid."""
        self.probes.append(form)
        each: ProbeForm | None = form
        while each is not None:
            if each in self.denies:
                raise ServerError(self.denies[each])
            each = each.smaller
        identity = self.system_id, self.started_at, pid
        clock = self.started_at + round(self.uptime * 1_000_000)
        basis = not self.master, clock / 1_000_000
        wal_file = f"{self.timeline:08X}0000000000000001" if self.master else None
        flushed, recovered_to, was_standby, replayed_at, followed = self.history
        if not self.master:
            age = self.replay_age
            replayed_at = None if age is None else clock - round(age * 1_000_000)
        told = None if replayed_at is None else replayed_at / 1_000_000
        wal = wal_file, _position(self.position), told
        past = _position(flushed), _position(recovered_to), was_standby
        rows: dict[ProbeForm, Sequence[object]] = {
            ProbeForm.FULL: (*basis, *identity, *wal, *past, followed),
            ProbeForm.CORE: (*basis, *identity, *wal),
            ProbeForm.PLAIN: (*basis, None, *identity[1:]),
            ProbeForm.BARE: basis[:1],
            ProbeForm.CHANGES: (*basis, *wal, *past, followed),
        }
        return rows[form]


def _position(value: int | None) -> str | None:
    """Format a WAL position as PostgreSQL does."""
    return None if value is None else f"{value >> 32:X}/{value & 0xFFFFFFFF:X}"


def _text(value: object) -> str | None:
    """Format a value as PostgreSQL does."""
    if isinstance(value, bool):
        return "t" if value else "f"
    return None if value is None else str(value)


class FakeConnection(HolderNotes):
    """A connection; it also serves as a monitor's session."""

    _pids = count(1000)

    def __init__(self, server: FakeServer, on_lost: Callable[[], None] | None = None) -> None:
        self.server = server
        self.login_pid = next(self._pids)
        self.closed = False
        #: The address that was connected to.
        self.address: str | None = None
        self.cannot_be_asked = False
        self.on_lost = on_lost
        self.on_closed: Callable[[FakeConnection], None] = lambda _: None
        #: The transaction of the last unit of work.
        self.transaction: Any = None
        self.resets = 0
        #: Whether its queries set a probe's own settings.
        self.brings_settings = False
        #: Whether it was made read-only, and all settings that were made on it.
        self.read_only = False
        self.settings: list[str] = []
        self._flag = not server.master
        self._gone = asyncio.Event()
        server.connections.append(self)

    @property
    def in_hot_standby(self) -> bool | None:
        """The flag that the server sent with its last answer."""
        assert not self.cannot_be_asked, "as asyncpg's connections when they are closed"
        if self.on_lost is None and self.server.lie_to_pool is not None:
            return self.server.lie_to_pool
        return self._flag if self.server.reports_flag else None

    async def count_rows(self, sql: str) -> int:
        """Answer the query whether this server is a master, and the expected server."""
        if self.server.silent_after_login:
            await self._gone.wait()
        await self.run()
        if "set_config" in sql:
            return self.set(sql)
        names = sql.partition("system_identifier")[1:], sql.partition("postmaster_start")[1:]
        self.server.questions += 1
        wanted = [re.search(r"=\) (\d+)", rest) for name, rest in names if name]
        identity = {self.server.system_id, self.server.started_at}
        return int(self.server.master and all(x and int(x[1]) in identity for x in wanted))

    def set(self, sql: str) -> int:
        """Make settings; return the number of rows of the answer."""
        self.settings.append(sql)
        if guard := re.search(r"'default_transaction_read_only', ('on'|NULL)", sql):
            self.read_only = guard[1] == "'on'"
        return 1

    async def run(self) -> None:
        """Run a statement: succeed, hang, or fail because the connection is gone."""
        gone = asyncio.ensure_future(self._gone.wait())
        answer = asyncio.ensure_future(self.server.answer())
        try:
            await asyncio.wait([gone, answer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            answer.cancel()
            await asyncio.wait([gone, answer])
        if self.closed:
            msg = "the connection was closed in the middle of the operation"
            raise ConnectionResetError(msg)
        self._flag = not self.server.master if self.server.lie is None else self.server.lie

    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        await self.run()
        if asked := _OF_A_TRANSACTION.search(sql):
            status = self.server.status(int(asked[1]))
            return [*self._probed(ProbeForm.FULL), status]
        return self.server.garble(self._probed(ProbeForm(sql)))

    async def has_row(self, sql: str) -> bool:
        assert sql == STANDBY_QUERY, sql
        return tuple(await self.fetch_row(ProbeForm.BARE.value))[:1] == ("t",)

    def send_settings(self) -> None:
        self.brings_settings = True

    def _probed(self, form: ProbeForm) -> Sequence[str | None]:
        if self.server.limits and not self.brings_settings:
            self.lose()
            raise ServerError(self.server.limits)
        pid = self.login_pid + 1_000_000 if self.server.pooler else self.login_pid
        return [_text(value) for value in self.server.row(form, pid)]

    def kill(self) -> None:
        self.on_lost = None
        self.lose()

    def lose(self) -> None:
        if not self.closed:
            self.closed = True
            self._gone.set()
            self.server.connections.remove(self)
            self.on_closed(self)
            if self.on_lost is not None:
                asyncio.get_running_loop().call_soon(self.on_lost)


class FakePool(ReusesObjects, AsyncPool["FakePool", FakeConnection]):
    """A driver's pool, and the adapter's view of it, in one class."""

    def __init__(
        self,
        log_in: Callable[[], Awaitable[FakeConnection]],
        server: Callable[[], FakeServer],
        sizes: PoolSizes,
        report: Report,
    ) -> None:
        self._log_in = log_in
        #: Returns the server that the host's name leads to, which a test may change.
        self._server = server
        self.pool = self
        self.destinations = Destinations()
        self.sizes = sizes
        self.free: list[FakeConnection] = []
        self.lent: set[FakeConnection] = set()
        self.closed = False
        #: A test's own action at the end of a block.
        self.leave_block: Any = lambda *_: None
        #: The function that an adapter calls with the errors of statements.
        self.report = report

    @property
    def server(self) -> FakeServer:
        return self._server()

    async def count_rows(self, connection: FakeConnection, sql: str) -> int:
        return await connection.count_rows(sql)

    transaction = FakeTransaction

    async def log_in(self) -> FakeConnection:
        connection = await self._log_in()
        connection.on_closed = self.destinations.closed
        self.destinations.opened(
            connection, connection.in_hot_standby, read_only=False, address=connection.address
        )
        return connection

    @property
    def size(self) -> int:
        return sum(not connection.closed for connection in (*self.free, *self.lent))

    async def acquire(self, **kwargs: Any) -> FakeConnection:
        assert not kwargs
        while self.free:
            connection = self.free.pop()
            if not connection.closed:
                self.lent.add(connection)
                connection.hold()
                return connection
        assert len(self.lent) < self.sizes.maximum, "the core lets nobody wait in the pool"
        connection = await self.log_in()
        self.lent.add(connection)
        connection.hold()
        return connection

    async def release(self, connection: FakeConnection, **kwargs: Any) -> None:
        assert not kwargs
        try:
            if not connection.closed:
                await connection.run()
                connection.resets += 1
        except ConnectionError:
            pass
        except BaseException:
            connection.lose()
            raise
        finally:
            self.lent.discard(connection)
            if not connection.closed:
                self.free.append(connection)

    async def roll_back(self, connection: FakeConnection) -> None:
        await connection.run()

    def is_read_only(self, connection: FakeConnection) -> bool:
        return connection.read_only

    def in_hot_standby(self, connection: FakeConnection) -> bool | None:
        return connection.in_hot_standby

    def is_closed(self, connection: FakeConnection) -> bool:
        return connection.closed

    def abort(self, connection: FakeConnection) -> None:
        connection.lose()

    def purge(self, leased: Iterable[FakeConnection]) -> None:
        del leased
        for connection in self.free:
            connection.lose()
        self.free.clear()

    def drain(
        self, leased: Iterable[FakeConnection], has_left: Callable[[str | None], bool]
    ) -> None:
        del leased
        for connection in self.free:
            if has_left(connection.address):
                connection.lose()

    def end_connects(self) -> None:
        pass

    def idle(self) -> int:
        return len(self.free)

    async def close(self) -> None:
        await self.server.answer()
        self.terminate()

    def terminate(self) -> None:
        self.closed = True
        for connection in (*self.free, *self.lent):
            connection.lose()
        self.free.clear()


class FakeDriver(Driver[FakePool, FakeConnection]):
    """The driver of a fake cluster."""

    def __init__(self, servers: Mapping[HostSpec, FakeServer]) -> None:
        self.servers = dict(servers)
        #: For names that lead to several servers: the servers of the next connections, in turn.
        self.turns: dict[HostSpec, Iterator[FakeServer]] = {}
        #: The server at each address, for names that hasql follows.
        self.at: dict[str, FakeServer] = {}
        #: The address that a connection reaches if the driver resolves the name itself.
        self.peer: str | None = None
        self.pools: list[FakePool] = []
        #: The errors that opening a pool raises, in turn, before it succeeds.
        self.open_errors: list[Exception] = []

    def sizes(self, kwargs: Mapping[str, Any]) -> PoolSizes:
        check_keywords(kwargs, {"min_size", "max_size"}, "the fake pool")
        return check_sizes(kwargs, minimum=("min_size", 1), maximum=("max_size", 2))

    def resized(
        self, kwargs: Mapping[str, Any], minimum: int | None, maximum: int | None
    ) -> dict[str, Any]:
        return with_bounds(kwargs, self.sizes(kwargs), (minimum, maximum), ("min_size", "max_size"))

    async def open(self, endpoint: Endpoint, kwargs: Mapping[str, Any], report: Report) -> FakePool:
        if self.open_errors:
            raise self.open_errors.pop(0)
        log_in = partial(self._log_in, endpoint)
        server = partial(self.server_at, endpoint.host, None)
        pool = FakePool(log_in, server, self.sizes(kwargs), report)
        pool.free = [await pool.log_in() for _ in range(pool.sizes.minimum)]
        self.pools.append(pool)
        return pool

    async def connect(
        self, endpoint: Endpoint, kwargs: Mapping[str, Any], on_lost: Callable[[], None]
    ) -> FakeConnection:
        del kwargs
        connection = await self._log_in(endpoint)
        connection.on_lost = on_lost
        return connection

    def failure(self, error: BaseException) -> Failure:
        if isinstance(error, ServerError):
            return Failure.of_sqlstate(error.sqlstate)
        return Failure.of_exception(error)

    def sqlstate(self, error: BaseException) -> str | None:
        if isinstance(error, DriverError):
            return ""
        return error.sqlstate if isinstance(error, ServerError) else None

    async def _log_in(self, endpoint: Endpoint) -> FakeConnection:
        async def dial(address: str | None) -> FakeConnection:
            connection = await self.server_at(endpoint.host, address).log_in()
            connection.address = address or self.peer
            return connection

        return await endpoint.connect(dial, self.failure, FakeConnection.lose)

    def server_at(self, host: HostSpec, address: str | None) -> FakeServer:
        """Return the server at an address; without one, the server that the name leads to."""
        if address is not None:
            return self.at[address]
        return next(self.turns[host]) if host in self.turns else self.servers[host]


class ScriptedNames:
    """A resolver whose answers a test sets."""

    def __init__(self, ttl: float) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.ttl = ttl
        self.lookups: list[str] = []
        self.expired: list[str] = []
        #: The error that a look-up raises instead of answering.
        self.error: Exception | None = None

    async def lookup_async(self, host: str) -> Answer:
        self.lookups.append(host)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if host not in self.addresses:
            msg = f"no such name: {host}"
            raise OSError(msg)
        return Answer(self.addresses[host], self.ttl)

    def expire(self, host: str) -> None:
        self.expired.append(host)


class FakeManager(BasePoolManager[FakePool, FakeConnection]):
    """A pool manager on a fake cluster."""

    def __init__(
        self,
        servers: Mapping[HostSpec, FakeServer],
        names: ScriptedNames | None = None,
        *,
        dsn: str | None = None,
        clock: Callable[[], float] = monotonic,
        **kwargs: Any,
    ) -> None:
        self.driver = FakeDriver(servers)
        self._names = names
        self._given_clock = clock
        self._driver = self.driver  # type: ignore[misc]  # one cluster for each test
        hosts = ",".join(str(host) for host in servers)
        super().__init__(dsn or f"postgresql://user:secret@{hosts}/app", **kwargs)

    def _clock(self) -> Callable[[], float]:  # type: ignore[override]  # a clock for each manager
        return self._given_clock

    def _name_source(self, _: object, /) -> Callable[[], NameSource] | None:  # type: ignore[override]  # of this one
        names = self._names
        return None if names is None else lambda: names


def fake_cluster(*roles: str) -> dict[str, FakeServer]:
    """Make servers by name: `fake_cluster("a master", "b replica")`."""
    servers = {}
    for role in roles:
        name, kind = role.split()
        assert kind in {"master", "replica"}
        servers[name] = FakeServer(parse_host(name), master=kind == "master")
    return servers


def manager_of(servers: Mapping[str, FakeServer], **kwargs: Any) -> FakeManager:
    """Make a manager of these servers."""
    return FakeManager({server.host: server for server in servers.values()}, **kwargs)


async def until(holds: Callable[[], bool]) -> None:
    """Let other tasks run until a condition holds."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)
