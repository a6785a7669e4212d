"""Every driver copes with a name of several servers, as a service or a proxy may have.

The tests change the servers of the name under a running manager. Its connections live on, unless a
test cuts them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion
from testbed.middlemen.addresses import dsn_through
from testbed.middlemen.forwarder import Forwarder
from testbed.scene import until

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.metrics import NodeMetrics
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.middlemen.addresses import Address

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")

one_loop = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"], indirect=True
)


def manager_of(kit: Kit, cluster: LocalCluster, *ways: Address, **kwargs: Any) -> Manager:
    sizes = kit.sizes(1, 2)
    return kit.manager(
        dsn_through(cluster, *ways), refresh_delay=0.1, pool_factory_kwargs=sizes, **kwargs
    )


def node(manager: Manager, way: Address) -> NodeMetrics:
    (found,) = (each for each in manager.metrics().nodes if each.host.port == way.port)
    return found


async def break_a_lease(kit: Kit, manager: Manager) -> None:
    """End the session of a lease, as an administrator may: hasql then probes its host afresh."""
    connection = await manager.acquire_master(timeout=10)
    pid = await kit.pid(connection)
    with pytest.raises(kit.lost):
        async with asyncio.timeout(10):
            while True:
                await kit.value(connection, f"SELECT count(pg_terminate_backend({pid}))")
    await manager.release(connection)


async def test_1_no_master_lease_leads_to_a_standby_of_the_same_name(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    master, standby = pg_cluster.master, pg_cluster.replicas[0]
    async with Forwarder(master) as name, manager_of(kit, pg_cluster, name) as manager:
        await manager.ready(1, 0)
        name.turn(master, *[standby] * 3, cut=True)
        await manager.wait_next_pool_check()  # by then the manager knows which connections were cut
        for _ in range(20):
            # Three of four connects lead to the standby.
            async with manager.acquire_master(timeout=30) as connection:
                assert await kit.port(connection) == master.port


async def test_1_a_name_that_has_moved_to_a_newer_master_is_followed(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    async with Forwarder(old) as name, manager_of(kit, pg_cluster, name) as manager:
        await manager.ready(1, 0)
        held, before = await manager.acquire_master(), node(manager, name).timeline
        await new.promote()
        name.turn(new)
        await break_a_lease(kit, manager)
        await until(lambda: node(manager, name).timeline != before)
        # The server that the name has left lives on, but acknowledges nothing more.
        with pytest.raises(kit.lost):
            await kit.value(held, "SELECT 1")
        await manager.release(held)
        for _ in range(20):
            async with manager.acquire_master(timeout=10) as connection:
                assert await kit.port(connection) == new.port


@one_loop
async def test_1_what_leads_to_another_server_of_the_name_is_left_alone_when_one_is_fenced(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    async with Forwarder(old) as name, manager_of(kit, pg_cluster, name, new) as manager:
        await manager.ready(1, 1)
        held = await manager.acquire_replica()  # on the server that will be the master
        await new.promote()
        await until(lambda: node(manager, name).exclusion is Exclusion.FENCED)
        name.turn(new)
        await until(lambda: node(manager, name).exclusion is not Exclusion.FENCED)
        assert await kit.port(held) == new.port
        await manager.release(held)
        for _ in range(5):
            async with manager.acquire_master(timeout=10) as connection:
                assert await kit.port(connection) == new.port


@one_loop
async def test_1_a_readers_name_that_led_to_the_writer_serves_once_it_does_not(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    master, standby = pg_cluster.master, pg_cluster.replicas[0]
    async with (
        Forwarder(master) as rw,
        Forwarder(master) as r,
        manager_of(kit, pg_cluster, rw, r) as manager,
    ):
        await until(lambda: node(manager, r).exclusion is Exclusion.ALIAS)
        r.turn(standby)
        await manager.ready(1, 1, timeout=10)
        assert node(manager, r).role is Role.REPLICA
        async with manager.acquire_replica(timeout=10) as connection:
            assert await kit.port(connection) == standby.port


@one_loop
async def test_1_a_question_leaves_no_transaction_open_and_is_asked_once(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    async with manager_of(kit, pg_cluster, old, new) as manager:
        await manager.ready(1, 1)
        async with manager.acquire_replica() as connection:
            pid = await kit.pid(connection)
        await new.promote()
        await until(lambda: node(manager, old).exclusion is Exclusion.FENCED)
        connection = await manager.acquire_master(timeout=10)
        # The connection was not used since the promotion, so its flag still said `on`.
        shown = f"SELECT state, query FROM pg_stat_activity WHERE pid = {pid}"  # noqa: S608
        assert "pg_is_in_recovery" in (said := await new.sql(shown))
        assert said.startswith("idle|")
        assert await kit.pid(connection) == pid
        await manager.release(connection)
        async with manager.acquire_master(timeout=10):
            assert "pg_is_in_recovery" not in await new.sql(shown)
