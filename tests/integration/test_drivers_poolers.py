"""Hosts behind a transaction pooler that is full, dead or reports errors, with every driver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql import NotAvailableError
from testbed.middlemen.addresses import dsn_through
from testbed.scene import until, until_asleep

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.middlemen.addresses import Address
    from testbed.scene import Table
    from tests.middlemen import StartPgBouncer

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: to a pooler it makes no difference."""
    return "asyncio", {"use_uvloop": False}


def _through(
    kit: Kit, cluster: LocalCluster, *ways: Address, silence: float = 0.3, pools: Any = None
) -> Manager:
    return kit.manager(
        dsn_through(cluster, *ways),
        refresh_delay=0.1,
        refresh_timeout=silence,
        lease_abort_after=silence,
        pool_factory_kwargs={**(pools or kit.sizes(1, 2)), **kit.unprepared},
    )


def _health(manager: Manager) -> str:
    return manager.metrics().nodes[0].health.value


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_8_a_pooler_full_of_the_applications_own_statements_is_waited_for(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", default_pool_size=1)
    # Long enough for a login on a busy machine, but shorter than the statement.
    async with _through(kit, pg_cluster, pooler, silence=0.6) as manager:
        await manager.ready(1, 0)
        seen = set()
        manager.add_listener(lambda event: seen.add(type(event).__name__))
        async with manager.acquire_master() as connection:
            query = "SELECT 1 FROM (SELECT pg_sleep(2)) AS s"
            running = asyncio.ensure_future(kit.value(connection, query))
            await until(lambda: _health(manager) == "suspect" or running.done())
            assert await running == 1
        assert "HostDown" not in seen
        await until(lambda: _health(manager) == "up")
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT 1") == 1


async def test_8_a_dead_server_behind_a_pooler_that_lets_us_in_is_left(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    dead, other = pg_cluster.replicas
    poolers = [pgbouncer(each, pool_mode="transaction") for each in (dead, other)]
    async with _through(kit, pg_cluster, *poolers) as manager:
        await manager.ready(0, 2)
        dead.freeze()
        await until(lambda: _health(manager) == "down")
        for _ in range(10):
            async with manager.acquire_replica() as connection:
                assert await kit.port(connection) == other.port
        dead.thaw()
        await manager.ready(0, 2)


async def test_18_mistakes_behind_a_pooler_cost_no_login_either(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer, table: Table
) -> None:
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", log_connections=1)

    def logins() -> int:
        return pooler.log.count("login attempt: db=app user=app")

    async with _through(kit, pg_cluster, pooler) as manager:
        async with manager.acquire_master() as one, manager.acquire_master() as other:
            assert await kit.value(one, "SELECT 1") == await kit.value(other, "SELECT 1")
        before = logins()
        assert before >= 3
        for _ in range(60):
            with pytest.raises(kit.refused_statement):
                async with manager.acquire_master() as connection:
                    await kit.begin(connection, "SET TRANSACTION READ ONLY")
                    await kit.write(connection, table.insert(1))
        assert logins() == before


async def test_4_a_pooler_that_takes_no_more_clients_is_full_and_not_down(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", max_client_conn=2)
    async with _through(kit, pg_cluster, pooler) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_master() as connection:
            with pytest.raises(NotAvailableError, match="no more connections allowed"):
                await manager.acquire_master(timeout=1)
            assert _health(manager) == "up"
            assert await kit.value(connection, "SELECT 1") == 1
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT 1") == 1


async def test_4_who_waited_too_long_in_a_pooler_gets_its_error_and_others_go_on(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer, application: str
) -> None:
    pooler = pgbouncer(
        pg_cluster.master, pool_mode="transaction", default_pool_size=1, query_wait_timeout=1
    )
    # Less than a query may wait, but enough for a login through the pooler.
    async with _through(kit, pg_cluster, pooler, silence=0.8) as manager:
        await manager.ready(1, 0)
        seen = set()
        manager.add_listener(lambda event: seen.add(type(event).__name__))
        async with manager.acquire_master() as connection:
            name = f"SELECT set_config('application_name', '{application}', false)"
            await kit.value(connection, name)
            with pytest.raises((*kit.lost, kit.refused_statement), match="query_wait_timeout"):
                async with manager.acquire_master() as waiting:
                    query = "SELECT 1 FROM (SELECT pg_sleep(1.5)) AS s"
                    running = asyncio.ensure_future(kit.value(connection, query))
                    await until_asleep(pg_cluster.master, application, 1)
                    await kit.value(waiting, "SELECT 1")
            assert await running == 1
        assert "HostDown" not in seen


async def test_a_login_that_a_pooler_refuses_fails_at_once(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(pg_cluster.master)
    manager = kit.manager(dsn_through(pg_cluster, pooler).replace("/app", "/unknown"))
    async with asyncio.timeout(5):
        with pytest.raises(Exception, match="authentication failed"):
            await manager.ready(timeout=20)
    await manager.close()


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
async def test_the_reserved_connection_takes_one_of_a_poolers_connections(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer, pool_mode: str
) -> None:
    keeps = pool_mode == "session"
    pooler = pgbouncer(
        pg_cluster.master, pool_mode="session" if keeps else "transaction", default_pool_size=5
    )
    async with _through(kit, pg_cluster, pooler, pools=kit.sizes(0, 2)) as manager:
        await manager.ready(1, 0)

        async def in_use() -> int:
            pools = await pooler.console("SHOW POOLS")
            return sum(int(each["sv_active"]) for each in pools if each["database"] == "app")

        async with asyncio.timeout(10):
            # While a probe runs it has a server connection in both modes; only afterwards do they
            # differ.
            while await in_use() != keeps:
                await asyncio.sleep(0.01)
