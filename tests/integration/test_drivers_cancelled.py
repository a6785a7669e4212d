"""Cancellations, and hooks that hang, with every driver on both event loops.

The scopes of anyio, which FastAPI and Starlette use, cancel a task again at each of its steps.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from testbed.proxy import Proxy
from testbed.scene import (
    asleep,
    complaints,
    every_place_works,
    tasks_end,
    until,
    until_asleep,
    until_sessions,
    until_sessions_at_most,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import Kit

    Manager = BasePoolManager[Any, Any]
    Hooked = tuple[Kit, str]
    Use = Callable[[], Coroutine[Any, Any, None]]

ROOT = Path(__file__).parents[2]
SIZE = 4

pytestmark = pytest.mark.usefixtures("nothing_unheard")


def manager_of(kit: Kit, node: LocalNode, application: str, **kwargs: Any) -> Manager:
    more = kwargs.pop("pool_factory_kwargs", {})
    return kit.manager(
        f"{node.dsn}?application_name={application}",
        pool_factory_kwargs={**kit.sizes(0, SIZE), **more},
        **kwargs,
    )


async def cancel_by_deadline(use: Use, begun: Awaitable[None]) -> None:
    """Cancel each task by its own scope and, a moment later, by the group around it, too."""

    async def limited(scope: anyio.CancelScope) -> None:
        with scope:
            await use()

    scopes = [anyio.CancelScope() for _ in range(SIZE)]
    async with anyio.create_task_group() as group:
        for scope in scopes:
            group.start_soon(limited, scope)
        await begun
        for scope in scopes:
            scope.cancel()
        await asyncio.sleep(0)
        group.cancel_scope.cancel()


async def cancel_twice(use: Use, begun: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(use()) for _ in range(SIZE)]
    await begun
    for _ in range(2):
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0.001)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)


@pytest.mark.parametrize("cancel", [cancel_by_deadline, cancel_twice])
async def test_statements_that_are_cancelled_again_run_no_more(
    kit: Kit, pg_cluster: LocalCluster, application: str, cancel: Callable[..., Awaitable[None]]
) -> None:
    master = pg_cluster.master
    async with manager_of(kit, master, application, acquire_timeout=10) as manager:
        await manager.ready(1, 0)
        await every_place_works(kit, manager)
        tasks = asyncio.all_tasks()

        async def use() -> None:
            async with manager.acquire_master() as connection:
                await kit.value(connection, "SELECT pg_sleep(60)")

        async with asyncio.timeout(8):
            await cancel(use, until_asleep(master, application, SIZE))
            # Others wait until a place is free, but not until a statement has ended.
            await every_place_works(kit, manager)
        assert await asleep(master, application) == 0
        await until_sessions_at_most(master, application, SIZE + 1)
        await tasks_end(tasks)


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_acquires_that_are_cancelled_again_keep_their_places_until_they_have_ended(
    kit: Kit, pg_cluster: LocalCluster, times: int
) -> None:
    """Otherwise the next acquire would wait in the driver's pool, where it might not be woken."""
    master = pg_cluster.master
    async with Proxy(master.host, master.port) as proxy:
        dsn = master.dsn.replace(f":{master.port}", f":{proxy.port}")
        sizes = kit.sizes(0, SIZE)
        async with kit.manager(dsn, refresh_timeout=30, pool_factory_kwargs=sizes) as manager:
            await manager.ready(1, 0)
            proxy.delay = 0.2
            before = proxy.connections
            acquires = [asyncio.ensure_future(acquire(manager)) for _ in range(SIZE)]
            await until(lambda: proxy.connections > before)
            for _ in range(times):
                for each in acquires:
                    each.cancel()
                await asyncio.sleep(0)
            await every_place_works(kit, manager)
            ends = await asyncio.gather(*acquires, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends)


async def test_a_statement_cancelled_again_and_again_leaves_the_connection_usable(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    """The cancellations come in a storm, at every moment of a statement, and no place is lost."""
    async with manager_of(kit, pg_cluster.master, application, acquire_timeout=10) as manager:
        await manager.ready(1, 0)
        await every_place_works(kit, manager)
        tasks = asyncio.all_tasks()

        async def use() -> None:
            async with manager.acquire_master() as connection:
                await kit.value(connection, "SELECT pg_sleep(0.003)")
                await kit.begin(connection, "SELECT 1")

        for wave in range(15):
            users = [asyncio.ensure_future(use()) for _ in range(2 * SIZE)]
            await asyncio.sleep(0.0005 * wave)
            for _ in range(4):
                for user in users:
                    user.cancel()
                await asyncio.sleep(0.0003 * (wave % 4))
            await asyncio.gather(*users, return_exceptions=True)
        await until(lambda: not any(node.in_flight for node in manager.metrics().nodes))
        await every_place_works(kit, manager)
        await tasks_end(tasks)


async def test_a_scope_that_is_cancelled_while_a_lease_is_given_back_ends_there(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    """anyio knows its cancellation by the message; a different one would end the whole task."""
    async with manager_of(kit, pg_cluster.master, application, acquire_timeout=10) as manager:
        for _ in range(5):
            with anyio.CancelScope() as scope:
                async with manager.acquire_master() as connection:
                    await kit.begin(connection, "SELECT 1")  # the release ends this first
                    scope.cancel()
            assert scope.cancelled_caught
            with anyio.move_on_after(0.05) as scope:
                async with manager.acquire_master() as connection:
                    await kit.value(connection, "SELECT pg_sleep(10)")
            assert scope.cancelled_caught


@pytest.mark.parametrize("leases", [0, 1])
async def test_a_manager_that_is_left_in_a_cancelled_scope_leaves_nothing(
    kit: Kit, pg_cluster: LocalCluster, application: str, leases: int
) -> None:
    tasks = asyncio.all_tasks()
    manager = manager_of(kit, pg_cluster.master, application)
    with anyio.CancelScope() as scope:
        async with manager:
            await manager.ready(1, 0)
            for _ in range(leases):
                await manager.acquire_master()
            scope.cancel()
    async with asyncio.timeout(10):
        await manager.close()  # waits for the end of the first close
    assert scope.cancelled_caught
    await tasks_end(tasks)
    await until_sessions(pg_cluster.master, application, 0)


# Hooks


class Stall:
    """A hook that hangs for as long as it is told to."""

    def __init__(self) -> None:
        self.on = False
        self.count = 0

    async def __call__(self, _: object) -> None:
        if self.on:
            self.count += 1
            await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("way", ["awaited", "cancelled", "terminated", "closed"])
async def test_a_hook_that_hangs_in_a_release_has_a_time_limit(
    hooked: Hooked, pg_cluster: LocalCluster, application: str, way: str
) -> None:
    kit, _ = hooked
    stall = Stall()
    tasks = asyncio.all_tasks()
    hook = kit.reset_hook(stall)
    assert hook is not None
    timeout = 60 if way == "terminated" else 0.3
    manager = manager_of(
        kit, pg_cluster.master, application, release_timeout=timeout, pool_factory_kwargs=hook
    )
    async with manager:
        held = [await manager.acquire_master() for _ in range(SIZE)]
        stall.on = True
        releases = [asyncio.ensure_future(manager.release(each)) for each in held]
        await until(lambda: stall.count == SIZE)
        if way != "awaited":
            for _ in range(2):
                for release in releases:
                    release.cancel()
                await asyncio.sleep(0)
            assert manager.metrics().nodes[0].in_flight == SIZE
        stall.on = False
        async with asyncio.timeout(4):
            ends = await asyncio.gather(*releases, return_exceptions=True)
            if way == "terminated":
                await manager.terminate()
            elif way == "closed":
                await manager.close(timeout=3)
            else:
                await until(lambda: not manager.metrics().nodes[0].in_flight)
        expected = type(None) if way == "awaited" else asyncio.CancelledError
        assert all(isinstance(end, expected) for end in ends)
        if not manager.closed:
            await every_place_works(kit, manager)
    await tasks_end(tasks)


async def test_a_hook_that_hangs_in_an_acquire_costs_no_place(
    hooked: Hooked, pg_cluster: LocalCluster, application: str
) -> None:
    kit, name = hooked
    stall = Stall()
    hook = kit.hooks(stall)[name]
    # On a busy machine a host may answer late. Its connects would then be ended and begun anew, and
    # one of them would hang in the hook.
    async with manager_of(
        kit,
        pg_cluster.master,
        application,
        acquire_timeout=60,
        refresh_timeout=30,
        pool_factory_kwargs=hook,
    ) as manager:
        await manager.ready(1, 0)
        stall.on = True
        users = [asyncio.ensure_future(acquire(manager)) for _ in range(SIZE)]
        # A pool may open fewer connections at a time.
        await until(lambda: stall.count > 0)
        for _ in range(2):
            for user in users:
                user.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*users, return_exceptions=True)
        stall.on = False
        await until(lambda: not manager.metrics().nodes[0].in_flight)
        await every_place_works(kit, manager)


async def acquire(manager: Manager) -> None:
    async with manager.acquire_master():
        pass


# Left behind

PROGRAM = """
import asyncio, gc, logging, sys
from {module} import {kit}

logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
kit = {kit}()
statement = "SELECT pg_sleep(3)"

async def use(manager):
    async with manager.acquire_master() as connection:
        await kit.value(connection, statement)

async def main():
    manager = kit.manager(sys.argv[1], pool_factory_kwargs=kit.sizes(1, 8))
    await manager.ready(1, 2)
    {end}

{run}
"""
CANCELLED = """
    users = [asyncio.ensure_future(use(manager)) for _ in range(2)]
    await asyncio.sleep(0.3)
    for _ in range(2):
        for user in users:
            user.cancel()
        await asyncio.sleep(0)
"""
ROLLING_BACK = """
    begun, leave = [], asyncio.Event()
    async def begin():
        async with manager.acquire_master() as connection:
            await kit.begin(connection, "SELECT 1")
            begun.append(connection)
            await leave.wait()
    users = [asyncio.ensure_future(begin()) for _ in range(8)]
    while len(begun) < 8:
        for user in (await asyncio.wait(users, timeout=0.01))[0]:
            user.result()  # tells why it did not begin
    leave.set()
    await asyncio.sleep(0)
"""
CLOSED_LOOP = """
loop = asyncio.new_event_loop()
kept = loop.run_until_complete(main())
loop.close()
del kept
gc.collect()
"""
RUN = {"asyncio": "asyncio.run(main())", "uvloop": "import uvloop; uvloop.run(main())"}


def run(kit: Kit, dsn: str, end: str, run: str) -> str:
    """Run a program and return what it complains of."""
    name = type(kit)
    program = PROGRAM.format(module=name.__module__, kit=name.__qualname__, end=end, run=run)
    done = subprocess.run(
        [sys.executable, "-c", program, dsn],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return complaints(done.stderr)


@pytest.mark.parametrize("loop", RUN)
def test_a_program_may_end_while_what_it_cancelled_is_given_back(
    kit: Kit, pg_cluster: LocalCluster, loop: str
) -> None:
    assert run(kit, pg_cluster.dsn, CANCELLED, RUN[loop]) == ""


@pytest.mark.parametrize("loop", RUN)
def test_a_program_may_end_while_transactions_are_rolled_back(
    kit: Kit, pg_cluster: LocalCluster, loop: str
) -> None:
    """It is chance whether a release is cancelled before or after the task of its rollback."""
    said = run(kit, pg_cluster.dsn, ROLLING_BACK, RUN[loop])
    # asyncpg reports each transaction that it found open, and psycopg each statement that it could
    # not cancel, or not completely.
    theirs = ("Resetting connection with an active", "query cancellation ")
    assert [line for line in said.splitlines() if not line.startswith(theirs)] == []


def test_a_manager_whose_loop_was_closed_is_collected_without_a_word(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    use = "\n    async with manager.acquire_master() as connection: pass\n    return manager"
    said = run(kit, pg_cluster.dsn, use, CLOSED_LOOP)
    # asyncio itself reports the tasks, and the drivers report what belongs to them.
    assert "its monitor failed" not in said
    assert "coroutine object Monitors" not in said
