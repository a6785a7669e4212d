"""Draining each driver's manager: work in flight commits, work that takes too long is broken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.probe import Role
from hasql.errors import PoolManagerClosedError
from testbed.scene import until_asleep, until_sessions

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.scene import Table

pytestmark = pytest.mark.loops_in_turn


def slow_insert(table: Table) -> str:
    return table.insert(1).replace("VALUES (1)", "SELECT 1 FROM pg_sleep(0.3)")


async def test_12_a_drain_lets_what_is_in_flight_commit(
    kit: Kit,
    manager: BasePoolManager[Any, Any],
    pg_cluster: LocalCluster,
    application: str,
    table: Table,
) -> None:
    async def work() -> None:
        async with manager.acquire_master() as connection:
            await kit.write(connection, slow_insert(table))

    working = [asyncio.create_task(work()) for _ in range(2)]
    await until_asleep(pg_cluster.master, application, 2)
    waiting = asyncio.create_task(work())  # there are only two places
    while not manager.metrics().waiting:
        await asyncio.sleep(0)
    draining = asyncio.create_task(manager.drain())
    with pytest.raises(PoolManagerClosedError):
        await waiting
    assert not any(each.done() for each in working)
    with pytest.raises(PoolManagerClosedError):
        await work()
    await asyncio.gather(*working)
    assert (await draining).broken == ()
    assert await pg_cluster.master.sql(table.rows) == "1\n1"
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)


async def test_12_a_drain_breaks_what_takes_too_long_and_tells_of_it(
    kit: Kit,
    manager: BasePoolManager[Any, Any],
    pg_cluster: LocalCluster,
    application: str,
    table: Table,
) -> None:
    connection = await manager.acquire_master()
    await kit.begin(connection, table.insert(1))
    report = await manager.drain(0.1)
    (broken,) = report.broken
    assert (broken.host.port, broken.role) == (pg_cluster.master.port, Role.MASTER)
    # uvloop's timers count whole milliseconds, so one may end up to a millisecond early.
    assert 0.099 <= broken.since < 20
    with pytest.raises(kit.lost):
        await kit.value(connection, "SELECT 1")
    await manager.release(connection)
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)
    assert await pg_cluster.master.sql(table.rows) == ""
