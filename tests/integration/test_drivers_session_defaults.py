"""`session=` sets each connection, as SHOW tells, with every driver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.dsn import Dsn
from hasql.errors import ConfigurationError
from hasql.resilience import SessionDefaults
from testbed.middlemen.addresses import dsn_through
from testbed.scene import in_flight, sessions
from testbed.strict_proxy import StrictProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import Kit
    from testbed.scene import Table

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")

ALL = SessionDefaults(
    statement_timeout=5,
    lock_timeout=1.5,
    idle_in_transaction_timeout=30.0,
    application_name="it's \\ mine",
    search_path=["$user", "My s\\ch'em\"a", "public"],
)
SHOWN = {
    "statement_timeout": "5s",
    "lock_timeout": "1500ms",
    "idle_in_transaction_session_timeout": "30s",
    "application_name": "it's \\ mine",
    "search_path": '"$user", "My s\\ch\'em""a", public',
}


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: to a setting it makes no difference."""
    return "asyncio", {"use_uvloop": False}


async def shown(kit: Kit, connection: Any, *names: str) -> dict[str, str]:
    return {name: await kit.value(connection, f"SHOW {name}") for name in names or SHOWN}


def settled(kit: Kit, dsn: str, session: SessionDefaults = ALL, **more: Any) -> Manager:
    kwargs = {**kit.sizes(1, 1), **more}
    return kit.manager(dsn, session=session, pool_factory_kwargs=kwargs, refresh_delay=0.2)


async def test_each_connection_is_set_from_the_first_lease_to_the_last(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with settled(kit, pg_cluster.dsn) as manager:
        await manager.ready(1, 2)
        for _ in range(3):  # the same connection, after the driver's reset
            async with manager.acquire_master() as connection:
                assert await shown(kit, connection) == SHOWN
        async with manager.acquire_replica() as connection:
            assert await shown(kit, connection) == SHOWN


@pytest.mark.parametrize("command", ["RESET ALL", "DISCARD ALL"])
async def test_a_reset_leads_back_to_the_settings(
    kit: Kit, pg_cluster: LocalCluster, command: str
) -> None:
    # DISCARD ALL drops the statements that asyncpg has prepared.
    kwargs = {**(kit.autocommit or {}), **({} if kit.over_libpq else kit.unprepared)}
    async with (
        settled(kit, pg_cluster.dsn, **kwargs) as manager,
        manager.acquire_master() as connection,
    ):
        await kit.value(connection, "SELECT set_config('statement_timeout', '7s', false)")
        assert (await shown(kit, connection))["statement_timeout"] == "7s"
        await kit.write(connection, command)
        assert await shown(kit, connection) == SHOWN


async def test_what_the_application_sets_by_itself_stays(
    kit: Kit, pg_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c geqo_threshold=9")
    more = kit.with_settings(application_name="mine", work_mem="5MB")
    session = SessionDefaults(statement_timeout=5)
    async with (
        settled(kit, pg_cluster.dsn, session, **more) as manager,
        manager.acquire_master() as connection,
    ):
        seen = await shown(kit, connection, "statement_timeout", "work_mem", "application_name")
        assert list(seen.values()) == ["5s", "5MB", "mine"]
    if not kit.over_libpq:
        return
    async with (
        settled(kit, pg_cluster.dsn, session) as manager,
        manager.acquire_master() as connection,
    ):
        seen = await shown(kit, connection, "statement_timeout", "geqo_threshold")
        assert list(seen.values()) == ["5s", "9"]


@pytest.mark.parametrize("options", [None, "DSN", "argument"])
async def test_what_is_empty_is_set_as_well(
    kit: Kit, pg_cluster: LocalCluster, options: str | None
) -> None:
    session = SessionDefaults(search_path=[], application_name="", lock_timeout=3)
    dsn, more, own = pg_cluster.dsn, {}, {"options": "-c geqo_threshold=9"}
    if options == "DSN":
        dsn += "?options=-c%20geqo_threshold%3D9"
    elif options == "argument":
        of_driver = own if kit.over_libpq else {"server_settings": own}
        more = kit.of_connections(**of_driver)
    names = ("search_path", "application_name", "lock_timeout", "geqo_threshold")
    async with (
        settled(kit, dsn, session, **more) as manager,
        manager.acquire_master() as connection,
    ):
        seen = await shown(kit, connection, *names)
    assert list(seen.values()) == ["", "", "3s", "9" if options else "12"]


async def test_contradictions_are_refused_with_the_names_of_both(
    kit: Kit,
) -> None:
    dsn = "postgresql://app@localhost/app"
    for query in ("application_name=other", "options=-c%20lock_timeout%3D5s"):
        with pytest.raises(ConfigurationError, match=r"session= sets .*, and the DSN to"):
            settled(kit, f"{dsn}?{query}")
    for name, value in (("application_name", "other"), ("lock_timeout", "5s")):
        more = kit.with_settings(**{"application_name": SHOWN["application_name"], name: value})
        match = rf"session= sets {name} to .*, and pool_factory_kwargs.* to '{value}'"
        with pytest.raises(ConfigurationError, match=match):
            settled(kit, dsn, **more)
    same = kit.with_settings(application_name=ALL.application_name or "", lock_timeout="1500")
    settled(kit, dsn, **same)


async def test_the_reserved_connection_has_of_them_the_name_alone(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    # With such a limit no probe would be answered in time.
    session = SessionDefaults(statement_timeout=0.001, application_name=application)
    kwargs = kit.sizes(0, 1)
    async with kit.manager(
        pg_cluster.dsn, session=session, pool_factory_kwargs=kwargs, refresh_delay=0.05
    ) as manager:
        await manager.ready(1, 2)
        for _ in range(5):
            await manager.wait_next_pool_check()
        assert {node.health.value for node in manager.metrics().nodes} == {"up"}
        for node in pg_cluster.nodes:
            assert await sessions(node, application) == 1


@pytest.fixture
async def strict(pg_cluster: LocalCluster) -> AsyncIterator[StrictProxy]:
    """A proxy before the master that refuses settings at the login."""
    async with StrictProxy(pg_cluster.master) as proxy:
        yield proxy


async def test_where_the_login_is_refused_sql_sets_a_connection_and_again_after_each_reset(
    kit: Kit, pg_cluster: LocalCluster, strict: StrictProxy
) -> None:
    async with settled(kit, dsn_through(pg_cluster, strict.address)) as manager:
        for _ in range(3):
            async with manager.acquire_master() as connection:
                assert await shown(kit, connection) == SHOWN
    assert strict.refused


async def test_a_reset_hook_of_the_applications_undoes_no_setting(
    kit: Kit, pg_cluster: LocalCluster, strict: StrictProxy
) -> None:
    ran = 0

    async def reset(connection: Any) -> None:
        nonlocal ran
        await kit.write(connection, "RESET ALL")
        ran += 1

    more = kit.reset_hook(reset)
    if more is None or "pool_events" in more:
        # SQLAlchemy's hook has another connection, and runs beside a rollback.
        return
    for way in (strict.address, pg_cluster.master):
        async with settled(kit, dsn_through(pg_cluster, way), **more) as manager:
            for _ in range(3):
                async with manager.acquire_master() as connection:
                    assert await shown(kit, connection) == SHOWN
    assert ran >= 6


# A lease for reading does not write

GUARDED = SessionDefaults(enforce_read_only=True)


def guarded(kit: Kit, node: LocalNode, session: SessionDefaults | None = GUARDED) -> Manager:
    """Make a manager of the master alone, with one connection that serves all reads."""
    parsed = Dsn.parse(node.dsn)
    return kit.manager(
        parsed.for_host(parsed.hosts[0]),
        session=session,
        fallback_master=True,
        pool_factory_kwargs=kit.sizes(1, 1),
        refresh_delay=0.2,
    )


def refuses_to_write(kit: Kit) -> Any:
    return pytest.raises(kit.refused_statement, match="read-only transaction")


async def test_what_is_lent_to_read_on_a_master_does_not_write_and_to_write_it_does(
    kit: Kit, pg_cluster: LocalCluster, table: Table
) -> None:
    async with guarded(kit, pg_cluster.master) as manager:
        pids = set()
        for number in range(3):
            async with manager.acquire_replica() as connection:
                pids.add(await kit.pid(connection))
                with refuses_to_write(kit):
                    await kit.write(connection, table.insert(100 + number))
            async with manager.acquire_replica(timeout=5) as connection:  # no extra round trip
                assert await kit.value(connection, table.count) == number
            async with manager.acquire_master() as connection:
                pids.add(await kit.pid(connection))
                await kit.write(connection, table.insert(number))
        assert len(pids) == 1
        # hasql itself still takes the server for a master, and had no reason to probe it again.
        assert manager.master_pool_count == 1
        (node,) = manager.metrics().nodes
        assert (node.role.value, node.health.value) == ("master", "up")


async def test_a_read_that_has_fallen_to_the_masters_share_does_not_write(
    kit: Kit, pg_cluster: LocalCluster, table: Table
) -> None:
    kwargs = kit.sizes(1, 1)
    async with kit.manager(
        pg_cluster.dsn, session=GUARDED, pool_factory_kwargs=kwargs, refresh_delay=0.2
    ) as manager:
        await manager.ready(1, 2)
        async with manager.acquire_replica(master_as_replica_weight=1.0) as connection:
            assert await kit.port(connection) == pg_cluster.master.port
            with refuses_to_write(kit):
                await kit.write(connection, table.insert(1))
        async with manager.acquire_replica() as connection:
            assert await kit.port(connection) != pg_cluster.master.port
        async with manager.acquire_master() as connection:
            await kit.write(connection, table.insert(2))


async def test_sql_can_lift_the_guard_and_that_ends_with_the_lease(
    kit: Kit, pg_cluster: LocalCluster, table: Table
) -> None:
    async with guarded(kit, pg_cluster.master) as manager:
        async with manager.acquire_replica() as connection:
            lift = "SELECT set_config('default_transaction_read_only', 'off', false)"
            await kit.write(connection, lift)
            await kit.write(connection, table.insert(1))
        async with manager.acquire_replica() as connection:
            with refuses_to_write(kit):
                await kit.write(connection, table.insert(2))


async def test_one_acquire_can_be_guarded_alone(
    kit: Kit, pg_cluster: LocalCluster, table: Table
) -> None:
    async with guarded(kit, pg_cluster.master, None) as manager:
        async with manager.acquire_replica(session=GUARDED) as connection:
            with refuses_to_write(kit):
                await kit.write(connection, table.insert(1))
        async with manager.acquire_replica() as connection:
            await kit.write(connection, table.insert(2))
        with pytest.raises(ConfigurationError, match="must not write as READ ONLY"):
            _ = manager.acquire_master(session=GUARDED)


# Settings of one lease

OTHER = SessionDefaults(statement_timeout=7, application_name="other", search_path=["other"])
SHOWN_OTHER = {**SHOWN, "statement_timeout": "7s", "application_name": "other"}
SHOWN_OTHER |= {"search_path": "other"}


async def test_an_acquire_overrides_what_it_names_and_that_is_undone_on_return(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with settled(kit, pg_cluster.dsn) as manager:
        async with manager.acquire_master(session=OTHER) as connection:
            pid = await kit.pid(connection)
            assert await shown(kit, connection) == SHOWN_OTHER
        async with manager.acquire_master() as connection:
            assert await kit.pid(connection) == pid
            assert await shown(kit, connection) == SHOWN
        connection = await manager.acquire(session=OTHER)
        assert await shown(kit, connection) == SHOWN_OTHER
        await kit.begin(connection, "SELECT 1")  # a transaction that stays open
        await manager.release(connection)
        async with manager.acquire_master() as connection:
            assert await kit.pid(connection) == pid
            assert await shown(kit, connection) == SHOWN


async def test_what_a_hook_has_set_is_restored_and_a_reset_within_leads_to_the_login(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    kwargs = {**(kit.autocommit or {}), **({} if kit.over_libpq else kit.unprepared)}
    async with settled(kit, pg_cluster.dsn, **kwargs) as manager:
        async with manager.acquire_master() as connection:
            # A hook might do this to each connection. asyncpg's own reset undoes it, by design.
            await kit.write(connection, "SELECT set_config('statement_timeout', '8s', false)")
        async with manager.acquire_master() as connection:
            before = (await shown(kit, connection))["statement_timeout"]
        async with manager.acquire_master(session=OTHER) as connection:
            assert (await shown(kit, connection))["statement_timeout"] == "7s"
        async with manager.acquire_master() as connection:
            assert (await shown(kit, connection))["statement_timeout"] == before
        async with manager.acquire_master(session=OTHER) as connection:
            pid = await kit.pid(connection)
            await kit.write(connection, "RESET ALL")
        async with manager.acquire_master() as connection:
            assert await kit.pid(connection) == pid
            assert await shown(kit, connection) == SHOWN


async def test_it_is_undone_after_an_error_and_after_a_cancellation(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with settled(kit, pg_cluster.dsn) as manager:
        with pytest.raises(kit.refused_statement):
            async with manager.acquire_master(session=OTHER) as connection:
                await kit.value(connection, "SELECT 1 / 0")
        async with manager.acquire_master() as connection:
            assert await shown(kit, connection) == SHOWN

        async def work() -> None:
            async with manager.acquire_master(session=OTHER) as connection:
                assert await kit.value(connection, "SELECT 1") == 1
                inside.set()
                await kit.value(connection, "SELECT 1 FROM (SELECT pg_sleep(5)) AS s")

        for seconds in (0.0, 0.05):
            inside = asyncio.Event()
            task = asyncio.ensure_future(work())
            await inside.wait()
            await asyncio.sleep(seconds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with manager.acquire_master(timeout=10) as connection:
                assert await shown(kit, connection) == SHOWN
        assert in_flight(manager) == 0


async def test_a_connection_on_which_it_cannot_be_undone_is_closed(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with kit.manager(
        pg_cluster.dsn,
        session=ALL,
        pool_factory_kwargs=kit.sizes(1, 1),
        refresh_timeout=20,
        release_timeout=0.3,
    ) as manager:
        connection = await manager.acquire(session=OTHER)
        pid = await kit.pid(connection)
        master = pg_cluster.master
        master.freeze()  # silent, but not yet known to be
        async with asyncio.timeout(5):
            await manager.release(connection)
        master.thaw()
        assert in_flight(manager) == 0
        async with manager.acquire_master(timeout=10) as connection:
            assert await kit.pid(connection) != pid
            assert await shown(kit, connection) == SHOWN


async def test_what_is_no_session_default_is_refused_when_asked_for(kit: Kit) -> None:
    wrong: Any = {"statement_timeout": 5}
    with pytest.raises(TypeError, match="SessionDefaults"):
        kit.manager("postgresql://app@localhost/app", session=wrong)
    manager = kit.manager("postgresql://app@localhost/app")
    with pytest.raises(TypeError, match="SessionDefaults"):
        _ = manager.acquire_master(session=wrong)
