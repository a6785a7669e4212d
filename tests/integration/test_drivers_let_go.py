"""Connections that the application ends itself, or that cannot be reset, with every driver.

Whatever happens to the connection that was lent, it is either clean in the pool or broken. Its
place is free, and the next lease works.
"""

from __future__ import annotations

import asyncio
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from testbed.scene import end_sessions, every_place_works, until_asleep, until_sessions

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.scene import Table

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.mark.parametrize("busy", [False, True], ids=["in a transaction", "busy"])
async def test_whatever_has_ended_a_connection_the_next_lease_works(
    kit: Kit, pg_cluster: LocalCluster, application: str, table: Table, busy: bool
) -> None:
    master = pg_cluster.master
    dsn = f"{master.dsn}?application_name={application}"
    async with kit.manager(dsn, pool_factory_kwargs=kit.sizes(0, 1)) as manager:
        (pool,) = await manager.get_master_pools()
        for name, end in kit.endings().items():
            lease = manager.acquire_master(timeout=5)
            connection = await lease
            await kit.begin(connection, table.insert(1))
            statements = []
            if busy:
                sleep = kit.value(connection, "SELECT pg_sleep(60)")
                statements.append(asyncio.ensure_future(sleep))
                await until_asleep(master, application, 1)
            with warnings.catch_warnings(), suppress(Exception):
                warnings.simplefilter("ignore")  # aiopg warns about what is left open
                await asyncio.wait_for(end(pool, connection), 0.2)
            async with asyncio.timeout(3):
                # The block of such a driver would wait for the statement, in order to commit.
                if kit.commits:
                    await manager.release(connection)
                else:
                    await lease.__aexit__(None, None, None)
                for statement in statements:  # each ends by itself now
                    await asyncio.wait([statement])
                    assert statement.cancelled() or statement.exception() is not None, name
            async with asyncio.timeout(5), manager.acquire_master(timeout=3) as other:
                assert await kit.value(other, "SELECT 1") == 1, name
                await kit.write(other, table.insert(2))
            # Some drivers stop the statement; others only stop waiting for its answer.
            await end_sessions(master, application, "active")
            await until_sessions(master, application, 0, "idle in transaction%")
            await until_sessions(master, application, 1 + 1)
        await every_place_works(kit, manager)
    await until_sessions(master, application, 0)
    assert await master.sql(f"SELECT DISTINCT i FROM {table.name}") == "2"  # noqa: S608  # ours


async def test_a_block_whose_connection_was_given_to_its_pool_and_lent_again_hurts_nobody(
    kit: Kit, pg_cluster: LocalCluster, table: Table
) -> None:
    master = pg_cluster.master
    async with kit.manager(master.dsn, pool_factory_kwargs=kit.sizes(0, 2)) as manager:
        (pool,) = await manager.get_master_pools()
        async with manager.acquire_master() as first:
            pid = await kit.pid(first)
            if kit.commits:
                await first.rollback()
            await kit.put(pool, first)
            second = manager.acquire_master()
            connection = await second
            assert await kit.pid(connection) == pid
            await kit.begin(connection, table.insert(1))
        assert await kit.value(connection, table.count) == 1  # not rolled back
        assert await master.sql(table.count) == "0"  # nor committed
        assert manager.metrics().nodes[0].in_flight == 1
        await second.__aexit__(None, None, None)
        await every_place_works(kit, manager)
