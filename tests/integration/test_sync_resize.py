"""Pools of threads are resized while they are in use, and no lease is harmed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from testbed.scene import sessions, until_sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.sync_kits import SyncKit

    Manager = BaseSyncPoolManager[Any, Any]


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: it only counts sessions."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
def sync_manager(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str
) -> Iterator[Manager]:
    with sync_kit.manager(
        f"{pg_cluster.dsn}?application_name={application}",
        pool_factory_kwargs=sync_kit.sizes(1, 2),
    ) as manager:
        manager.ready(1, 2)
        yield manager


async def test_growing_serves_those_who_wait_and_shrinking_closes_what_comes_back(
    sync_kit: SyncKit, sync_manager: Manager, pg_cluster: LocalCluster, application: str
) -> None:
    manager, master = sync_manager, pg_cluster.master
    first = [manager.getconn(), manager.getconn()]
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(manager.getconn, timeout=10) for _ in range(2)]
        while manager.metrics().waiting < 2:
            time.sleep(0.005)
        manager.resize(max_size=4)
        more = [each.result() for each in waiting]
    for connection in (*first, *more):  # no lease was harmed
        assert sync_kit.value(connection, "SELECT 1") == 1
        sync_kit.end(connection)
    with pytest.raises(TimeoutError):
        manager.getconn(timeout=0.05)
    assert await sessions(master, application) == 4 + 1
    manager.putconn(more.pop())
    manager.resize(max_size=2)
    await until_sessions(master, application, 3 + 1)  # the idle connection is closed
    with pytest.raises(TimeoutError):
        manager.getconn(timeout=0.05)
    for connection in (*first, *more):
        manager.putconn(connection)
    with manager.acquire(timeout=5), manager.acquire(timeout=5):
        await until_sessions(master, application, 2 + 1)  # the one too many is closed
    assert manager.metrics().nodes[0].in_flight == 0


def test_who_asks_a_pool_that_is_resized_gets_and_gives_back_all_the_same(
    sync_kit: SyncKit, sync_manager: Manager
) -> None:
    manager = sync_manager
    pool = manager.get_pool(read_only=False)
    taken = manager.acquire_from_pool(pool).take()
    asked = manager.acquire_from_pool(pool)
    manager.resize(max_size=3)
    later = manager.acquire_from_pool(pool).take()
    manager.release_to_pool(taken, pool)
    manager.register_connection(later, pool)  # it is registered already
    given = asked.take()
    for connection in (later, given):
        assert sync_kit.value(connection, "SELECT 1") == 1
        sync_kit.end(connection)
        manager.release_to_pool(connection, pool)
    assert manager.metrics().nodes[0].in_flight == 0


def test_many_changes_in_a_row_lose_nothing(sync_kit: SyncKit, sync_manager: Manager) -> None:
    def use(_: int) -> None:
        for _ in range(20):
            with sync_manager.acquire(timeout=10) as connection:
                assert sync_kit.value(connection, "SELECT 1") == 1

    with ThreadPoolExecutor(6) as threads:
        users = threads.map(use, range(6))
        for size in (5, 1, 3, 3, 6, 2):
            sync_manager.resize(max_size=size)
        list(users)
    with sync_manager.acquire(timeout=5), sync_manager.acquire(timeout=5):
        assert sync_manager.metrics().nodes[0].pool_max == 2
    assert sync_manager.metrics().nodes[0].in_flight == 0
