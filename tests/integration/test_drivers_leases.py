"""Leases, with every driver: how transactions end, how many leases there are, what is counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql import NotAvailableError, UnknownConnectionError
from hasql.cluster.probe import Role
from hasql.cluster.state import Health
from testbed.scene import every_place_works, in_flight, sessions, until, until_sessions

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.scene import Table

    Manager = BasePoolManager[Any, Any]


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: what these tests check is the same on any."""
    return "asyncio", {"use_uvloop": False}


# What becomes of an open transaction


async def leave_block(manager: Manager, kit: Kit, statement: str) -> None:
    async with manager.acquire_master() as connection:
        await kit.begin(connection, statement)


async def leave_block_by_an_exception(manager: Manager, kit: Kit, statement: str) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with manager.acquire_master() as connection:
            await kit.begin(connection, statement)
            raise KeyError("mine")


async def release(manager: Manager, kit: Kit, statement: str) -> None:
    connection = await manager.acquire_master()
    await kit.begin(connection, statement)
    await manager.release(connection)


async def release_within_the_block(manager: Manager, kit: Kit, statement: str) -> None:
    async with manager.acquire_master() as connection:
        await kit.begin(connection, statement)
        await manager.release(connection)


async def release_to_pool(manager: Manager, kit: Kit, statement: str) -> None:
    pool = await manager.get_pool(read_only=False)
    connection = await manager.acquire_from_pool(pool)
    await kit.begin(connection, statement)
    await manager.release_to_pool(connection, pool)


async def leave_block_after_an_error_of_the_server(
    manager: Manager, kit: Kit, statement: str
) -> None:
    async with manager.acquire_master() as connection:
        await kit.begin(connection, statement)
        with pytest.raises(kit.refused_statement):
            await kit.value(connection, "SELECT 1/0")


@pytest.mark.parametrize(
    ("leave", "commits"),
    [
        (leave_block, True),
        (leave_block_by_an_exception, False),
        (leave_block_after_an_error_of_the_server, False),
        (release, False),
        (release_within_the_block, False),
        (release_to_pool, False),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_an_open_transaction_ends_as_the_table_says(  # noqa: PLR0913  # fixtures
    kit: Kit,
    pg_cluster: LocalCluster,
    table: Table,
    application: str,
    leave: Any,
    commits: bool,
) -> None:
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    # asyncpg reports an open transaction to this handler.
    loop.set_exception_handler(lambda *_: None)
    kwargs = kit.sizes(1, 1)
    dsn = f"{pg_cluster.master.dsn}?application_name={application}"
    async with kit.manager(dsn, pool_factory_kwargs=kwargs) as manager:
        await leave(manager, kit, table.insert(1))
        rows = int(commits and kit.commits)
        # Asked from outside: when leaving is done, neither rows nor an open transaction are there.
        assert await pg_cluster.master.sql(table.count) == str(rows)
        assert await sessions(pg_cluster.master, application, "idle in transaction%") == 0
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, table.count) == rows
            await kit.write(connection, table.insert(2))
    loop.set_exception_handler(handler)
    assert await pg_cluster.master.sql(table.count) == str(rows + 1)


async def test_what_was_committed_stays_whatever_ends_the_block(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, table: Table
) -> None:
    with pytest.raises(KeyError):
        async with manager.acquire_master() as connection:
            await kit.write(connection, table.insert(1))
            raise KeyError
    connection = await manager.acquire_master()
    await kit.write(connection, table.insert(2))
    await manager.release(connection)
    assert await pg_cluster.master.sql(table.rows) == "1\n2"


async def test_autocommit_is_respected(kit: Kit, pg_cluster: LocalCluster, table: Table) -> None:
    kwargs = {**kit.sizes(1, 1), **(kit.autocommit or {})}
    insert = f"{table.insert(1)} RETURNING i"
    async with kit.manager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        with pytest.raises(KeyError):
            async with manager.acquire_master() as connection:
                assert await kit.value(connection, insert) == 1
                raise KeyError
        connection = await manager.acquire_master()
        assert await kit.value(connection, insert) == 1
        await manager.release(connection)
    assert await pg_cluster.master.sql(table.count) == "2"


async def test_a_writer_is_not_kept_on_a_master_that_does_not_write(
    kit: Kit, pg_cluster: LocalCluster, table: Table
) -> None:
    master = pg_cluster.master
    insert = table.insert(1)
    await master.sql("ALTER ROLE app SET default_transaction_read_only = on")
    try:
        sizes = kit.sizes(0, 1)  # none is opened before it is needed
        async with kit.manager(master.dsn, pool_factory_kwargs=sizes) as manager:
            with pytest.raises(kit.refused_statement):
                async with manager.acquire_master() as connection:
                    pid = await kit.pid(connection)
                    # This comes before psycopg's pool opens another connection in place of this
                    # one.
                    await master.sql("ALTER ROLE app RESET default_transaction_read_only")
                    await kit.write(connection, insert)
            assert manager.master_pool_count == 1
            async with manager.acquire_master(timeout=5) as connection:
                assert await kit.pid(connection) != pid
                await kit.write(connection, insert)
    finally:
        await master.sql("ALTER ROLE app RESET default_transaction_read_only")


# How many leases there are


async def test_the_users_sizes_are_what_the_user_gets_and_one_connection_is_reserved(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    dsn = f"{pg_cluster.dsn}?application_name={application}"
    async with kit.manager(dsn, pool_factory_kwargs=kit.sizes(2, 3)) as manager:
        await manager.ready(1, 2)
        filled = 2 if kit.min_keyword is not None else 0
        for node in pg_cluster.nodes:
            await until_sessions(node, application, filled + 1)
        for state in manager.metrics().nodes:
            assert (state.pool_min, state.pool_max) == (filled, 3)
            assert (state.pool_idle, state.pool_used, state.in_flight) == (filled, 0, 0)
        (pool,) = await manager.get_master_pools()
        leases = [await manager.acquire_master() for _ in range(3)]
        assert manager.get_pool_freesize(pool) == 0
        with pytest.raises(NotAvailableError, match="3 of 3 connections in use"):
            await manager.acquire_master(timeout=0.05)
        assert await sessions(pg_cluster.master, application) == 3 + 1
        pids = {await kit.pid(connection) for connection in leases}
        assert len(pids) == 3
        for connection in leases:
            await manager.release(connection)
        await every_place_works(kit, manager)


async def test_an_acquire_waits_for_a_place_and_is_served_on_release(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    sizes = kit.sizes(0, 1)
    async with kit.manager(pg_cluster.dsn, pool_factory_kwargs=sizes) as manager:
        await manager.ready(1, 2)
        held = await manager.acquire_master()
        waiters = [asyncio.ensure_future(use(kit, manager)) for _ in range(3)]
        await until(lambda: manager.metrics().waiting == 3)
        waits = manager.metrics().waits
        await manager.release(held)
        assert await asyncio.gather(*waiters) == [1, 1, 1]
        assert waits >= 3
        assert manager.metrics().waiting == 0
        # If one replica is full, the other is used. If both are full, no master stands in.
        one = await manager.acquire_replica()
        two = await manager.acquire_replica()
        assert await kit.port(one) != await kit.port(two)
        with pytest.raises(NotAvailableError, match="1 of 1 connections in use"):
            await manager.acquire_replica(fallback_master=True, timeout=0.05)
        await manager.release(one)
        await manager.release(two)


async def use(kit: Kit, manager: Manager) -> object:
    async with manager.acquire_master(timeout=10) as connection:
        return await kit.value(connection, "SELECT 1")


async def test_a_server_without_slots_costs_no_more_than_the_deadline(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    master = pg_cluster.master
    sizes = kit.sizes(1, 2)
    async with kit.manager(master.dsn, pool_factory_kwargs=sizes, refresh_delay=0.2) as manager:
        held = await manager.acquire_master()
        await master.sql("ALTER ROLE app CONNECTION LIMIT 1")
        try:
            loop = asyncio.get_running_loop()
            for _ in range(2):
                began = loop.time()
                with pytest.raises(NotAvailableError, match="too many connections"):
                    await manager.acquire_master(timeout=1)
                assert loop.time() - began < 3
            assert await kit.value(held, "SELECT 1") == 1
            await manager.release(held)
            async with manager.acquire_master() as connection:  # the open ones serve
                assert await kit.value(connection, "SELECT 1") == 1
        finally:
            await master.sql("ALTER ROLE app CONNECTION LIMIT -1")
        one = await manager.acquire_master(timeout=5)
        two = await manager.acquire_master(timeout=5)
        await manager.release(one)
        await manager.release(two)
        await every_place_works(kit, manager)


# What is counted


async def test_metrics_tell_what_is_lent_and_what_the_servers_are(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, table: Table
) -> None:
    before = manager.metrics()
    master = await manager.acquire_master()
    await kit.write(master, table.insert(1))
    other = await manager.acquire_master()
    replica = await manager.acquire_replica()
    await manager.wait_next_pool_check()
    during = manager.metrics()
    assert [node.host.port for node in during.nodes] == [node.port for node in pg_cluster.nodes]
    port = await kit.port(replica)
    for node in during.nodes:
        lent = 2 if node.role is Role.MASTER else int(node.host.port == port)
        assert (node.in_flight, node.pool_used) == (lent, lent)
        assert 0 <= node.pool_idle <= 2 - lent
        assert node.role is (
            Role.MASTER if node.host.port == pg_cluster.master.port else Role.REPLICA
        )
        assert (node.health, node.exclusion, node.last_error) == (Health.UP, None, None)
        assert 0 < (node.response_time or 0) < 1
        assert node.unchanged_for > 0
        assert node.fencing
        if node.role is Role.MASTER:
            assert (node.lag_bytes, node.lag_seconds) == (None, None)
            assert node.timeline
        else:
            assert (node.lag_bytes or 0) >= 0
            assert (node.lag_seconds or 0) >= 0
    for connection in (master, other, replica):
        await manager.release(connection)
    after = manager.metrics()
    for node in after.nodes:
        assert (node.in_flight, node.pool_used) == (0, 0)
        assert 0 <= node.pool_idle <= 2
    assert after.acquires == before.acquires + 3
    assert after.acquire_seconds > before.acquire_seconds
    assert (after.waiting, after.role_changes, after.fencings) == (0, 0, 0)


async def test_metrics_tell_how_far_a_replica_is_behind(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, table: Table
) -> None:
    replica = pg_cluster.replicas[0]
    await replica.pause_replay()
    try:
        async with manager.acquire_master() as connection:
            await kit.write(connection, table.insert(1))

        def lag() -> tuple[int, float]:
            nodes = {node.host.port: node for node in manager.metrics().nodes}
            node = nodes[replica.port]
            return node.lag_bytes or 0, node.lag_seconds or 0

        await until(lambda: min(lag()) > 0)
    finally:
        await replica.resume_replay()
    await until(lambda: lag() == (0, 0))


async def test_metrics_tell_why_a_host_is_down(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster
) -> None:
    down = pg_cluster.replicas[0]
    down.kill()
    await until(lambda: manager.replica_pool_count == 1)
    nodes = {node.host.port: node for node in manager.metrics().nodes}
    node = nodes.pop(down.port)
    assert (node.role, node.health) == (Role.UNKNOWN, Health.DOWN)
    assert node.last_error
    assert (node.pool_idle, node.pool_used, node.in_flight) == (0, 0, 0)
    assert node.lag_bytes is None
    assert {node.health for node in nodes.values()} == {Health.UP}
    assert down.running is False
    await down.start()
    await manager.ready(1, 2)
    await every_place_works(kit, manager)


# Given back twice


async def test_what_was_lent_to_another_task_meanwhile_is_not_given_back_by_the_former(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with kit.manager(pg_cluster.dsn, pool_factory_kwargs=kit.sizes(1, 1)) as manager:
        await manager.ready(1, 2)
        stale = await manager.acquire_master()
        await manager.release(stale)
        is_lent, is_over = asyncio.Event(), asyncio.Event()

        async def use() -> int:
            connection = await manager.acquire_master()
            is_lent.set()
            await is_over.wait()
            value = await kit.value(connection, "SELECT 42")
            await manager.release(connection)
            assert isinstance(value, int)
            return value

        other = asyncio.ensure_future(use())
        await is_lent.wait()
        with pytest.raises(UnknownConnectionError):
            await manager.release(stale)
        with pytest.raises(UnknownConnectionError):
            await manager.release_to_pool(stale, next(iter(manager)))
        assert in_flight(manager) == 1
        is_over.set()
        assert await other == 42
        assert in_flight(manager) == 0


async def test_any_task_may_give_back_what_it_was_given(kit: Kit, pg_cluster: LocalCluster) -> None:
    async with kit.manager(pg_cluster.dsn, pool_factory_kwargs=kit.sizes(1, 1)) as manager:
        await manager.ready(1, 2)
        for _ in range(2):
            await manager.release(await manager.acquire_master())
            # In a task of its own, which has ended by the time this one has the connection.
            connection = await asyncio.create_task(acquired(manager))
            await manager.release(connection)
            connection = await manager.acquire_master()
            await asyncio.create_task(manager.release(connection))
            # Directly from the driver's pool, without the manager.
            pool = await manager.get_pool(read_only=False)
            taken = await kit.take(pool)
            manager.register_connection(taken, pool)
            await manager.release(taken)
        assert in_flight(manager) == 0


async def acquired(manager: Manager) -> Any:
    return await manager.acquire_master()
