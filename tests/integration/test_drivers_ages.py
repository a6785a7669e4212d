"""Connections that age, and idle connections checked for signs of life, with every driver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql import ConfigurationError
from hasql.resilience import Lifecycle
from testbed.proxy import Proxy
from testbed.scene import (
    connections_to,
    every_place_works,
    sessions,
    until,
    until_sessions,
    until_sessions_at_most,
)

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

pytestmark = pytest.mark.usefixtures("nothing_unheard")

#: By kit: a field of `Lifecycle`, and the argument of the driver's pool that says the same.
OWN = {
    "asyncpg": ("max_idle", "max_inactive_connection_lifetime"),
    "asyncpgsa": ("max_idle", "max_inactive_connection_lifetime"),
    "psycopg3": ("max_lifetime", "max_lifetime"),
    "aiopg": ("max_idle", "pool_recycle"),
    "aiopg_sa": ("max_idle", "pool_recycle"),
    "sqlalchemy-asyncpg": ("max_lifetime", "pool_recycle"),
    "sqlalchemy-psycopg": ("max_lifetime", "pool_recycle"),
}


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: what these tests check is the same on any."""
    return "asyncio", {"use_uvloop": False}


async def test_an_old_connection_is_closed_but_not_while_it_is_in_use(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    dsn = f"{pg_cluster.master.dsn}?application_name={application}"
    lifecycle = Lifecycle(max_lifetime=0.3, jitter=0.0)
    sizes = kit.sizes(0, 2)
    async with kit.manager(dsn, pool_factory_kwargs=sizes, lifecycle=lifecycle) as manager:
        connection = await manager.acquire()
        old = await kit.pid(connection)
        await asyncio.sleep(0.5)  # longer than its max_lifetime
        assert await kit.pid(connection) == old
        await manager.release(connection)
        async with asyncio.timeout(10):
            pid = old
            while pid == old:  # until it has been idle for a moment
                await asyncio.sleep(0.05)
                async with manager.acquire() as connection:
                    pid = await kit.pid(connection)
        await until_sessions_at_most(pg_cluster.master, application, 2 + 1)
        await every_place_works(kit, manager)


@pytest.mark.parametrize("check_idle", [None, 0.05])
async def test_one_that_is_idle_for_too_long_is_closed(
    kit: Kit, pg_cluster: LocalCluster, application: str, check_idle: float | None
) -> None:
    dsn = f"{pg_cluster.master.dsn}?application_name={application}"
    lifecycle = Lifecycle(max_idle=0.2, check_idle=check_idle)
    sizes = kit.sizes(0, 3)
    async with kit.manager(dsn, pool_factory_kwargs=sizes, lifecycle=lifecycle) as manager:
        out = [await manager.acquire() for _ in range(3)]
        for connection in out[1:]:
            await manager.release(connection)
        # psycopg closes as many as were unused all the time, and now and then one is being checked.
        asked = kit.name == "psycopg3" and check_idle is not None
        until_left = until_sessions_at_most if asked else until_sessions
        await until_left(pg_cluster.master, application, 2 + asked)  # in use, and the monitor's
        assert await kit.value(out[0], "SELECT 1") == 1
        await manager.release(out[0])
        await until_left(pg_cluster.master, application, 1 + asked)
        await every_place_works(kit, manager)


async def test_idle_connections_that_a_firewall_has_forgotten_are_found_and_replaced(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    master, lifecycle = pg_cluster.master, Lifecycle(check_idle=0.3)
    async with Proxy(master.host, master.port) as proxy:
        dsn = master.dsn.replace(f":{master.port}", f":{proxy.port}")
        async with kit.manager(
            f"{dsn}?application_name={application}",
            refresh_delay=60,
            refresh_timeout=30,  # so that the monitor does not notice first
            pool_factory_kwargs=kit.sizes(0, 3),
            lifecycle=lifecycle,
        ) as manager:
            await every_place_works_for_master(kit, manager)
            asked = proxy.requests
            await until(lambda: proxy.requests > asked + 6)  # each of the three, more than once
            assert manager.metrics().connections_dead == 0
            assert await sessions(master, application) <= 3 + 1
            proxy.black_hole(new_ones_too=False)
            await until(lambda: manager.metrics().connections_dead == 3)
            async with asyncio.timeout(3):
                await every_place_works_for_master(kit, manager)


async def every_place_works_for_master(kit: Kit, manager: Any) -> None:
    out = [await manager.acquire(timeout=5) for _ in range(3)]
    for connection in out:
        assert await kit.value(connection, "SELECT 1") == 1
    for connection in out:
        await manager.release(connection)


async def test_upkeep_is_in_nobodys_way(kit: Kit, pg_cluster: LocalCluster) -> None:
    """Users under load meet no error, and there are never more connections than allowed."""
    lifecycle = Lifecycle(max_lifetime=0.1, max_idle=0.05, check_idle=0.02)
    most = 0
    async with kit.manager(
        pg_cluster.master.dsn, pool_factory_kwargs=kit.sizes(0, 3), lifecycle=lifecycle
    ) as manager:

        async def use() -> None:
            for number in range(25):
                async with manager.acquire(timeout=10) as connection:
                    assert await kit.value(connection, "SELECT 1") == 1
                await asyncio.sleep(0.005 * (number % 4))

        users = asyncio.gather(*(use() for _ in range(5)))
        while not users.done():
            most = max(most, connections_to(pg_cluster.master))
            await asyncio.sleep(0.005)
        await users
        assert most >= 2
        assert most <= 3 + 2  # with the monitor's, and one that replaces it
        await until(lambda: manager.metrics().nodes[0].in_flight == 0)


def test_what_is_said_twice_must_be_said_alike(kit: Kit, pg_cluster: LocalCluster) -> None:
    name, keyword = OWN[kit.name]
    alike: dict[str, Any] = {name: 20.0}
    kit.manager(pg_cluster.dsn, pool_factory_kwargs={keyword: 20.0}, lifecycle=Lifecycle(**alike))
    with pytest.raises(ConfigurationError, match="set the same thing to different values"):
        kit.manager(
            pg_cluster.dsn, pool_factory_kwargs={keyword: 30.0}, lifecycle=Lifecycle(**alike)
        )
