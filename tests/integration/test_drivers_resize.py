"""Pools that are resized while they are in use, with every driver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql import ConfigurationError, PoolManagerClosedError, UnknownConnectionError
from testbed.scene import (
    every_place_works,
    in_flight,
    sessions,
    until,
    until_sessions,
    until_sessions_at_most,
)

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: what these tests check is the same on any."""
    return "asyncio", {"use_uvloop": False}


async def test_growing_serves_those_who_wait(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, application: str
) -> None:
    first = [await manager.acquire(), await manager.acquire()]  # all that there are
    waiting = [asyncio.ensure_future(manager.acquire(timeout=10)) for _ in range(2)]
    await until(lambda: manager.metrics().waiting == 2)
    resized = manager.resize(max_size=4)
    more = [await each for each in waiting]
    await resized
    assert {node.pool_max for node in manager.metrics().nodes} == {4}
    for connection in (*first, *more):
        assert await kit.value(connection, "SELECT 1") == 1  # no lease was harmed
    with pytest.raises(TimeoutError):
        await manager.acquire(timeout=0.05)  # four are out
    assert await sessions(pg_cluster.master, application) == 5  # with the monitor's
    for connection in (*first, *more):
        await manager.release(connection)
    assert in_flight(manager) == 0
    await every_place_works(kit, manager)
    assert await sessions(pg_cluster.master, application) <= 5


async def test_who_asks_a_pool_that_is_resized_gets_and_gives_back_all_the_same(
    kit: Kit, manager: Manager
) -> None:
    pool = await manager.get_pool(read_only=False)
    taken = await manager.acquire_from_pool(pool)
    asked = manager.acquire_from_pool(pool)
    await manager.resize(max_size=3)
    later = await manager.acquire_from_pool(pool)
    await manager.release_to_pool(taken, pool)
    manager.register_connection(later, pool)  # it is registered already
    given = await asked
    for connection in (later, given):
        assert await kit.value(connection, "SELECT 1") == 1
        await manager.release_to_pool(connection, pool)
    assert in_flight(manager) == 0
    with pytest.raises(UnknownConnectionError):
        await manager.release_to_pool(given, pool)
    await every_place_works(kit, manager)


async def test_shrinking_closes_what_is_idle_and_then_what_comes_back(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, application: str
) -> None:
    await manager.resize(max_size=4)
    out = [await manager.acquire() for _ in range(4)]
    await manager.release(out.pop())
    await manager.resize(max_size=2)
    await until_sessions(pg_cluster.master, application, 3 + 1)  # the idle one is closed
    for connection in out:
        assert await kit.value(connection, "SELECT 1") == 1  # the leased ones are not
    with pytest.raises(TimeoutError):
        await manager.acquire(timeout=0.05)
    await manager.release(out.pop())
    await until_sessions(pg_cluster.master, application, 2 + 1)
    with pytest.raises(TimeoutError):
        await manager.acquire(timeout=0.05)  # there are only two
    waiting = asyncio.ensure_future(manager.acquire(timeout=10))
    await until(lambda: manager.metrics().waiting == 1)
    await manager.release(out.pop())
    new = await waiting
    assert await sessions(pg_cluster.master, application) == 2 + 1
    await manager.release(new)
    await manager.release(out.pop())
    await every_place_works(kit, manager)
    await until_sessions_at_most(pg_cluster.master, application, 2 + 1)


async def test_many_changes_in_a_row_lose_nothing(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, application: str
) -> None:
    async def use() -> None:
        for _ in range(20):
            async with manager.acquire(timeout=10) as connection:
                assert await kit.value(connection, "SELECT 1") == 1

    users = asyncio.gather(*(use() for _ in range(6)))
    for size in (5, 1, 3, 3, 2, 6, 2):
        await manager.resize(max_size=size)
        await asyncio.sleep(0.02)
    await users
    assert in_flight(manager) == 0
    await until(lambda: manager.metrics().nodes[0].pool_max == 2)
    await every_place_works(kit, manager)
    await until_sessions_at_most(pg_cluster.master, application, 2 + 1)
    assert len(manager.pools) == 3


async def test_the_minimum_is_kept(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, application: str
) -> None:
    if kit.min_keyword is None:
        with pytest.raises(ConfigurationError, match="has no minimum size"):
            _ = manager.resize(min_size=2)
        return
    await manager.resize(min_size=3, max_size=5)
    await until_sessions(pg_cluster.master, application, 3 + 1)
    await manager.resize(min_size=1)
    await until_sessions(pg_cluster.master, application, 1 + 1)
    await every_place_works(kit, manager)


async def test_a_manager_is_resized_before_it_starts(kit: Kit, pg_cluster: LocalCluster) -> None:
    manager = kit.manager(pg_cluster.dsn, pool_factory_kwargs=kit.sizes(1, 2))
    await manager.resize(max_size=3)
    async with manager:
        await manager.ready()
        assert {node.pool_max for node in manager.metrics().nodes} == {3}
        await every_place_works(kit, manager)
    with pytest.raises(PoolManagerClosedError):
        _ = manager.resize(max_size=2)


async def test_bounds_that_cannot_work_are_refused(kit: Kit, manager: Manager) -> None:
    with pytest.raises(ConfigurationError, match="resize takes min_size"):
        _ = manager.resize()
    for wrong in ({"max_size": 0}, {"min_size": 3}, {"min_size": -1}):
        with pytest.raises(ConfigurationError):
            _ = manager.resize(**wrong)
    with pytest.raises(TypeError):
        _ = manager.resize(max_size=2.5)  # type: ignore[arg-type]
    await every_place_works(kit, manager)
