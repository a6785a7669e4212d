"""Invariant 9 on real servers: which of several masters serves, and which ones are kept out."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from hasql import NotAvailableError
from hasql.asyncpg import PoolManager
from hasql.cluster.dsn import Dsn
from hasql.cluster.state import Exclusion, Health
from hasql.events import HostExcluded, HostFenced
from hasql.testing import LocalCluster
from testbed.scene import kill_all_of, until

if TYPE_CHECKING:
    from hasql.testing import LocalNode
    from testbed.scene import Table

pytestmark = pytest.mark.usefixtures("nothing_unheard")

LOST = asyncpg.PostgresConnectionError, asyncpg.InterfaceError


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Run each test on one of the event loops, chosen by its name.

    Fencing is decided without a loop, and the drivers' suite ends leases on both.
    """
    uvloop = zlib.crc32(request.node.originalname.encode()) % 2 == 1
    return "asyncio", {"use_uvloop": uvloop}


def manager_of(dsn: str, **kwargs: Any) -> PoolManager:
    return PoolManager(dsn, refresh_delay=0.1, pool_factory_kwargs={"min_size": 1}, **kwargs)


def address(node: LocalNode) -> str:
    return f"{node.host}:{node.port}"


def exclusions(manager: PoolManager) -> dict[int, Exclusion]:
    """Return why hosts are kept out of routing, by port."""
    nodes = manager.metrics().nodes
    return {node.host.port: node.exclusion for node in nodes if node.exclusion is not None}


async def master_port(manager: PoolManager) -> int:
    async with manager.acquire_master(timeout=10) as connection:
        port = await connection.fetchval("SELECT inet_server_port()")
        assert isinstance(port, int)
        return port


async def test_9_a_promotion_by_accident_makes_the_living_master_the_old_one(
    pg_cluster: LocalCluster, table: Table
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    async with manager_of(pg_cluster.dsn) as manager:
        await manager.ready(1, 2)
        held = await manager.acquire_master()
        await new.promote()
        await until(lambda: exclusions(manager) == {old.port: Exclusion.FENCED})
        with pytest.raises(LOST):
            await held.execute(table.insert(1))
        await manager.release(held)
        assert await old.sql(table.count) == "0"
        assert [await master_port(manager) for _ in range(5)] == [new.port] * 5
        # The old master lives on. It is not a replica either, until it rejoins as one.
        assert manager.replica_pool_count == 1
        await old.rejoin(new)
        await manager.ready(1, 2, timeout=20)
    # A manager that starts now has never seen the old timeline.
    async with manager_of(pg_cluster.dsn) as manager:
        assert await master_port(manager) == new.port


async def test_9_who_starts_between_two_masters_takes_that_of_the_newer_timeline(
    pg_cluster: LocalCluster,
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    await new.promote()
    for hosts in ([old, new], [new, old]):
        dsn = Dsn.parse(pg_cluster.dsn)
        named = ",".join(map(address, hosts))
        for _ in range(10):
            async with manager_of(f"postgresql://{dsn.user}:{dsn.password}@{named}/app") as manager:
                # Otherwise one host took longer than the 100 ms that the manager waits for it.
                if all(node.health is Health.UP for node in manager.metrics().nodes):
                    assert exclusions(manager) == {old.port: Exclusion.FENCED}
                    assert await master_port(manager) == new.port
                    break
        else:
            pytest.fail("no manager has begun by hearing both")


async def delay_replay(node: LocalNode, delay: str) -> None:
    await node.sql(f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'")
    await node.sql("SELECT pg_reload_conf()")


@pytest.mark.parametrize("excepted", [True, False])
async def test_9_a_delayed_standby_promoted_for_a_drill(
    pg_cluster: LocalCluster, table: Table, excepted: bool
) -> None:
    old, delayed = pg_cluster.master, pg_cluster.replicas[1]
    await delay_replay(delayed, "1h")
    try:
        never = [address(delayed)] if excepted else []
        async with manager_of(pg_cluster.dsn, never_master=never) as manager:
            await manager.ready(1, 2)
            held = await manager.acquire_master()
            await delayed.promote()
            if excepted:
                await until(lambda: exclusions(manager) == {delayed.port: Exclusion.NEVER_MASTER})
                await manager.wait_next_pool_check()
                await held.execute(table.insert(1))  # the lease is left alone
                assert await master_port(manager) == old.port
                with pytest.raises(NotAvailableError, match="never_master forbids"):
                    await manager.ready(2, 0, timeout=0.05)
            else:  # `never_master` does not name it
                await until(lambda: exclusions(manager) == {old.port: Exclusion.FENCED})
                with pytest.raises(LOST):
                    await held.execute(table.insert(1))
                assert await master_port(manager) == delayed.port
            await manager.release(held)
            assert manager.replica_pool_count == 1
    finally:
        await delay_replay(delayed, "0")


async def test_9_of_two_promoted_to_one_timeline_the_first_goes_on(
    pg_cluster: LocalCluster, table: Table
) -> None:
    old, (first, second) = pg_cluster.master, pg_cluster.replicas
    events: list[object] = []
    split = HostFenced(Dsn.parse(second.dsn).hosts[0], Exclusion.SPLIT)
    async with manager_of(pg_cluster.dsn) as manager:
        manager.add_listener(events.append)
        await manager.ready(1, 2)
        await kill_all_of(old)
        await first.promote()
        assert await master_port(manager) == first.port
        held = await manager.acquire_master()
        await second.promote()
        timeline = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
        assert await first.sql(timeline) == await second.sql(timeline)
        await until(lambda: split in events)  # told a turn of the loop after it is known
        assert exclusions(manager)[second.port] is Exclusion.SPLIT
        fenced = [event for event in events if isinstance(event, HostFenced)]
        assert [event for event in fenced if event.exclusion is Exclusion.SPLIT] == [split]
        await held.execute(table.insert(1))  # a lease of the serving master is left alone
        await manager.release(held)
        assert [await master_port(manager) for _ in range(5)] == [first.port] * 5
        assert await second.sql(table.count) == "0"
        # The silence of the first does not prove that it has lost.
        first.kill()
        await until(lambda: manager.master_pool_count == 0)
        with pytest.raises(NotAvailableError, match="another master writes the same timeline"):
            await manager.acquire_master(timeout=0.5)
        await first.start()
        assert await master_port(manager) == first.port
        await second.rejoin(first)
        await manager.ready(1, 1, timeout=20)
        assert second.port not in exclusions(manager)


async def one_that_takes_none(dsn: str) -> tuple[PoolManager, NotAvailableError]:
    """Start up to four managers until one accepts no master; return it and its error.

    A manager that starts waits for the first answers of all hosts, but only for 100 ms, and on a
    busy machine a host may answer later.
    """
    for _ in range(4):
        async with AsyncExitStack() as closing:
            manager = manager_of(dsn)
            closing.push_async_callback(manager.close)
            try:
                await manager.release(await manager.acquire_master(timeout=1))
            except NotAvailableError as error:
                closing.pop_all()
                return manager, error
    raise AssertionError("each has taken one of them")


async def test_9_who_starts_between_two_masters_of_one_timeline_takes_none(
    pg_cluster: LocalCluster,
) -> None:
    old, (first, second) = pg_cluster.master, pg_cluster.replicas
    await old.stop()
    await asyncio.gather(first.promote(), second.promote())
    manager, error = await one_that_takes_none(pg_cluster.dsn)
    try:
        both = [line for line in str(error).splitlines() if "the same timeline" in line]
        assert [address(node) in line for node, line in zip((first, second), both, strict=True)]
        assert exclusions(manager) == dict.fromkeys([first.port, second.port], Exclusion.SPLIT)
        await second.stop()  # its silence does not prove that it has lost
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.5)
        await second.start()
        await second.rejoin(first)
        assert await master_port(manager) == first.port
        await manager.ready(1, 1, timeout=20)
    finally:
        await manager.close()


async def test_9_a_copy_of_the_data_in_another_cluster_is_none_of_ours(
    pg_cluster: LocalCluster, table: Table
) -> None:
    master = pg_cluster.master
    dsn = Dsn.parse(pg_cluster.dsn)
    async with LocalCluster(replicas=1) as other:
        copy = other.replicas[0]
        await copy.promote()  # its timeline is now the higher one
        await copy.sql(f"ALTER ROLE app PASSWORD '{dsn.password}'")
        await copy.sql(f"CREATE TABLE {table.name} (i int)")
        hosts = ",".join(map(address, (copy, *pg_cluster.nodes)))
        both = f"postgresql://{dsn.user}:{dsn.password}@{hosts}/app"
        async with manager_of(both) as manager:
            await manager.ready(1, 2)
            assert [await master_port(manager) for _ in range(5)] == [master.port] * 5
            assert exclusions(manager) == {copy.port: Exclusion.FOREIGN}
            with pytest.raises(NotAvailableError, match="belongs to another cluster"):
                await manager.ready(2, 2, timeout=0.05)
        async with manager_of(both, allow_several_clusters=True) as manager:
            await manager.ready(2, 2)
            ports = {await master_port(manager) for _ in range(50)}
            assert ports == {master.port, copy.port}


async def test_9_a_server_that_is_named_twice_is_one(pg_cluster: LocalCluster) -> None:
    master, (replica, _) = pg_cluster.master, pg_cluster.replicas
    dsn = Dsn.parse(pg_cluster.dsn)
    hosts = [address(node) for node in (master, replica)]
    names = ",".join([*hosts, *(host.replace("127.0.0.1", "localhost") for host in hosts)])
    events: list[object] = []
    manager = manager_of(f"postgresql://{dsn.user}:{dsn.password}@{names}/app")
    manager.add_listener(events.append)
    async with manager:
        await manager.ready(1, 1)
        twice = [None, None, Exclusion.ALIAS, Exclusion.ALIAS]
        await until(lambda: [node.exclusion for node in manager.metrics().nodes] == twice)
        assert (manager.master_pool_count, manager.replica_pool_count) == (1, 1)
        assert [str(pool.host) for pool in manager.metrics().nodes if not pool.exclusion] == hosts
        await manager.wait_next_pool_check()
        aliases = [HostExcluded(x.host, Exclusion.ALIAS) for x in manager.metrics().nodes[2:]]
        excluded = [event for event in events if isinstance(event, HostExcluded)]
        assert sorted(excluded, key=str) == sorted(aliases, key=str)
        # One server under two names is neither a split nor an old master of itself.
        await replica.promote()
        await until(lambda: manager.metrics().nodes[0].exclusion is Exclusion.FENCED)
        assert [await master_port(manager) for _ in range(5)] == [replica.port] * 5
        assert manager.master_pool_count == 1
