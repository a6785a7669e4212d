"""Ends of all kinds, with every driver on both event loops: cancelled, closed, or left behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hasql import PoolManagerClosedError
from testbed.scene import (
    complaints,
    end_sessions,
    every_place_works,
    tasks_end,
    until,
    until_asleep,
    until_sessions,
)

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.scene import Table

    Manager = BasePoolManager[Any, Any]

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("nothing_unheard")


# Cancelled


async def test_a_storm_of_cancelled_acquires_leaves_every_place_free(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    async with kit.manager(
        f"{pg_cluster.dsn}?application_name={application}",
        acquire_timeout=60,
        pool_factory_kwargs=kit.sizes(0, 3),
    ) as manager:
        await manager.ready(1, 2)
        # Afterwards all the tasks of the pools themselves have begun.
        await every_place_works(kit, manager)
        tasks = asyncio.all_tasks()

        async def use(number: int) -> None:
            async with manager.acquire(bool(number % 2)) as connection:
                await kit.value(connection, "SELECT 1")

        for wave in range(20):
            users = [asyncio.ensure_future(use(number)) for number in range(100)]
            for _ in range(wave):
                await asyncio.sleep(0.001)
                check_counts(manager)
            for user in users:
                user.cancel()
            await asyncio.gather(*users, return_exceptions=True)
            check_counts(manager)
        # A release that was cancelled keeps its place until it has ended.
        await until(lambda: not any(node.in_flight for node in manager.metrics().nodes))
        assert manager.metrics().waiting == 0
        await every_place_works(kit, manager)
        await tasks_end(tasks)
        for node in pg_cluster.nodes:
            await until_sessions(node, application, 3 + 1)
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)


def check_counts(manager: Manager) -> None:
    for node in manager.metrics().nodes:
        assert 0 <= node.in_flight <= node.pool_max
        assert 0 <= node.pool_idle <= node.pool_max
        assert node.pool_used >= 0


async def test_a_statement_that_is_cancelled_costs_one_connection_at_most(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, application: str
) -> None:
    async def sleep() -> None:
        async with manager.acquire_master() as connection:
            await kit.value(connection, "SELECT pg_sleep(60)")

    master = pg_cluster.master
    sleepers = [asyncio.ensure_future(sleep()) for _ in range(2)]
    await until_asleep(master, application, 2)
    async with asyncio.timeout(10):
        for sleeper in sleepers:
            sleeper.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sleeper
    await every_place_works(kit, manager)
    # Some drivers stop the statement; others only stop waiting for its answer.
    await end_sessions(master, application, "active")


@pytest.mark.parametrize("way", ["acquire", "release"])
async def test_what_hangs_on_a_frozen_host_can_be_cancelled_at_once(
    kit: Kit, pg_cluster: LocalCluster, table: Table, way: str
) -> None:
    master = pg_cluster.master
    async with kit.manager(
        master.dsn,
        refresh_delay=30,
        refresh_timeout=30,
        lease_abort_after=None,
        release_timeout=0.5,
        pool_factory_kwargs=kit.sizes(0, 2),
    ) as manager:
        held = await manager.acquire_master()
        await kit.begin(held, table.insert(1))
        tasks = asyncio.all_tasks()
        frozen = asyncio.Event()

        async def acquire() -> None:
            master.freeze()
            frozen.set()
            await manager.acquire_master(timeout=60)

        async def release() -> None:
            master.freeze()
            frozen.set()
            await manager.release(held)

        user = asyncio.ensure_future(acquire() if way == "acquire" else release())
        await frozen.wait()
        with pytest.raises(TimeoutError):  # it really hangs
            await asyncio.wait_for(asyncio.shield(user), 0.15)
        user.cancel()
        async with asyncio.timeout(8):
            with pytest.raises(asyncio.CancelledError):
                await user
        assert manager.metrics().nodes[0].in_flight == 1  # the lease counts until it is back
        if way == "release":
            await until(lambda: manager.metrics().nodes[0].in_flight == 0)
        master.thaw()
        if way == "acquire":
            await manager.release(held)
        await every_place_works(kit, manager)
        await tasks_end(tasks)
    assert await master.sql(table.count) == "0"


# Closed


async def test_closing_lets_work_commit_tells_who_waits_and_leaves_no_connection(
    kit: Kit, pg_cluster: LocalCluster, table: Table, application: str
) -> None:
    tasks = asyncio.all_tasks()
    dsn = f"{pg_cluster.dsn}?application_name={application}"
    manager = kit.manager(dsn, acquire_timeout=60, pool_factory_kwargs=kit.sizes(0, 1))
    await manager.ready(1, 2)
    async with manager.acquire_master() as connection:
        waiter = asyncio.ensure_future(use(manager))
        await until(lambda: manager.metrics().waiting == 1)
        closing = asyncio.ensure_future(manager.close())
        async with asyncio.timeout(5):
            with pytest.raises(PoolManagerClosedError):
                await waiter
        with pytest.raises(PoolManagerClosedError):
            await manager.acquire_replica()
        assert not closing.done()
        assert (manager.closing, manager.closed) == (True, False)
        await kit.write(connection, table.insert(1))
        assert not closing.done()
    await closing
    assert manager.closed
    await manager.close()
    await manager.terminate()
    with pytest.raises(PoolManagerClosedError):
        await manager.acquire_master()
    assert await pg_cluster.master.sql(table.count) == "1"
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)
    await tasks_end(tasks)


async def use(manager: Manager) -> None:
    async with manager.acquire_master():
        pass


@pytest.mark.parametrize("way", ["close", "terminate"])
async def test_closing_breaks_what_is_not_given_back(
    kit: Kit, pg_cluster: LocalCluster, table: Table, application: str, way: str
) -> None:
    dsn = f"{pg_cluster.master.dsn}?application_name={application}"
    manager = kit.manager(dsn, pool_factory_kwargs=kit.sizes(0, 2))
    held = await manager.acquire_master()
    await kit.begin(held, table.insert(1))
    async with asyncio.timeout(8):
        await (manager.close(timeout=0.1) if way == "close" else manager.terminate())
    with pytest.raises(kit.lost):
        await kit.value(held, "SELECT 1")
    await manager.release(held)
    await until_sessions(pg_cluster.master, application, 0)
    assert await pg_cluster.master.sql(table.count) == "0"


@pytest.mark.parametrize("way", ["close", "terminate"])
async def test_closing_waits_for_no_frozen_server(
    kit: Kit, pg_cluster: LocalCluster, way: str
) -> None:
    tasks = asyncio.all_tasks()
    sizes = kit.sizes(1, 2)
    manager = kit.manager(pg_cluster.dsn, refresh_timeout=0.5, pool_factory_kwargs=sizes)
    await manager.ready(1, 2)
    node = pg_cluster.replicas[0]
    await every_place_works(kit, manager)  # so that all connections are open
    node.freeze()
    async with asyncio.timeout(8):
        await getattr(manager, way)()
    await tasks_end(tasks)
    node.thaw()


async def test_terminate_ends_all_that_is_under_way(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    tasks = asyncio.all_tasks()
    master = pg_cluster.master
    dsn = f"{master.dsn}?application_name={application}"
    manager = kit.manager(dsn, pool_factory_kwargs=kit.sizes(0, 2), acquire_timeout=60)

    async def sleep() -> None:
        async with manager.acquire_master() as connection:
            await kit.value(connection, "SELECT pg_sleep(60)")

    users = [asyncio.ensure_future(sleep()) for _ in range(4)]
    await until_asleep(master, application, 2)
    async with asyncio.timeout(8):
        await manager.terminate()
        ends = await asyncio.gather(*users, return_exceptions=True)
    assert (
        sorted(isinstance(end, PoolManagerClosedError) for end in ends) == [False] * 2 + [True] * 2
    )
    for end in ends:
        assert isinstance(end, (PoolManagerClosedError, *kit.lost))
    await tasks_end(tasks)


# Left behind

PROGRAM = """
import asyncio, sys
from {module} import {kit}

kit = {kit}()

async def main():
    # What a busy machine answers late is no host that is down, and nothing is said of it.
    sizes = kit.sizes(1, 2)
    manager = kit.manager(sys.argv[1], pool_factory_kwargs=sizes, refresh_timeout=25)
    await manager.ready(1, 2)
    async with manager.acquire_master() as connection:
        await kit.value(connection, "SELECT 1")
    kept = await manager.acquire_replica()
    {end}

{run}
"""
RUN = {"asyncio": "asyncio.run(main())", "uvloop": "import uvloop; uvloop.run(main())"}


@pytest.mark.parametrize(
    ("loop", "end", "code", "last_words"),
    [
        ("asyncio", "return", 0, ""),
        ("asyncio", "await manager.resize(max_size=3)", 0, ""),
        ("asyncio", "raise KeyError('mine')", 1, "KeyError: 'mine'"),
        ("uvloop", "await manager.release(kept)", 0, ""),
        ("uvloop", "return", 0, ""),
    ],
    ids=["kept", "resized", "error", "given back on uvloop", "kept on uvloop"],
)
def test_a_program_that_ends_without_close_ends_at_once(  # noqa: PLR0913  # fixtures and parameters
    kit: Kit, pg_cluster: LocalCluster, loop: str, end: str, code: int, last_words: str
) -> None:
    name = type(kit)
    program = PROGRAM.format(module=name.__module__, kit=name.__qualname__, end=end, run=RUN[loop])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program, pg_cluster.dsn],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == code, done.stderr
    said = complaints(done.stderr).strip().splitlines()
    assert said[-1:] == [last_words] * bool(last_words)
    assert "Warning" not in done.stderr
