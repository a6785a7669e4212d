"""Connections of threads are replaced as they age, and idle ones are asked for a sign of life."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from hasql.resilience import Lifecycle
from testbed.scene import connections_to, until, until_sessions

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.sync_kits import SyncKit


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: it only counts sessions."""
    return "asyncio", {"use_uvloop": False}


async def test_old_and_idle_connections_are_closed_but_not_while_in_use(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str
) -> None:
    dsn = f"{pg_cluster.master.dsn}?application_name={application}"
    with sync_kit.manager(
        dsn,
        pool_factory_kwargs=sync_kit.sizes(0, 2),
        lifecycle=Lifecycle(max_lifetime=0.3, max_idle=0.2),
    ) as manager:
        connection = manager.getconn()
        old = sync_kit.pid(connection)
        await asyncio.sleep(0.5)  # longer than the connection may live
        assert sync_kit.pid(connection) == old
        manager.putconn(connection)
        await until_sessions(pg_cluster.master, application, 1)  # the monitor's
        with manager.acquire() as connection:
            assert sync_kit.pid(connection) != old


async def test_upkeep_is_in_nobodys_way(sync_kit: SyncKit, pg_cluster: LocalCluster) -> None:
    most = 0
    lifecycle = Lifecycle(max_lifetime=0.1, max_idle=0.05, check_idle=0.02)
    with (
        sync_kit.manager(
            pg_cluster.master.dsn, pool_factory_kwargs=sync_kit.sizes(0, 3), lifecycle=lifecycle
        ) as manager,
        ThreadPoolExecutor(8) as threads,
    ):

        def use(user: int) -> None:
            for number in range(15):
                with manager.acquire(timeout=10) as connection:
                    assert sync_kit.value(connection, "SELECT 1") == 1
                time.sleep(0.005 * ((number + user) % 4))

        users = [threads.submit(use, user) for user in range(8)]
        while not all(user.done() for user in users):
            most = max(most, connections_to(pg_cluster.master))
            await asyncio.sleep(0.005)
        for user in users:
            user.result()
        assert most >= 2
        # Three more: the monitor's, another while that changes, and one that a thread is closing.
        assert most <= 3 + 3
        await until(lambda: manager.metrics().nodes[0].in_flight == 0)
