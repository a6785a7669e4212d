"""`session=` sets each connection, as SHOW tells, with every driver for threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from hasql.errors import ConfigurationError
from hasql.resilience import SessionDefaults
from testbed.middlemen.addresses import dsn_through
from testbed.scene import Table, in_flight
from testbed.strict_proxy import StrictProxy
from tests.integration.test_drivers_session_defaults import (
    ALL,
    GUARDED,
    OTHER,
    SHOWN,
    SHOWN_OTHER,
)

if TYPE_CHECKING:
    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster, LocalNode
    from testbed.sync_kits import SyncKit
    from tests.middlemen import StartPgBouncer

    Manager = BaseSyncPoolManager[Any, Any]


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: only the middlemen use it."""
    return "asyncio", {"use_uvloop": False}


def shown(kit: SyncKit, connection: Any, *names: str) -> dict[str, str]:
    return {name: kit.value(connection, f"SHOW {name}") for name in names or SHOWN}


def settled(kit: SyncKit, dsn: str, session: SessionDefaults = ALL, **more: Any) -> Manager:
    kwargs = {**kit.sizes(1, 1), **more}
    return kit.manager(dsn, session=session, pool_factory_kwargs=kwargs, refresh_delay=0.2)


def test_each_connection_is_set_from_the_first_lease_to_the_last(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    with settled(sync_kit, pg_cluster.dsn) as manager:
        manager.ready(1, 2)
        for _ in range(3):
            with manager.acquire_master() as connection:
                assert shown(sync_kit, connection) == SHOWN
        connection = manager.getconn(read_only=True)
        assert shown(sync_kit, connection) == SHOWN
        manager.putconn(connection)


def test_a_reset_leads_back_to_the_settings(sync_kit: SyncKit, pg_cluster: LocalCluster) -> None:
    with settled(sync_kit, pg_cluster.dsn) as manager, manager.acquire_master() as connection:
        sync_kit.value(connection, "SELECT set_config('statement_timeout', '7s', false)")
        assert shown(sync_kit, connection, "statement_timeout") == {"statement_timeout": "7s"}
        sync_kit.begin(connection, "RESET ALL")
        assert shown(sync_kit, connection) == SHOWN


def test_contradictions_are_refused_with_the_names_of_both(sync_kit: SyncKit) -> None:
    with pytest.raises(ConfigurationError, match=r"session= sets lock_timeout .*, and the DSN to"):
        settled(sync_kit, "postgresql://app@localhost/app?options=-c%20lock_timeout%3D5s")


async def test_where_the_login_is_refused_sql_sets_a_connection(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    def work(dsn: str) -> None:
        with settled(sync_kit, dsn) as manager:
            for _ in range(2):
                with manager.acquire_master() as connection:
                    assert shown(sync_kit, connection) == SHOWN

    async with StrictProxy(pg_cluster.master) as proxy:
        await asyncio.to_thread(work, dsn_through(pg_cluster, proxy.address))
        assert proxy.refused


async def test_a_reset_hook_of_the_applications_undoes_no_setting(
    resetting_sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    kit = resetting_sync_kit

    def reset(connection: Any) -> None:
        kit.begin(connection, "RESET ALL")
        kit.end(connection)

    def work(dsn: str) -> None:
        with settled(kit, dsn, **(kit.reset_hook(reset) or {})) as manager:
            for _ in range(3):
                with manager.acquire_master() as connection:
                    assert shown(kit, connection) == SHOWN

    async with StrictProxy(pg_cluster.master) as proxy:
        for way in (proxy.address, pg_cluster.master):
            await asyncio.to_thread(work, dsn_through(pg_cluster, way))


# Connections that are lent to read do not write


def guarded(kit: SyncKit, node: LocalNode, session: SessionDefaults | None = GUARDED) -> Manager:
    """Make a manager of the master alone, with one connection, which also serves all reads."""
    kwargs: dict[str, Any] = {"fallback_master": True, "refresh_delay": 0.2}
    return kit.manager(node.dsn, session=session, pool_factory_kwargs=kit.sizes(1, 1), **kwargs)


@pytest.fixture
async def numbers(pg_cluster: LocalCluster) -> Table:
    """An empty table."""
    made = Table(f"t_{uuid4().hex}")
    await pg_cluster.master.sql(
        f"CREATE TABLE {made.name} (i int); GRANT ALL ON {made.name} TO app"
    )
    return made


def test_what_is_lent_to_read_on_a_master_does_not_write_and_to_write_it_does(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    numbers = Table(f"t_{uuid4().hex}")
    with guarded(sync_kit, pg_cluster.master) as manager:
        with manager.acquire_master() as connection:
            sync_kit.begin(connection, f"CREATE TABLE {numbers.name} (i int)")
            sync_kit.end(connection)
        pids = set()
        for number in range(3):
            with (
                pytest.raises(sync_kit.refused_statement, match="read-only transaction"),
                manager.acquire_replica() as connection,
            ):
                pids.add(sync_kit.pid(connection))
                sync_kit.begin(connection, numbers.insert(100 + number))
            connection = manager.getconn(read_only=True)
            assert sync_kit.value(connection, numbers.count) == number
            manager.putconn(connection)
            with manager.acquire_master() as connection:
                pids.add(sync_kit.pid(connection))
                sync_kit.begin(connection, numbers.insert(number))
                sync_kit.end(connection)
        assert len(pids) == 1
        assert manager.master_pool_count == 1


# Settings of one lease


def test_an_acquire_overrides_what_it_names_and_that_is_undone_on_return(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    with settled(sync_kit, pg_cluster.dsn) as manager:
        with manager.acquire_master(session=OTHER) as connection:
            pid = sync_kit.pid(connection)
            assert shown(sync_kit, connection) == SHOWN_OTHER
        with manager.acquire_master() as connection:
            assert sync_kit.pid(connection) == pid
            assert shown(sync_kit, connection) == SHOWN
        connection = manager.getconn(session=OTHER)
        assert shown(sync_kit, connection) == SHOWN_OTHER
        sync_kit.begin(connection, "SELECT 1")  # a transaction that nobody ends
        manager.putconn(connection)
        with (
            pytest.raises(sync_kit.refused_statement),
            manager.acquire_master(session=OTHER) as connection,
        ):
            sync_kit.value(connection, "SELECT 1 / 0")
        with manager.acquire_master(session=OTHER) as connection:
            sync_kit.begin(connection, "RESET ALL")
            sync_kit.end(connection)
        with manager.acquire_master() as connection:
            assert sync_kit.pid(connection) == pid
            assert shown(sync_kit, connection) == SHOWN


def test_a_connection_on_which_it_cannot_be_undone_is_closed(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    with sync_kit.manager(
        pg_cluster.dsn,
        session=ALL,
        pool_factory_kwargs=sync_kit.sizes(1, 1),
        refresh_timeout=20,
        release_timeout=0.3,
    ) as manager:
        connection = manager.getconn(session=OTHER)
        pid = sync_kit.pid(connection)
        master = pg_cluster.master
        master.freeze()  # it is silent, which is not known yet
        manager.putconn(connection)
        master.thaw()
        assert in_flight(manager) == 0
        with manager.acquire_master(timeout=10) as connection:
            assert sync_kit.pid(connection) != pid
            assert shown(sync_kit, connection) == SHOWN


# Behind a pooler


def test_what_a_pooler_does_not_take_is_refused_with_the_remedy(
    sync_kit: SyncKit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction")
    dsn = dsn_through(pg_cluster, pooler)
    with settled(sync_kit, dsn, SessionDefaults(lock_timeout=1), **sync_kit.unprepared) as manager:
        manager.ready(1, 0)
        for _ in range(2):
            with (
                pytest.raises(ConfigurationError, match=r"cannot set lock_timeout .*ALTER ROLE"),
                manager.acquire_master(timeout=5),
            ):
                pass
        seen = manager.run(lambda connection: shown(sync_kit, connection, "lock_timeout"))
        assert seen == {"lock_timeout": "1s"}
        assert in_flight(manager) == 0
    name = SessionDefaults(application_name="mine")
    with (
        settled(sync_kit, dsn, name, **sync_kit.unprepared) as manager,
        manager.acquire_master() as connection,
    ):
        seen = shown(sync_kit, connection, "lock_timeout", "application_name")
        assert seen == {"lock_timeout": "0", "application_name": "mine"}


def test_a_search_path_that_a_pooler_tracks_is_in_force_beside_what_it_refuses(
    sync_kit: SyncKit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    """A pooler or a server that is too old for this is refused, with an error that says so."""
    master = pg_cluster.master
    pooler = pgbouncer(master, pool_mode="transaction", track_extra_parameters="search_path")
    version = asyncio.run(master.sql("SHOW server_version_num"))
    mine = SessionDefaults(search_path=["mine", "public"], lock_timeout=1)
    asyncio.run(master.sql("ALTER ROLE app SET lock_timeout = '1s'"))  # a login cannot set it
    try:
        dsn = dsn_through(pg_cluster, pooler)
        with settled(sync_kit, dsn, mine, **sync_kit.unprepared) as manager:
            if pooler.tracks_more() and int(version) >= 180000:
                for _ in range(2):
                    with manager.acquire_master() as connection:
                        seen = shown(sync_kit, connection, "search_path", "lock_timeout")
                        assert seen == {"search_path": "mine, public", "lock_timeout": "1s"}
            else:
                match = r"cannot set search_path on .*run\(\).*track_extra_parameters"
                with pytest.raises(ConfigurationError, match=match):
                    manager.getconn()
    finally:
        asyncio.run(master.sql("ALTER ROLE app RESET lock_timeout"))
