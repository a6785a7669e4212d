"""Hosts that leave, return and change roles under load, with every driver on both event loops."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from hasql import NotAvailableError
from hasql.cluster.dsn import Dsn
from hasql.cluster.state import Health
from testbed.proxy import Proxy
from testbed.scene import (
    end_sessions,
    every_place_works,
    fail_over,
    in_flight,
    until,
    until_sessions,
)

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.metrics import NodeMetrics
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import Kit
    from testbed.scene import Table

    Manager = BasePoolManager[Any, Any]


pytestmark = pytest.mark.usefixtures("nothing_unheard")


async def test_a_clean_switchover_is_followed(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, table: Table
) -> None:
    old = pg_cluster.master
    new = await pg_cluster.switchover()
    async with manager.acquire_master(timeout=10) as connection:
        assert await kit.port(connection) == new.port
        await kit.write(connection, table.insert(1))
    await manager.ready(1, 2, timeout=20)
    assert manager.metrics().role_changes >= 2
    ports = set()
    for _ in range(20):
        async with manager.acquire_replica() as connection:
            assert await kit.value(connection, "SELECT pg_is_in_recovery()") is True
            ports.add(await kit.port(connection))
    assert old.port in ports
    await every_place_works(kit, manager)


async def test_writers_go_on_after_a_crash_and_lose_nothing_acknowledged_by_the_new_master(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, table: Table
) -> None:
    failures: list[int] = []
    written: list[int] = []
    stop = asyncio.Event()

    async def write(writer: int) -> None:
        number = writer
        while not stop.is_set():
            try:
                async with manager.acquire_master(timeout=20) as connection:
                    await kit.write(connection, table.insert(number))
                written.append(number)
            except kit.lost:
                failures.append(writer)
            number += 100

    writers = [asyncio.ensure_future(write(writer)) for writer in range(4)]
    await until(lambda: len(written) > 50 or any(writer.done() for writer in writers))
    old, new = await fail_over(pg_cluster)
    promoted = len(written)
    await until(lambda: len(written) > promoted + 50 or any(writer.done() for writer in writers))
    stop.set()
    await asyncio.gather(*writers)
    assert len(failures) == len(set(failures)), "more than one failure of a task"
    # Rows that were acknowledged after the promotion are there. The old master may never have
    # shipped its last rows.
    present = set(map(int, (await new.sql(table.rows)).split()))
    assert set(written[promoted:]) <= present
    assert manager.metrics().role_changes >= 1
    await old.rejoin(new)
    await manager.ready(1, 2, timeout=20)
    await every_place_works(kit, manager)


async def test_a_frozen_master_that_was_replaced_acknowledges_nothing(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, table: Table
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    held = await manager.acquire_master()
    assert await kit.value(held, "SELECT 1") == 1
    old.freeze()
    await new.promote()
    await until(lambda: manager.metrics().fencings == 1)
    async with manager.acquire_master(timeout=10) as connection:
        assert await kit.port(connection) == new.port
    assert manager.is_connection_closed(held)
    old.thaw()
    with pytest.raises(kit.lost):
        await kit.write(held, table.insert(1))
    await manager.release(held)
    await manager.wait_next_pool_check()
    for _ in range(10):
        async with manager.acquire_master() as connection:
            assert await kit.port(connection) == new.port
    assert await old.sql(table.count) == "0"
    with pytest.raises(NotAvailableError, match="fenced"):
        await manager.ready(2, 0, timeout=0.05)
    assert [node.host.port for node in manager.metrics().nodes if node.exclusion] == [old.port]


async def test_a_login_that_outlasts_a_promotion_gives_a_writer_the_new_master(
    kit: Kit, pg_cluster: LocalCluster, table: Table, application: str
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    async with Proxy(old.host, old.port) as proxy:
        dsn = pg_cluster.dsn.replace(f":{old.port}", f":{proxy.port}", 1)
        async with kit.manager(
            f"{dsn}?application_name={application}",
            refresh_delay=0.1,
            refresh_timeout=2,  # as in `manager`
            pool_factory_kwargs=kit.sizes(0, 2),
        ) as manager:
            await manager.ready(1, 2)
            held = await manager.acquire_master()  # so that the next one must log in
            asked = proxy.connections
            proxy.hold_answers_to_new_ones()
            acquiring = asyncio.ensure_future(manager.acquire_master(timeout=30).__aenter__())
            await until(lambda: proxy.connections > asked)
            await new.promote()
            await until(lambda: manager.metrics().fencings == 1)
            proxy.forward()
            connection = await acquiring
            assert await kit.port(connection) == new.port
            assert manager.metrics().retries
            await kit.write(connection, table.insert(1))
            await manager.release(connection)
            await manager.release(held)
            assert await old.sql(table.count) == "0"
            assert in_flight(manager) == 0


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_readers_go_on_with_the_other_replica(
    kit: Kit, pg_cluster: LocalCluster, fault: str
) -> None:
    failures: list[int] = []
    ports: list[int] = []
    stop = asyncio.Event()
    async with kit.manager(
        pg_cluster.dsn,
        refresh_delay=0.2,
        refresh_timeout=0.6,
        lease_abort_after=0.5,
        pool_factory_kwargs=kit.sizes(1, 2),
    ) as manager:
        await manager.ready(1, 2)

        async def read(reader: int) -> None:
            while not stop.is_set():
                try:
                    async with manager.acquire_replica(timeout=20) as connection:
                        ports.append(await kit.port(connection))
                except kit.lost:
                    failures.append(reader)

        readers = [asyncio.ensure_future(read(reader)) for reader in range(4)]
        await until(lambda: len(ports) > 50 or any(reader.done() for reader in readers))
        down, other = pg_cluster.replicas
        getattr(down, fault)()
        await until(lambda: manager.replica_pool_count == 1)
        seen = len(ports)
        await until(lambda: len(ports) > seen + 50 or any(reader.done() for reader in readers))
        # In the end, the users of the frozen host get an error.
        await until(lambda: state_of(manager, down).in_flight == 0)
        stop.set()
        await asyncio.gather(*readers)
        assert len(failures) == len(set(failures)), "more than one failure of a task"
        assert set(ports[-20:]) == {other.port}
        await (down.start() if fault == "kill" else asyncio.to_thread(down.thaw))
        await manager.ready(1, 2)
        await every_place_works(kit, manager)


def state_of(manager: Manager, node: LocalNode) -> NodeMetrics:
    (state,) = (each for each in manager.metrics().nodes if each.host.port == node.port)
    return state


async def test_an_acquire_does_not_stick_to_a_frozen_replica(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with kit.manager(
        pg_cluster.dsn, acquire_timeout=5, refresh_delay=60, pool_factory_kwargs=kit.sizes(0, 3)
    ) as manager:
        await manager.ready(1, 2)
        frozen, sound = pg_cluster.replicas
        (pool,) = (x for x in manager.pools if manager.host(x).endswith(f":{frozen.port}"))
        # Nobody can know that the idle connections there will not answer, so they are taken out
        # first. Instead of a new connection there, one on the other host can be had.
        idle = state_of(manager, frozen).pool_idle
        kept = [await manager.acquire_from_pool(pool) for _ in range(idle)]
        frozen.freeze()
        leases = await asyncio.gather(*[manager.acquire_replica() for _ in range(3)])
        assert {await kit.port(connection) for connection in leases} == {sound.port}
        for connection in leases:
            await manager.release(connection)
        frozen.thaw()
        for connection in kept:
            await manager.release(connection)


async def test_a_stall_of_our_own_is_no_silence_of_a_host(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    loop = asyncio.get_running_loop()
    replica, pause = pg_cluster.replicas[0], 0.04
    async with kit.manager(
        pg_cluster.dsn,
        refresh_delay=0.02,
        refresh_timeout=0.5,
        pool_factory_kwargs=kit.sizes(1, 2),
    ) as manager:
        await manager.ready(1, 2)
        while True:
            # This ends while a probe is pending. If it took 0.1 s, the replica would be to blame.
            began = loop.time()
            replica.freeze()
            await asyncio.sleep(pause)
            replica.thaw()
            if loop.time() - began < 2 * pause:
                break
            await until(lambda: all(x.health is Health.UP for x in manager.metrics().nodes))
        time.sleep(1)  # like an application that blocks its loop
        await manager.wait_next_pool_check()
        for node in manager.metrics().nodes:
            assert node.last_error is None
            assert node.unchanged_for > 1


# A stall that ends before the deadline leaves too little time for a login that has hardly begun.
@pytest.mark.parametrize("seconds", [0.49, 1])
async def test_a_stall_while_connecting_is_no_silence_of_a_host(
    kit: Kit, pg_cluster: LocalCluster, seconds: float
) -> None:
    manager = kit.manager(pg_cluster.dsn, refresh_timeout=0.5, pool_factory_kwargs=kit.sizes(1, 2))
    try:
        starting = asyncio.ensure_future(manager.ready(1, 2, timeout=10))
        for _ in range(3):
            await asyncio.sleep(0)
        time.sleep(seconds)  # as above
        await starting
        assert [node.last_error for node in manager.metrics().nodes] == [None] * 3
    finally:
        await manager.close()


async def test_a_host_down_at_start_is_no_error_and_is_taken_in_later(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    down = pg_cluster.replicas[0]
    await down.stop()
    sizes = kit.sizes(1, 1)
    async with kit.manager(pg_cluster.dsn, refresh_delay=0.1, pool_factory_kwargs=sizes) as manager:
        await manager.ready(1, 1)
        assert len(manager.pools) == 2
        with pytest.raises(NotAvailableError, match=f"{down.port} down"):
            await manager.ready(timeout=0.3)
        await down.start()
        await manager.ready(1, 2)
        assert len(manager.pools) == 3
        await every_place_works(kit, manager)


async def test_a_host_that_comes_back_serves_at_once_and_from_fresh_connections(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster
) -> None:
    async def pids() -> set[int]:
        leases = [await manager.acquire_replica(timeout=10) for _ in range(4)]
        found = {await kit.pid(connection) for connection in leases}
        for connection in leases:
            await manager.release(connection)
        return found

    before = await pids()
    replicas = pg_cluster.replicas
    for node in replicas:
        await node.stop()
    await until(lambda: manager.replica_pool_count == 0)
    assert not any(state.pool_used for state in manager.metrics().nodes)
    for node in replicas:
        await node.start()
    await manager.ready(1, 2)
    # Pools fill themselves now, and not when the driver would try next, which would take seconds
    # and with some drivers a minute.
    filled = 1 if kit.min_keyword is not None else 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: all(state_of(manager, node).pool_idle >= filled for node in replicas))
    assert loop.time() - began < 3
    assert not await pids() & before
    await every_place_works(kit, manager)


async def test_idle_connections_that_were_killed_cost_nobody_an_error_or_a_delay(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, application: str
) -> None:
    await every_place_works(kit, manager)  # so that all connections are open
    for node in pg_cluster.nodes:
        await end_sessions(node, application)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for read_only in (False, True) * 4:
        async with manager.acquire(read_only, timeout=20) as connection:
            assert await kit.value(connection, "SELECT 1") == 1
    assert loop.time() - began < 3
    await manager.ready(1, 2)
    await every_place_works(kit, manager)
    assert loop.time() - began < 6


async def test_a_black_hole_is_left_for_others_and_no_place_is_lost(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    first, second = pg_cluster.replicas
    parsed = Dsn.parse(pg_cluster.dsn)
    async with Proxy(first.host, first.port) as proxy:
        dsn = (
            f"postgresql://{parsed.user}:{parsed.password}@127.0.0.1:{proxy.port},"
            f"127.0.0.1:{second.port}/app"
        )
        async with kit.manager(
            dsn, refresh_delay=0.1, refresh_timeout=1, pool_factory_kwargs=kit.sizes(1, 2)
        ) as manager:
            await manager.ready(0, 2)
            proxy.black_hole()
            # Some of these begin before the fault can be known, and need connections that never
            # come.
            leases = [await manager.acquire_replica(timeout=10) for _ in range(2)]
            await until(lambda: manager.replica_pool_count == 1)
            for connection in leases:
                await manager.release(connection)
            for _ in range(5):
                async with manager.acquire_replica() as connection:
                    assert await kit.port(connection) == second.port
            proxy.forward()
            await manager.ready(0, 2)
            await every_place_works(kit, manager)
            # If old connections are dead while new ones work, that costs one reconnect: the host
            # stays, and no dead idle connection is left in the pool on which a user would hang.
            before = proxy.connections
            proxy.black_hole(new_ones_too=False)
            await manager.wait_next_pool_check()
            assert proxy.connections > before
            assert manager.replica_pool_count == 2
            async with asyncio.timeout(10):
                await every_place_works(kit, manager)
            proxy.drop()


async def test_giving_back_to_a_frozen_host_ends_after_release_timeout_without_an_error(
    kit: Kit, pg_cluster: LocalCluster, table: Table, application: str
) -> None:
    master = pg_cluster.master
    async with kit.manager(
        f"{master.dsn}?application_name={application}",
        refresh_delay=30,
        refresh_timeout=30,
        lease_abort_after=None,
        release_timeout=0.3,
        pool_factory_kwargs=kit.sizes(1, 1),
    ) as manager:
        connection = await manager.acquire_master()
        await kit.begin(connection, table.insert(1))
        master.freeze()
        async with asyncio.timeout(5):
            await manager.release(connection)
        assert manager.metrics().nodes[0].in_flight == 0
        master.thaw()
        # The place is free, and the open transaction is rolled back.
        async with manager.acquire_master(timeout=10) as connection:
            assert await kit.value(connection, table.count) == 0
        await until_sessions(master, application, 0, "idle in transaction%")
