"""`session=` behind PgBouncer, with every driver: what PgBouncer tracks, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import ConfigurationError
from hasql.resilience import SessionDefaults
from testbed.middlemen.addresses import dsn_through
from testbed.scene import in_flight

if TYPE_CHECKING:
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.middlemen.addresses import Address
    from testbed.scene import Table
    from tests.middlemen import StartPgBouncer

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")

#: Settings that a PgBouncer can be told to accept and ignore.
NAMES = "options,statement_timeout,lock_timeout,search_path,jit,default_transaction_isolation"
NAMES += ",idle_in_transaction_session_timeout,idle_session_timeout,extra_float_digits"
TIMED = SessionDefaults(statement_timeout=5, application_name="mine")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: to a pooler it makes no difference."""
    return "asyncio", {"use_uvloop": False}


def behind(
    kit: Kit, cluster: LocalCluster, way: Address, session: SessionDefaults, **more: Any
) -> Manager:
    return kit.manager(
        dsn_through(cluster, way),
        session=session,
        refresh_delay=0.1,
        pool_factory_kwargs={**kit.sizes(1, 2), **kit.unprepared},
        **more,
    )


async def test_what_a_pooler_tracks_is_set_on_each_connection(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", default_pool_size=1)
    one = behind(kit, pg_cluster, pooler, SessionDefaults(application_name="one"))
    other = behind(kit, pg_cluster, pooler, SessionDefaults(application_name="other"))
    async with one, other:  # over the same server session, in turns
        for _ in range(3):
            for manager, name in ((one, "one"), (other, "other")):
                async with manager.acquire_master() as connection:
                    assert await kit.value(connection, "SHOW application_name") == name


@pytest.mark.parametrize("drops", [False, True], ids=["refuses", "drops"])
async def test_what_a_pooler_does_not_take_is_refused_with_the_remedy_and_reaches_nobody(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer, drops: bool
) -> None:
    settings: dict[str, object] = {"ignore_startup_parameters": NAMES} if drops else {}
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", default_pool_size=1, **settings)
    async with behind(kit, pg_cluster, pooler, TIMED, fallback_master=True) as manager:
        await manager.ready(1, 0)
        match = r"cannot set statement_timeout on .*behind a pooler.*run\(\).*ALTER ROLE"
        for _ in range(3):
            with pytest.raises(ConfigurationError, match=match):
                await manager.acquire_master(timeout=5)
        assert in_flight(manager) == 0
        # A unit of work has a transaction, and its settings are made there.
        for read_only in (False, True):
            seen = await manager.run(
                lambda connection: kit.value(connection, "SHOW statement_timeout"),
                read_only=read_only,
            )
            assert seen == "5s"
    plain = SessionDefaults(application_name="plain")
    async with (
        behind(kit, pg_cluster, pooler, plain) as manager,
        manager.acquire_master() as connection,
    ):
        assert await kit.value(connection, "SHOW statement_timeout") == "0"


async def test_what_the_role_has_anyway_is_in_force_behind_a_pooler_too(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    master = pg_cluster.master
    await master.sql("ALTER ROLE app SET statement_timeout = '5s'")
    try:
        pooler = pgbouncer(master, pool_mode="transaction")
        async with (
            behind(kit, pg_cluster, pooler, TIMED) as manager,
            manager.acquire_master() as connection,
        ):
            assert await kit.value(connection, "SHOW statement_timeout") == "5s"
    finally:
        await master.sql("ALTER ROLE app RESET statement_timeout")


@pytest.mark.parametrize("beside", [None, 5.0], ids=["alone", "refused_beside"])
async def test_a_search_path_that_a_pooler_tracks_is_in_force_on_each_lease(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer, beside: float | None
) -> None:
    """If the pooler or the server is too old, an error says so."""
    master = pg_cluster.master
    pooler = pgbouncer(
        master, pool_mode="transaction", default_pool_size=1, track_extra_parameters="search_path"
    )
    can = pooler.tracks_more() and int(await master.sql("SHOW server_version_num")) >= 180000
    mine = SessionDefaults(search_path=["mine", "public"], statement_timeout=beside)
    # A login cannot name this setting.
    await master.sql("ALTER ROLE app SET statement_timeout = '5s'")
    try:
        one = behind(kit, pg_cluster, pooler, mine)
        other = behind(kit, pg_cluster, pooler, SessionDefaults())
        async with one, other:  # over the same server session, in turns
            for _ in range(3):
                if can:
                    async with one.acquire_master() as connection:
                        assert await kit.value(connection, "SHOW search_path") == "mine, public"
                        assert await kit.value(connection, "SHOW statement_timeout") == "5s"
                else:
                    match = r"cannot set search_path on .*run\(\).*track_extra_parameters"
                    with pytest.raises(ConfigurationError, match=match):
                        await one.acquire_master()
                async with other.acquire_master() as connection:
                    assert await kit.value(connection, "SHOW search_path") == '"$user", public'
    finally:
        await master.sql("ALTER ROLE app RESET statement_timeout")


async def test_settings_of_one_lease_are_refused_behind_a_pooler(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction")
    async with behind(kit, pg_cluster, pooler, SessionDefaults()) as manager:
        with pytest.raises(ConfigurationError, match=r"of this acquire cannot set lock_timeout"):
            await manager.acquire_master(session=SessionDefaults(lock_timeout=1))
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SHOW lock_timeout") == "0"
        assert in_flight(manager) == 0


async def test_a_read_on_a_master_behind_a_pooler_is_refused_and_on_a_replica_it_is_not(
    kit: Kit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer, table: Table
) -> None:
    guarded = SessionDefaults(enforce_read_only=True)
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction")
    async with behind(kit, pg_cluster, pooler, guarded, fallback_master=True) as manager:
        with pytest.raises(ConfigurationError, match="enforce_read_only, for a read"):
            await manager.acquire_replica(timeout=5)
        async with manager.acquire_master() as connection:
            await kit.write(connection, table.insert(1))
    pooler = pgbouncer(pg_cluster.replicas[0], pool_mode="transaction")
    async with (
        behind(kit, pg_cluster, pooler, guarded) as manager,
        manager.acquire_replica() as connection,
    ):
        with pytest.raises(kit.refused_statement, match="read-only transaction"):
            await kit.write(connection, table.insert(2))
