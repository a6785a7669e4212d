"""Every driver for threads works behind HAProxy, which has one address for each role.

See test_drivers_haproxy.py, and test_chaos_threads.py for masters that change under load.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from testbed.middlemen.addresses import dsn_through
from testbed.scene import aborts_leases, fail_over, in_flight, until, until_sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.middlemen.haproxy import HAProxy
    from testbed.scene import Table
    from testbed.sync_kits import SyncKit
    from tests.middlemen import StartHAProxy

    Manager = BaseSyncPoolManager[Any, Any]

_IS_REPLICA = "SELECT pg_is_in_recovery()"
_PORT = "SELECT inet_server_port()"

both_ways = pytest.mark.parametrize("cut", [True, False], ids=["cut", "uncut"])


@pytest.fixture
def anyio_backend() -> object:
    """Act on the servers from one event loop: nothing of hasql's runs there."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
def service(haproxy: StartHAProxy, cut: bool) -> HAProxy:
    return haproxy(cut=cut)


@pytest.fixture
async def manager(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str, service: HAProxy
) -> AsyncIterator[Manager]:
    """A manager of both addresses, with two connections on each."""
    dsn = dsn_through(pg_cluster, service.rw, service.r)
    manager = sync_kit.manager(
        f"{dsn}?application_name={application}",
        refresh_delay=0.2,
        refresh_timeout=0.5,
        pool_factory_kwargs=sync_kit.sizes(1, 2),
    )
    await asyncio.to_thread(manager.ready, 1, 1)
    yield manager
    await asyncio.to_thread(manager.close)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@both_ways
async def test_masters_and_replicas_are_what_was_asked_for(
    sync_kit: SyncKit, manager: Manager, pg_cluster: LocalCluster, table: Table, application: str
) -> None:
    def use() -> None:
        with manager.acquire_master() as connection:
            assert sync_kit.value(connection, _PORT) == pg_cluster.master.port
            sync_kit.begin(connection, table.insert(1))
            sync_kit.end(connection)
        leases = [manager.getconn(read_only=True) for _ in range(2)]
        for connection in leases:
            assert sync_kit.value(connection, _IS_REPLICA) is True
            manager.putconn(connection)
        manager.close()

    await asyncio.to_thread(use)
    assert await pg_cluster.master.sql(table.count) == "1"
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)


@both_ways
async def test_writers_and_readers_go_on_after_a_crash(  # noqa: PLR0913  # fixtures
    sync_kit: SyncKit,
    manager: Manager,
    pg_cluster: LocalCluster,
    service: HAProxy,
    table: Table,
    threads: ThreadPoolExecutor,
    cut: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: Counter[int] = Counter()
    written: list[int] = []
    read: list[bool] = []
    stop = Event()

    def use(thread: int, *, read_only: bool) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                with manager.acquire(read_only, timeout=20) as connection:
                    if read_only:
                        read.append(sync_kit.value(connection, _IS_REPLICA))
                    else:
                        sync_kit.begin(connection, table.insert(number))
                        sync_kit.end(connection)
                        written.append(number)
            except sync_kit.lost:
                failures[thread] += 1

    async def until_more() -> None:
        seen = len(written), len(read)
        await until(
            lambda: (
                (len(written) > seen[0] + 20 and len(read) > seen[1] + 20)
                or any(each.done() for each in loads)
            )
        )

    loads = [threads.submit(use, number, read_only=number > 1) for number in range(4)]
    try:
        await until_more()
        _, new = await fail_over(pg_cluster)
        await service.until_leads("rw", new)
        await until_more()
    finally:
        stop.set()
        await asyncio.gather(*map(asyncio.wrap_future, loads))
    # At most one failure of each thread, for the server that was killed. One more if HAProxy cuts:
    # it ends connections from the replicas' address to the new master, which may be in use to write
    # already. One more if the masters' address led to the new master before hasql could know which
    # server that is: a lease from that time might be on the old master, so hasql breaks it.
    assert max(failures.values(), default=0) <= 1 + cut + aborts_leases(caplog), failures
    assert max(failures[2], failures[3]) <= 1 + cut, failures  # the threads that only read
    assert all(read[-10:])
    assert in_flight(manager) == 0
    assert await asyncio.to_thread(master_of, sync_kit, manager) == new.port
    assert await new.sql(table.count) != "0"


def master_of(kit: SyncKit, manager: Manager) -> int:
    """Return the port of the server that a lease of a master leads to."""
    with manager.acquire_master(timeout=20) as connection:
        port = kit.value(connection, _PORT)
        assert isinstance(port, int)
        return port
