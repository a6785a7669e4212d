"""Actions on real servers, and observations of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasql.cluster.dsn import Dsn
from hasql.driver import Endpoint
from hasql.testing._watchdog import process_table
from hasql.testing.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from threading import Thread

    import pytest

    from hasql._manager.facade import Facade
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import Kit
    from testbed.proxy import Proxy

__all__ = (
    "LOCK",
    "WAIT_FOR_LOCK",
    "Table",
    "aborts_leases",
    "asleep",
    "connections_to",
    "crash_within",
    "empty_database",
    "end_sessions",
    "end_those",
    "end_through",
    "endpoint_of",
    "every_place_works",
    "fail_over",
    "family_of",
    "held_lock",
    "in_flight",
    "kill_all_of",
    "sessions",
    "sockets",
    "tasks_end",
    "tcp_options",
    "threads_end",
    "until",
    "until_replicated",
    "until_sessions",
    "until_sessions_at_most",
    "until_waiting",
)

#: Seconds after which an awaited event is assumed not to happen; long, as the machine may be busy.
_LONGEST = 45.0


@dataclass(frozen=True)
class Table:
    """A table (i int) on every node, and the statements on it."""

    name: str

    def insert(self, number: int) -> str:
        return f"INSERT INTO {self.name} VALUES ({number})"  # noqa: S608  # our own name

    @property
    def count(self) -> str:
        return f"SELECT count(*) FROM {self.name}"  # noqa: S608  # as above

    @property
    def rows(self) -> str:
        return f"SELECT i FROM {self.name}"  # noqa: S608  # as above


async def empty_database(node: LocalNode) -> None:
    """Drop all tables that other tests have left behind; an application expects only its own."""
    await node.sql(
        "SET client_min_messages = error; DROP SCHEMA public CASCADE; "
        "CREATE SCHEMA public AUTHORIZATION pg_database_owner; "
        "GRANT USAGE ON SCHEMA public TO PUBLIC"
    )


def in_flight(manager: Facade[Any, Any, Any]) -> int:
    """Count the leases that are out, on all hosts."""
    return sum(node.in_flight for node in manager.metrics().nodes)


def aborts_leases(caplog: pytest.LogCaptureFixture) -> bool:
    """Tell whether hasql itself has aborted leases."""
    return any(getattr(record, "event", None) == "leases_aborted" for record in caplog.records)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition in this process holds."""
    async with asyncio.timeout(_LONGEST):
        while not holds():
            await asyncio.sleep(0.005)


async def until_replicated(cluster: LocalCluster) -> None:
    """Wait until every replica has replayed what the master has written."""
    position = await cluster.master.sql("SELECT pg_current_wal_lsn()")
    async with asyncio.timeout(_LONGEST):
        for replica in cluster.replicas:
            while await replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") != "t":
                await asyncio.sleep(0.01)


async def tasks_end(before: set[asyncio.Task[Any]]) -> None:
    """Wait up to 5 s until only the tasks of `before` are left.

    A connect that is no longer awaited may end by itself, but must do so soon.
    """
    deadline = asyncio.get_running_loop().time() + 5
    while more := asyncio.all_tasks() - before:
        assert asyncio.get_running_loop().time() < deadline, more
        await asyncio.sleep(0.005)


async def threads_end(before: set[Thread]) -> None:
    """Wait until only the threads of `before` are left, and those that event loops keep."""
    deadline = asyncio.get_running_loop().time() + 5
    while more := [x for x in threading.enumerate() if x not in before and not _is_kept(x)]:
        assert asyncio.get_running_loop().time() < deadline, more
        await asyncio.sleep(0.005)


def _is_kept(thread: Thread) -> bool:
    return thread.name.startswith(("asyncio_", "uvloop_"))


def complaints(stderr: str) -> str:
    """Leave out what asyncio's debug mode says of slow callbacks: a busy machine causes them."""
    lines = stderr.splitlines(keepends=True)
    return "".join(
        line for line in lines if not re.match(r"Executing <.* took [\d.]+ seconds", line)
    )


def endpoint_of(dsn: str) -> Endpoint:
    """Return the only host of a DSN, in the form that an adapter gets."""
    return Endpoint(Dsn.parse(dsn).hosts[0], dsn)


def family_of(node: LocalNode) -> set[int]:
    """Return the process ids of a server."""
    return {each.pid for each in process_table() if node.pid in {each.pid, each.parent}}


async def kill_all_of(node: LocalNode) -> None:
    """Kill a server, and wait until all of its processes are gone.

    The processes end one by one, which may take as long as a promotion. Until then a statement on a
    connection to the server may still be answered, or may fail.
    """
    family = family_of(node)
    node.kill()
    await until(lambda: not process_table(family))


async def fail_over(cluster: LocalCluster) -> tuple[LocalNode, LocalNode]:
    """Kill the master and promote a replica; return both."""
    old, new = cluster.master, cluster.replicas[0]
    await kill_all_of(old)
    await new.promote()
    return old, new


async def crash_within(node: LocalNode) -> None:
    """Kill a process of a server, so that all processes except the postmaster are restarted.

    Sessions tell their clients why they end. But a session that has sent its answer and does not
    yet wait for the next request would end silently, because PostgreSQL thinks that it is still
    sending. So wait first until all sessions wait.
    """
    sessions_of_others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
    told = await node.sql(f"SELECT pid FROM pg_stat_activity WHERE {sessions_of_others}")  # noqa: S608
    await until(lambda: all(_sleeps(int(pid)) for pid in told.split()))
    query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
    before = await node.sql(query)
    os.kill(int(before), signal.SIGKILL)
    async with asyncio.timeout(20):
        while True:
            try:
                if await node.sql(query) not in {"", before}:
                    return
            except ClusterError:  # the server is starting
                await asyncio.sleep(0.01)


def _sleeps(pid: int) -> bool:
    """Tell whether a process sleeps or has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "S"


def sockets() -> int:
    """Count the sockets of this process."""
    return len(_sockets())


def connections_to(node: LocalNode) -> int:
    """Count the connections over TCP that this process has open to a server.

    The server's processes end a moment after their connections, and later on a busy machine.
    """
    sockets = {name: descriptor for descriptor, name in _sockets().items()}  # without duplicates
    return [_peer_of(each) for each in sockets.values()].count((node.host, node.port))


def _sockets() -> dict[int, str]:
    """Return the descriptors of this process's sockets, with the kernel's name for each."""
    found: dict[int, str] = {}
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found[int(descriptor.name)] = str(descriptor.readlink())
    return {each: name for each, name in found.items() if name.startswith("socket:")}


def _peer_of(descriptor: int) -> object:
    """Return the peer of a socket; None if it has none, or was closed meanwhile."""
    try:
        borrowed = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        return borrowed.getpeername()
    except OSError:
        return None
    finally:
        borrowed.detach()


async def sessions(node: LocalNode, application: str, state: str = "%") -> int:
    """Count the sessions that a server has under an application's name."""
    return int(await node.sql(f"SELECT count(*) {_of(application, state)}"))


async def until_sessions_at_most(node: LocalNode, application: str, most: int) -> None:
    """Wait until a server has at most that many sessions under an application's name.

    A session ends a moment after its client has closed the socket, when the server's process does.
    """
    await _until_counted(node, application, "%", range(most + 1))


async def until_sessions(node: LocalNode, application: str, count: int, state: str = "%") -> None:
    """Wait until a server has exactly `count` sessions under an application's name."""
    await _until_counted(node, application, state, range(count, count + 1))


async def _until_counted(node: LocalNode, application: str, state: str, wanted: range) -> None:
    try:
        async with asyncio.timeout(_LONGEST):
            while await sessions(node, application, state) not in wanted:
                await asyncio.sleep(0.01)
    except TimeoutError:
        told = await node.sql(f"SELECT to_json(pg_stat_activity) {_of(application, state)}")
        most = wanted.stop - 1
        raise AssertionError(
            f"not {wanted.start} to {most} sessions on {node.name}:\n{told}"
        ) from None


async def until_asleep(node: LocalNode, application: str, count: int) -> None:
    """Wait until `count` sessions are in pg_sleep(); mere activity could be a monitor's."""
    async with asyncio.timeout(_LONGEST):
        while await asleep(node, application) != count:
            await asyncio.sleep(0.01)


async def asleep(node: LocalNode, application: str) -> int:
    """Count the sessions that are in pg_sleep()."""
    sleeping = f"SELECT count(*) {_of(application, 'active')} AND wait_event = 'PgSleep'"
    return int(await node.sql(sleeping))


LOCK = 17
"""An advisory lock, for statements that must wait in the middle of a transaction."""
WAIT_FOR_LOCK = f"SELECT pg_advisory_xact_lock_shared({LOCK})"


@asynccontextmanager
async def held_lock(node: LocalNode) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold the lock, so that others wait for it, until the yielded function is called."""
    from psycopg import AsyncConnection

    dsn = node.superuser_dsn.rpartition("/")[0] + "/app"
    async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        yield connection.close


async def until_waiting(node: LocalNode, application: str, count: int) -> None:
    """Wait until `count` sessions wait for the lock."""
    waiting = f"SELECT count(*) {_of(application, 'active')} AND wait_event = 'advisory'"
    async with asyncio.timeout(_LONGEST):
        while int(await node.sql(waiting)) != count:
            await asyncio.sleep(0.01)


async def end_sessions(node: LocalNode, application: str, state: str = "%") -> None:
    """End the sessions that a server has under an application's name; see `end_those`."""
    await end_those(node, _which(application, state))


async def end_those(node: LocalNode, which: str) -> None:
    """End the sessions that the SQL condition ``which`` selects, as an administrator may.

    On return their processes are gone, and the event loop has noticed the loss.
    """
    await node.sql(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {which}")  # noqa: S608
    await _until_told()


async def end_through(proxy: Proxy, node: LocalNode, pids: Iterable[int], left: int) -> None:
    """End sessions whose clients are behind a proxy, and wait until it has told the clients.

    `left` is the number of the proxy's connections that are left then.
    """
    for pid in pids:
        await node.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    await until(lambda: proxy.connections - proxy.ended == left)
    await _until_told()


async def _until_told() -> None:
    """Wait until the event loop has read everything from its sockets.

    The last messages are read in one turn of the loop, the end of the stream in the next, and the
    protocol hears of that in a third. Only then does asyncpg know of the loss.
    """
    for _ in range(5):
        await asyncio.sleep(0)


def _of(application: str, state: str) -> str:
    return f"FROM pg_stat_activity WHERE {_which(application, state)}"


def _which(application: str, state: str) -> str:
    return f"application_name = '{application}' AND coalesce(state, '') LIKE '{state}'"


def tcp_options(fileno: int) -> dict[str, int]:
    """Return the kernel's settings for a connection: in seconds, but the last in milliseconds."""
    options = {
        "idle": socket.TCP_KEEPIDLE,
        "interval": socket.TCP_KEEPINTVL,
        "count": socket.TCP_KEEPCNT,
        "user_timeout": socket.TCP_USER_TIMEOUT,
    }
    with socket.socket(fileno=os.dup(fileno)) as twin:
        assert twin.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return {name: twin.getsockopt(socket.IPPROTO_TCP, o) for name, o in options.items()}


async def every_place_works(kit: Kit, manager: BasePoolManager[Any, Any]) -> None:
    """Acquire as many connections at once as the pool may have, use them and give them back."""
    size = manager.metrics().nodes[0].pool_max
    for read_only in (False, True):
        pools = manager.replica_pool_count if read_only else manager.master_pool_count
        leases = [await manager.acquire(read_only, timeout=10) for _ in range(size * pools)]
        assert len(set(map(id, leases))) == len(leases)
        for connection in leases:
            assert await kit.value(connection, "SELECT 1") == 1
            await manager.release(connection)
    assert not any(node.in_flight for node in manager.metrics().nodes)
    await until(lambda: not any(node.pool_used for node in manager.metrics().nodes))
