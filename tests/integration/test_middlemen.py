"""The middlemen of the tests, PgBouncer and HAProxy among them, do what the tests rely on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from testbed.middlemen.addresses import dsn_through
from testbed.middlemen.forwarder import Forwarder
from testbed.scene import fail_over, until

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.middlemen.addresses import Address
    from tests.middlemen import StartHAProxy, StartPgBouncer

_PORT = "SELECT inet_server_port()"


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: middlemen in other processes do the same on any."""
    return "asyncio", {"use_uvloop": False}


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
async def test_a_pooler_moves_to_another_server_once_its_clients_let_go(
    pg_cluster: LocalCluster, pgbouncer: StartPgBouncer, pool_mode: str
) -> None:
    first, second = pg_cluster.nodes[:2]
    pooler = pgbouncer(first, pool_mode="session" if pool_mode == "session" else "transaction")
    dsn = dsn_through(pg_cluster, pooler)
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    assert await connection.fetchval(_PORT) == first.port
    await pooler.point_to(second)
    assert await connection.fetchval(_PORT) == (first if pool_mode == "session" else second).port
    await connection.close()
    again = await asyncpg.connect(dsn, statement_cache_size=0)
    assert await again.fetchval(_PORT) == second.port
    await again.close()


async def test_a_pooler_that_cuts_moves_at_once(
    pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    first, second = pg_cluster.nodes[:2]
    pooler = pgbouncer(first)
    connection = await asyncpg.connect(dsn_through(pg_cluster, pooler))
    await pooler.point_to(second, cut=True)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        await connection.fetchval(_PORT)
    again = await asyncpg.connect(dsn_through(pg_cluster, pooler))
    assert await again.fetchval(_PORT) == second.port
    await again.close()


async def test_a_pooler_keeps_to_the_size_it_is_given(
    pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(pg_cluster.master, default_pool_size=1, query_wait_timeout=1)
    dsn = dsn_through(pg_cluster, pooler)
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval(_PORT) == pg_cluster.master.port
    # The pooler answers a login by itself: it knows what the server would say.
    waiting = await asyncpg.connect(dsn)
    with pytest.raises(asyncpg.PostgresError, match="query_wait_timeout"):
        await waiting.fetchval(_PORT)
    (pool,) = [row for row in await pooler.console("SHOW POOLS") if row["database"] == "app"]
    assert (pool["sv_active"], pool["cl_active"]) == (1, 1)
    await connection.close()


async def test_a_pooler_says_on_of_a_server_that_was_promoted_until_told_to_reconnect(
    pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    server = pg_cluster.replicas[0]
    poolers = {}
    for pool_mode in ("session", "transaction"):
        session = pool_mode == "session"
        poolers[pool_mode] = pgbouncer(server, pool_mode="session" if session else "transaction")
    before = {mode: await _connect(pg_cluster, pooler) for mode, pooler in poolers.items()}
    assert {await _flag(connection) for connection in before.values()} == {"on"}
    await server.promote()
    # The promotion is told only to a session that has a server connection of its own since before.
    assert await _flag(before["session"]) == "off"
    assert await _flag(before["transaction"]) == "on"
    for mode, pooler in poolers.items():
        new = await _connect(pg_cluster, pooler)
        assert await _flag(new) == "on"
        await pooler.console("RECONNECT app")
        # A new login is told the new value; a client that logged in before is told nothing.
        newest = await _connect(pg_cluster, pooler)
        assert await _flag(newest) == "off"
        assert await _flag(new) == "on"
        for connection in (before[mode], new, newest):
            await connection.close()


async def _connect(cluster: LocalCluster, pooler: Address) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(dsn_through(cluster, pooler), statement_cache_size=0)


async def _flag(connection: asyncpg.Connection[asyncpg.Record]) -> str | None:
    """Return the flag that was told with an answer, or before."""
    await connection.execute("SELECT 1")
    flag: str | None = connection.get_settings().in_hot_standby
    return flag


@pytest.mark.parametrize("cut", [True, False])
async def test_a_service_leads_to_the_master_and_to_the_replicas(
    pg_cluster: LocalCluster, haproxy: StartHAProxy, cut: bool
) -> None:
    service = haproxy(cut=cut)
    master, replicas = pg_cluster.master, pg_cluster.replicas
    assert service.leads("rw") == {master.name}
    assert service.leads("r") == {node.name for node in replicas}
    connection = await asyncpg.connect(dsn_through(pg_cluster, service.rw))
    assert await connection.fetchval(_PORT) == master.port
    found = set()
    for _ in replicas:
        reader = await asyncpg.connect(dsn_through(pg_cluster, service.r))
        found.add(await reader.fetchval(_PORT))
        await reader.close()
    assert found == {node.port for node in replicas}
    await connection.close()


@pytest.mark.parametrize("cut", [True, False])
async def test_a_service_follows_a_promotion_and_cuts_or_lets_be(
    pg_cluster: LocalCluster, haproxy: StartHAProxy, cut: bool
) -> None:
    service = haproxy(cut=cut)
    replica, other = pg_cluster.replicas
    reader = await asyncpg.connect(dsn_through(pg_cluster, service.r))
    # Replicas serve in turn: connect until the one to be promoted is behind the connection.
    while await reader.fetchval(_PORT) != replica.port:
        await reader.close()
        reader = await asyncpg.connect(dsn_through(pg_cluster, service.r))
    await replica.promote()
    await service.until_leads("r", other)
    if cut:
        await until(reader.is_closed)
    else:
        assert await reader.fetchval("SELECT pg_is_in_recovery()") is False
        await reader.close()


async def test_a_service_follows_a_failover(
    pg_cluster: LocalCluster, haproxy: StartHAProxy
) -> None:
    service = haproxy()
    _, new = await fail_over(pg_cluster)
    await service.until_leads("rw", new)
    connection = await asyncpg.connect(dsn_through(pg_cluster, service.rw))
    assert await connection.fetchval(_PORT) == new.port
    await connection.close()


async def test_an_address_is_turned_with_and_without_a_cut(pg_cluster: LocalCluster) -> None:
    first, second, third = pg_cluster.nodes
    async with Forwarder(first) as service:
        dsn = dsn_through(pg_cluster, service)
        kept = await asyncpg.connect(dsn)
        service.turn(second)
        later = await asyncpg.connect(dsn)
        assert await kept.fetchval(_PORT) == first.port
        assert await later.fetchval(_PORT) == second.port
        service.turn(third, cut=True)
        await until(lambda: kept.is_closed() and later.is_closed())
        last = await asyncpg.connect(dsn)
        assert await last.fetchval(_PORT) == third.port
        await last.close()


async def test_an_address_leads_to_several_servers_in_turn(pg_cluster: LocalCluster) -> None:
    async with Forwarder(*pg_cluster.nodes) as service:
        found = []
        for _ in range(4):
            connection = await asyncpg.connect(dsn_through(pg_cluster, service))
            found.append(await connection.fetchval(_PORT))
            await connection.close()
        ports = [node.port for node in pg_cluster.nodes]
        assert found == [*ports, ports[0]]


async def test_middle_men_stand_one_before_another(
    pg_cluster: LocalCluster, haproxy: StartHAProxy, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(haproxy().rw, pool_mode="transaction")
    connection = await asyncpg.connect(dsn_through(pg_cluster, pooler), statement_cache_size=0)
    assert await connection.fetchval(_PORT) == pg_cluster.master.port
    await connection.close()


async def test_nothing_is_left_of_them(
    pg_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.middlemen import needs

    needs("haproxy", "pgbouncer")
    from testbed.middlemen.haproxy import HAProxy
    from testbed.middlemen.pgbouncer import PgBouncer

    # Not the directory of pytest: the path of a socket must be short.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o711)
        monkeypatch.setattr("tempfile.tempdir", name)
        with (
            PgBouncer(pg_cluster, pg_cluster.master) as pooler,
            HAProxy(pg_cluster.nodes) as service,
        ):
            assert len(list(place.iterdir())) == 2
            ports = [pooler.port, service.rw.port]
        assert list(place.iterdir()) == []
    for port in ports:
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncpg.connect(f"postgresql://app@127.0.0.1:{port}/app")
