"""A drain of each driver's manager for threads lets work in flight commit, and breaks the rest."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hasql.cluster.probe import Role
from hasql.errors import PoolManagerClosedError
from testbed.scene import (
    WAIT_FOR_LOCK,
    held_lock,
    until_asleep,
    until_sessions,
    until_waiting,
)

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.scene import Table
    from testbed.sync_kits import SyncKit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def anyio_backend() -> object:
    """Watch from one event loop: the work is done in threads."""
    return "asyncio", {"use_uvloop": False}


async def test_12_a_drain_lets_what_threads_have_in_flight_commit(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str, table: Table
) -> None:
    dsn = f"{pg_cluster.dsn}?application_name={application}"
    manager = sync_kit.manager(dsn, pool_factory_kwargs=sync_kit.sizes(0, 2))

    def work() -> None:
        with manager.acquire_master(timeout=10) as connection:
            sync_kit.begin(connection, table.insert(1))
            sync_kit.value(connection, WAIT_FOR_LOCK)
            sync_kit.end(connection)

    await asyncio.to_thread(manager.ready, 1, 2)
    try:
        async with held_lock(pg_cluster.master) as let_go:
            working = [asyncio.create_task(asyncio.to_thread(work)) for _ in range(2)]
            await until_waiting(pg_cluster.master, application, 2)
            waiting = asyncio.create_task(asyncio.to_thread(work))
            while not manager.metrics().waiting:
                await asyncio.sleep(0.001)
            draining = asyncio.create_task(asyncio.to_thread(manager.drain))
            with pytest.raises(PoolManagerClosedError):
                await waiting
            with pytest.raises(PoolManagerClosedError):
                manager.getconn()
            await let_go()
            await asyncio.gather(*working)
        assert (await draining).broken == ()
        assert await pg_cluster.master.sql(table.rows) == "1\n1"
        for node in pg_cluster.nodes:
            await until_sessions(node, application, 0)
    finally:
        manager.terminate()


async def test_12_a_drain_breaks_what_a_thread_does_too_long_and_tells_of_it(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str, table: Table
) -> None:
    dsn = f"{pg_cluster.dsn}?application_name={application}"
    manager = sync_kit.manager(dsn, pool_factory_kwargs=sync_kit.sizes(0, 2))

    def work() -> None:
        with manager.acquire_master(timeout=10) as connection:
            sync_kit.begin(connection, table.insert(1))
            sync_kit.value(connection, "SELECT pg_sleep(20)")

    try:
        working = asyncio.create_task(asyncio.to_thread(work))
        await until_asleep(pg_cluster.master, application, 1)
        report = await asyncio.to_thread(manager.drain, 0.1)
        (broken,) = report.broken
        assert (broken.host.port, broken.role) == (pg_cluster.master.port, Role.MASTER)
        with pytest.raises(sync_kit.lost):
            await working
        assert await pg_cluster.master.sql(table.rows) == ""
    finally:
        manager.terminate()


AT_EXIT = """
import atexit, sys
from testbed import sync_kits

kit = sync_kits.{kit}()
manager = kit.manager(sys.argv[1])
with manager.acquire_master(timeout=10) as connection:
    kit.pid(connection)
atexit.register(manager.{end}, 5.0)
"""


@pytest.mark.parametrize("end", ["close", "drain"])
async def test_12_python_ends_a_manager_by_atexit(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str, end: str
) -> None:
    program = AT_EXIT.format(kit=type(sync_kit).__name__, end=end)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", program),
        f"{pg_cluster.dsn}?application_name={application}",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(50):
            said, _ = await child.communicate()
        assert (said.decode(), child.returncode) == ("", 0)
    finally:
        with suppress(ProcessLookupError):
            child.kill()
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)
