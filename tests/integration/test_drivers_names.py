"""Names that move, over every driver: a real nameserver, and real servers at several addresses."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from hasql import NotAvailableError
from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec
from hasql.discovery import Discovered, Discovery
from hasql.dns import Resolver
from testbed.certificates import Authority
from testbed.middlemen.addresses import Place
from testbed.middlemen.forwarder import Forwarder
from testbed.moving_server import MovingServer, moving_server
from testbed.nameserver import Fault, NameServer
from testbed.scene import fail_over, until
from tests.middlemen import needs_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from hasql.base import BasePoolManager
    from hasql.discovery import Ask
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.scene import Table

    Manager = BasePoolManager[Any, Any]

#: A name that only the nameserver of these tests knows.
NAME = "db.example.test"
ADDRESSES = "127.0.0.21", "127.0.0.22"
WHICH = "SELECT host(inet_server_addr())"

pytestmark = [pytest.mark.usefixtures("nothing_unheard"), pytest.mark.xdist_group("names")]


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop; the other files run on each."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    with NameServer() as server:
        server.set(NAME, ADDRESSES[0])
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[MovingServer]:
    with moving_server(*ADDRESSES) as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    needs_tls()
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[MovingServer]:
    with moving_server(*ADDRESSES, certificate=authority.issue(f"DNS:{NAME}")) as server:
        yield server


def resolver(nameserver: NameServer) -> Resolver:
    """Make a resolver that knows nothing but what the nameserver tells."""
    return Resolver(nameservers=[nameserver.address], fallback=False, timeout=1)


def dsn_of(server: MovingServer, query: str = "", name: str = NAME) -> str:
    return f"postgresql://{server.user}:{server.password}@{name}:{server.port}/app{query}"


@asynccontextmanager
async def following(
    kit: Kit, nameserver: NameServer, dsn: str, **kwargs: Any
) -> AsyncIterator[Manager]:
    manager = kit.manager(dsn, resolver=resolver(nameserver), acquire_timeout=5, **kwargs)
    async with manager:
        await manager.ready(1, 0)
        yield manager


async def leads_to(kit: Kit, manager: Manager) -> str:
    async with manager.acquire_master() as connection:
        address = await kit.value(connection, WHICH)
        assert isinstance(address, str)
        return address


async def test_a_record_is_repointed_under_load_and_no_statement_fails(
    kit: Kit, server: MovingServer, nameserver: NameServer
) -> None:
    """Once a lease leads to the new address, no later one leads to the old."""
    seen: list[tuple[float, str]] = []

    stopping = asyncio.Event()

    async def work(manager: Manager) -> None:
        while not stopping.is_set():
            async with manager.acquire_master() as connection:
                began = monotonic()
                seen.append((began, await kit.value(connection, WHICH)))

    async with following(kit, nameserver, dsn_of(server)) as manager:
        async with asyncio.TaskGroup() as group:  # an error in any of them fails the test
            for _ in range(4):
                group.create_task(work(manager))
            await until(lambda: len(seen) > 50)
            assert {address for _, address in seen} == {ADDRESSES[0]}
            nameserver.set(NAME, ADDRESSES[1])
            await until(lambda: [address for _, address in seen].count(ADDRESSES[1]) > 50)
            stopping.set()
        moved = min(began for began, address in seen if address == ADDRESSES[1])
        assert max(began for began, address in seen if address == ADDRESSES[0]) < moved


async def test_the_certificate_is_checked_against_the_name(
    kit: Kit, tls_server: MovingServer, authority: Authority, nameserver: NameServer
) -> None:
    query = f"?sslmode=verify-full&sslrootcert={authority.certificate}"
    encrypted = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    async with following(kit, nameserver, dsn_of(tls_server, query)) as manager:
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, encrypted) == "true"
        nameserver.set(NAME, ADDRESSES[1])
        async with asyncio.timeout(20):
            while await leads_to(kit, manager) != ADDRESSES[1]:
                await asyncio.sleep(0.05)
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, encrypted) == "true"


async def test_a_certificate_of_another_name_is_refused(
    kit: Kit, tls_server: MovingServer, authority: Authority, nameserver: NameServer
) -> None:
    nameserver.set("other.example.test", ADDRESSES[0])
    query = f"?sslmode=verify-full&sslrootcert={authority.certificate}"
    dsn = dsn_of(tls_server, query, name="other.example.test")
    manager = kit.manager(dsn, resolver=resolver(nameserver))
    try:
        with pytest.raises(Exception, match=r"(?i)certificate.* not (valid|match)") as raised:
            await manager.ready(timeout=20)
        assert not isinstance(raised.value, NotAvailableError)
    finally:
        await manager.close()


async def test_a_password_is_found_under_the_name(
    kit: Kit, server: MovingServer, nameserver: NameServer, tmp_path: Path
) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"{NAME}:{server.port}:*:{server.user}:{server.password}\n")
    file.chmod(0o600)
    dsn = f"postgresql://{server.user}@{NAME}:{server.port}/app?passfile={file}"
    async with following(kit, nameserver, dsn) as manager:
        assert await leads_to(kit, manager) == ADDRESSES[0]


async def test_a_nameserver_that_is_away_delays_and_fails_nothing(
    kit: Kit, server: MovingServer, nameserver: NameServer
) -> None:
    async with following(kit, nameserver, dsn_of(server)) as manager:
        nameserver.fail(Fault.SILENT)
        asked = nameserver.count(NAME)
        await until(lambda: nameserver.count(NAME) > asked + 1)
        # A manager keeps the last answer, so the grace of half a minute does not matter to it.
        async with asyncio.timeout(1):
            leases = [await manager.acquire_master() for _ in range(2)]
        for connection in leases:
            assert await kit.value(connection, WHICH) == ADDRESSES[0]
            await manager.release(connection)
        nameserver.heal()
        nameserver.set(NAME, ADDRESSES[1])
        async with asyncio.timeout(20):
            while await leads_to(kit, manager) != ADDRESSES[1]:
                await asyncio.sleep(0.05)


async def test_a_name_that_follows_a_failover_leads_to_the_new_master(
    kit: Kit, pg_cluster: LocalCluster, nameserver: NameServer, table: Table
) -> None:
    """Kubernetes or an HA manager moves the name of a service like this, with a TTL of a minute."""
    master, standby = pg_cluster.master, pg_cluster.replicas[0]
    login = Dsn.parse(pg_cluster.dsn)
    async with (
        Forwarder(Place(master.host, master.port), listen="127.0.0.23") as old,
        Forwarder(Place(standby.host, standby.port), listen="127.0.0.24", listen_port=old.port),
    ):
        nameserver.set(NAME, "127.0.0.23", ttl=60)
        dsn = f"postgresql://{login.user}:{login.password}@{NAME}:{old.port}/app"
        async with following(kit, nameserver, dsn) as manager:
            await fail_over(pg_cluster)
            # The forwarder may not have passed on the last message of the killed server yet.
            await until(lambda: manager.master_pool_count == 0)
            nameserver.set(NAME, "127.0.0.24", ttl=60)
            async with manager.acquire_master(timeout=20) as connection:
                assert await kit.port(connection) == standby.port
                await kit.write(connection, table.insert(1))


class AsksWhere(Discovery):
    """A source that asks, again and again, at which address it reaches the server."""

    def __init__(self, server: MovingServer) -> None:
        self.seen: list[str] = []
        self._host = HostSpec(NAME, server.port)

    async def watch(self, ask: Ask) -> AsyncIterator[tuple[Discovered, ...]]:
        while True:
            [row] = await ask("SELECT host(inet_server_addr()) AS address")
            self.seen.append(row["address"])
            yield (Discovered(self._host),)
            await asyncio.sleep(0.02)


async def test_a_source_that_asks_by_sql_is_answered_at_the_new_address(
    kit: Kit, server: MovingServer, nameserver: NameServer
) -> None:
    source = AsksWhere(server)
    async with following(kit, nameserver, dsn_of(server), discovery=source):
        await until(lambda: ADDRESSES[0] in source.seen)
        nameserver.set(NAME, ADDRESSES[1])
        await until(lambda: source.seen[-1] == ADDRESSES[1])


async def test_a_name_that_does_not_exist_is_named_in_the_error(
    kit: Kit, server: MovingServer, nameserver: NameServer
) -> None:
    manager = kit.manager(
        dsn_of(server, name="nowhere.example.test"), resolver=resolver(nameserver)
    )
    try:
        with pytest.raises(NotAvailableError, match=r"nowhere\.example\.test"):
            await manager.ready(1, 0, timeout=1)
    finally:
        await manager.close()


@pytest.mark.parametrize("followed", [True, False])
def test_what_is_no_resolver_is_refused(kit: Kit, followed: bool) -> None:
    with pytest.raises(TypeError, match=r"must be a hasql\.dns\.Resolver, not str"):
        kit.manager("postgresql://db1/app", resolver="10.0.0.2", follow_names=followed)
