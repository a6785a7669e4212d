"""The session of the reserved connection belongs to hasql, with every driver.

It takes address, login and TLS from the application, but no defaults of its role or database and
nothing from the environment. What the application's libraries can change in a connection is tested
in the files of the drivers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.dsn import Dsn
from testbed.middlemen.addresses import dsn_through
from testbed.odd_defaults import ENVIRONMENT, evil_schema, odd_defaults
from testbed.scene import endpoint_of, until, until_replicated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hasql._manager.facade import Facade
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import Kit
    from testbed.middlemen.addresses import Address
    from tests.middlemen import StartPgBouncer

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
async def evil(pg_cluster: LocalCluster) -> AsyncIterator[None]:
    """A schema with functions and operators that do not do what their names say."""
    async with evil_schema(pg_cluster):
        yield


@pytest.fixture
async def odd_cluster(pg_cluster: LocalCluster) -> AsyncIterator[LocalCluster]:
    """A cluster in which the applications' role and database have odd defaults."""
    async with odd_defaults(pg_cluster):
        yield pg_cluster


@pytest.fixture
async def limited_cluster(pg_cluster: LocalCluster) -> AsyncIterator[LocalCluster]:
    """A cluster in which the applications' role has 20 ms for each transaction."""
    version = int(await pg_cluster.master.sql("SHOW server_version_num"))
    if version < 17_00_00:
        pytest.skip("PostgreSQL knows transaction_timeout since 17")
    await pg_cluster.master.sql("ALTER ROLE app SET transaction_timeout = '20ms'")
    await until_replicated(pg_cluster)
    try:
        yield pg_cluster
    finally:
        await pg_cluster.master.sql("ALTER ROLE app RESET transaction_timeout")
        await until_replicated(pg_cluster)


def shown(manager: Facade[Any, Any, Any]) -> list[tuple[str, str, bool]]:
    """Return role, health and fencing of each node, the master's first, whichever node it is."""
    return sorted((n.role.value, n.health.value, n.fencing) for n in manager.metrics().nodes)


ALL_WELL = [("master", "up", True), ("replica", "up", True), ("replica", "up", True)]


async def setting(kit: Kit, connection: Any, name: str) -> str:
    value = await kit.value(connection, f"SHOW {name}")
    return value.decode() if isinstance(value, bytes) else str(value)  # psycopg in SQL_ASCII


async def reserved(node: LocalNode, application: str) -> set[str]:
    """Return the server processes of an application's reserved connections."""
    query = (
        # The server shows only the beginning of a query: here, of either form of the probe.
        "SELECT pid FROM pg_stat_activity WHERE query ~ '(pg_is_in_recovery|pg_control_system)'"  # noqa: S608
        f" AND application_name = '{application}'"  # our own name
    )
    return set((await node.sql(query)).split())


async def test_defaults_of_role_and_database_do_not_reach_the_reserved_session(
    kit: Kit, odd_cluster: LocalCluster, application: str
) -> None:
    dsn = f"{odd_cluster.dsn}?application_name={application}"
    sizes = kit.sizes(0, 2)
    async with kit.manager(dsn, refresh_delay=0.1, pool_factory_kwargs=sizes) as manager:
        await until(lambda: shown(manager) == ALL_WELL)
        before = [await reserved(node, application) for node in odd_cluster.nodes]
        assert [len(pids) for pids in before] == [1, 1, 1]
        for _ in range(10):  # longer than the idle timeout, while probes go on
            await manager.wait_next_pool_check()
            assert shown(manager) == ALL_WELL
        assert [await reserved(node, application) for node in odd_cluster.nodes] == before


@pytest.mark.parametrize("way", ["direct", "refuses", "drops"])
async def test_a_transaction_timeout_of_the_role_ends_one_reserved_session_at_most(
    kit: Kit, limited_cluster: LocalCluster, request: pytest.FixtureRequest, way: str
) -> None:
    server: Address = limited_cluster.master
    if way != "direct":
        settings: dict[str, object] = (
            {"ignore_startup_parameters": DROPPED} if way == "drops" else {}
        )
        start: StartPgBouncer = request.getfixturevalue("pgbouncer")
        server = start(server, pool_mode="transaction", **settings)
    dsn = dsn_through(limited_cluster, server)
    driver, endpoint = kit.driver(dsn), endpoint_of(dsn)

    async def ask(*, with_settings: bool) -> None:
        session = await driver.connect(endpoint, {}, lambda: None)
        try:
            if with_settings:
                session.send_settings()
            for _ in range(2):
                await session.fetch_row(SLOW)
                assert await session.has_row(SLOW)
        finally:
            session.kill()

    code: str | None = ""
    try:
        await ask(with_settings=False)
    except Exception as error:  # noqa: BLE001  # each driver has its own
        code = driver.sqlstate(error)
    # If the login was refused, a session may know by itself which settings to make. Of PgBouncer's
    # two errors asyncpg keeps the last.
    known = {"direct": {"25P04"}, "refuses": {"", "25P04", "08P01"}, "drops": {"25P04", "08P01"}}
    assert code in known[way]
    await ask(with_settings=True)


async def test_an_idle_timeout_does_not_end_the_reserved_session(
    kit: Kit, odd_cluster: LocalCluster, application: str
) -> None:
    dsn = f"{odd_cluster.dsn}?application_name={application}"
    # The refresh delay is longer than idle_session_timeout, and nothing else causes a probe.
    async with kit.manager(
        dsn, refresh_delay=1.0, refresh_timeout=20, pool_factory_kwargs=kit.sizes(0, 2)
    ) as manager:
        await until(lambda: shown(manager) == ALL_WELL)
        before = [await reserved(node, application) for node in odd_cluster.nodes]
        await asyncio.sleep(0.6)
        assert [await reserved(node, application) for node in odd_cluster.nodes] == before


# The environment


@pytest.mark.parametrize("attributes", ["read-write", "standby"])
@pytest.mark.usefixtures("evil")
async def test_the_environment_neither_chooses_hosts_nor_sets_the_reserved_session(
    kit: Kit, pg_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, attributes: str
) -> None:
    chosen = {"PGTARGETSESSIONATTRS": attributes, "PGCLIENTENCODING": kit.odd_encoding}
    for name, value in {**ENVIRONMENT, **chosen}.items():
        monkeypatch.setenv(name, value)
    sizes = kit.sizes(1, 2)
    manager = kit.manager(pg_cluster.dsn, refresh_delay=0.1, pool_factory_kwargs=sizes)
    async with manager:
        await manager.ready(1, 2)
        assert shown(manager) == ALL_WELL
        await manager.wait_next_pool_check()
        assert shown(manager) == ALL_WELL
        async with manager.acquire_master(timeout=5) as connection:
            assert await setting(kit, connection, "port") == str(pg_cluster.master.port)
            # The application's driver uses the environment as always.
            limit = await setting(kit, connection, "lock_timeout")
            assert limit == ("5s" if kit.over_libpq else "0")
        async with manager.acquire_replica(timeout=5) as connection:
            port = int(await setting(kit, connection, "port"))
            assert port in {node.port for node in pg_cluster.replicas}


async def test_a_login_may_be_in_the_environment(
    kit: Kit, pg_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = Dsn.parse(pg_cluster.dsn)
    assert dsn.user
    assert dsn.password
    assert dsn.dbname
    monkeypatch.setenv("PGUSER", dsn.user)
    monkeypatch.setenv("PGPASSWORD", dsn.password)
    monkeypatch.setenv("PGDATABASE", dsn.dbname)
    hosts = ",".join(map(str, dsn.hosts))
    async with kit.manager(f"postgresql://{hosts}", pool_factory_kwargs=kit.sizes(1, 2)) as manager:
        await manager.ready(1, 2)
        assert shown(manager) == ALL_WELL


@pytest.mark.usefixtures("evil")
async def test_a_service_may_bring_the_login_but_chooses_no_host(
    kit: Kit, pg_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dsn = Dsn.parse(pg_cluster.dsn)
    services = tmp_path / "services"
    services.write_text(
        f"[odd]\nuser={dsn.user}\npassword={dsn.password}\ndbname={dsn.dbname}\n"
        "host=127.0.0.9\nhostaddr=127.0.0.9\nport=9\ntarget_session_attrs=read-write\n"
        f"client_encoding={kit.odd_encoding}\noptions=-c search_path=evil,pg_catalog\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    hosts = ",".join(map(str, dsn.hosts))
    address = f"postgresql://{hosts}"
    if kit.over_libpq:
        monkeypatch.setenv("PGSERVICE", "odd")
    else:
        address += "?service=odd"  # asyncpg reads only the file's name from the environment
    async with kit.manager(address, pool_factory_kwargs=kit.sizes(1, 2)) as manager:
        await manager.ready(1, 2)
        assert shown(manager) == ALL_WELL


# What the DSN says of sessions


@pytest.mark.usefixtures("evil")
async def test_settings_in_the_dsn_are_for_the_pools_alone(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    said = kit.settings_in_dsn({"search_path": "evil,pg_catalog", "lock_timeout": "5s"})
    if kit.over_libpq:
        said += f"&client_encoding={kit.odd_encoding}"
    dsn = f"{pg_cluster.dsn}?{said}&application_name={application}"
    async with kit.manager(dsn, pool_factory_kwargs=kit.sizes(1, 2)) as manager:
        await manager.ready(1, 2)
        assert shown(manager) == ALL_WELL
        async with manager.acquire_master(timeout=5) as connection:
            assert await setting(kit, connection, "lock_timeout") == "5s"
        assert [len(await reserved(node, application)) for node in pg_cluster.nodes] == [1, 1, 1]


async def test_a_setting_that_no_server_knows_fails_at_once_by_the_servers_own_words(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    said = "options=-c%20nonsense=1" if kit.over_libpq else "nonsense=1"
    manager = kit.manager(f"{pg_cluster.dsn}?{said}", pool_factory_kwargs=kit.sizes(1, 2))
    began = asyncio.get_running_loop().time()
    try:
        with pytest.raises(Exception, match='unrecognized configuration parameter "nonsense"'):
            await manager.ready(timeout=10)
            await manager.acquire_master(timeout=2)  # SQLAlchemy's pools open none before this
    finally:
        await manager.close()
    assert asyncio.get_running_loop().time() - began < 5


# Poolers, which refuse settings at the login or drop them


#: A query that takes longer than `limited_cluster` allows a transaction.
SLOW = "SELECT 1 FROM pg_catalog.pg_sleep(0.05)"
#: Settings that PgBouncer drops.
DROPPED = (
    "options,default_transaction_isolation,statement_timeout,lock_timeout,search_path,jit"
    ",idle_in_transaction_session_timeout,idle_session_timeout,extra_float_digits"
)


@pytest.mark.parametrize("drops", [False, True], ids=["refuses", "drops"])
async def test_settings_that_a_pooler_keeps_from_us_are_made_for_each_probe(
    kit: Kit, odd_cluster: LocalCluster, pgbouncer: StartPgBouncer, drops: bool
) -> None:
    settings: dict[str, object] = {"ignore_startup_parameters": DROPPED} if drops else {}
    nodes = [odd_cluster.master, odd_cluster.replicas[0]]
    poolers = [pgbouncer(node, pool_mode="transaction", **settings) for node in nodes]
    dsn = dsn_through(odd_cluster, *poolers)
    sizes = kit.sizes(0, 2)
    async with kit.manager(dsn, refresh_delay=0.1, pool_factory_kwargs=sizes) as manager:
        await until(lambda: shown(manager) == ALL_WELL[:2])
        for _ in range(5):
            await manager.wait_next_pool_check()
            assert shown(manager) == ALL_WELL[:2]
        for node in nodes:
            # The pooler's sessions are left as they were, and in no transaction.
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
                " AND state LIKE 'idle in transaction%' AND now() - state_change > '100ms'"
            )
            assert await node.sql(query) == "0"


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Run on one event loop, except for what concerns a driver and the loop."""
    del request
    return "asyncio", {"use_uvloop": False}
