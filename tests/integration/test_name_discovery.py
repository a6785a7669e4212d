"""Hosts that a real nameserver names are found and followed, under load on real servers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from hasql import HostSpec
from hasql.cluster.dsn import Dsn
from hasql.discovery import Discovered, Discovery, DnsDiscovery, PatroniDiscovery, SrvDiscovery
from hasql.dns import Resolver
from hasql.errors import NameResolutionError
from hasql.testing import LocalCluster
from testbed.http_server import HttpServer, answers, hangs
from testbed.kits import KITS
from testbed.middlemen.forwarder import Forwarder
from testbed.nameserver import Fault, NameServer
from testbed.scene import Table, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from hasql.base import BasePoolManager
    from hasql.testing import LocalNode
    from testbed.kits.base import Kit

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")

NAME, SERVICE = "db.example.test", "_postgresql._tcp.db.example.test"

one_loop = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"], indirect=True
)
each_source = pytest.mark.parametrize("kind", ["dns", "srv"])


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    with NameServer() as server:
        yield server


@pytest.fixture
def resolver(nameserver: NameServer) -> Resolver:
    return Resolver(
        nameservers=[nameserver.address], timeout=5, max_retries=1, grace_ttl=0, fallback=False
    )


def without_hosts(cluster: LocalCluster) -> str:
    dsn = Dsn.parse(cluster.dsn)
    return f"postgresql://{dsn.user}:{dsn.password}@/{dsn.dbname}"


def watching(source: Discovery) -> aclosing[AsyncGenerator[tuple[Discovered, ...], None]]:
    return aclosing(cast("AsyncGenerator[tuple[Discovered, ...], None]", source.watch()))


async def first_of(source: Discovery) -> tuple[Discovered, ...]:
    async with watching(source) as watched:
        return await anext(watched)


# What the sources make of an answer


async def test_every_address_of_a_name_is_a_host_with_the_name(
    nameserver: NameServer, resolver: Resolver
) -> None:
    nameserver.set(NAME, "127.0.0.10", "127.0.0.9", "::1")
    hosts = await first_of(DnsDiscovery(NAME, 6432, resolver=resolver))
    assert hosts == tuple(
        Discovered(HostSpec(NAME, 6432, address))
        for address in ("127.0.0.9", "127.0.0.10", "::1")
    )  # fmt: skip


async def test_an_answer_that_rotates_is_the_same_answer(
    nameserver: NameServer, resolver: Resolver
) -> None:
    nameserver.set(NAME, "127.0.0.1", "127.0.0.2", ttl=0)
    async with watching(DnsDiscovery(NAME, resolver=resolver)) as watched:
        before = await anext(watched)
        nameserver.set(NAME, "127.0.0.2", "127.0.0.1", ttl=0)
        assert await anext(watched) == before


async def test_targets_have_their_ports_priorities_and_weights(
    nameserver: NameServer, resolver: Resolver
) -> None:
    nameserver.set_srv(
        SERVICE, (20, 0, 5434, "pg3.example.test"), (10, 60, 5432, "pg1.example.test"),
        (10, 20, 5433, "PG2.db.example.test"),
    )  # fmt: skip
    assert await first_of(SrvDiscovery(NAME, resolver=resolver)) == (
        Discovered(HostSpec("pg1.example.test", 5432), priority=10, weight=60),
        Discovered(HostSpec("pg2.db.example.test", 5433), priority=10, weight=20),
        Discovered(HostSpec("pg3.example.test", 5434), priority=20, weight=0),
    )


@pytest.mark.parametrize(
    ("name", "target", "trusted"),
    [
        ("db.example.com", "pg.example.com", True),
        ("db.example.com", "example.com", True),
        ("db.example.com", "pg.evil.org", False),
        ("db.example.com", "pg.evilexample.com", False),
        ("db.example.com", "10.0.0.1", False),
        # Where anybody may register names, only names below the name itself are allowed.
        ("example.com", "pg.example.com", True),
        ("example.com", "evil.com", False),
        ("example.co.uk", "pg.example.co.uk", True),
        ("example.co.uk", "evil.co.uk", False),
        ("db.internal", "pg.internal", True),
        ("db", "pg.db", True),
        ("db", "pg", False),
        # In Kubernetes.
        ("pg.shop.svc.cluster.local", "pg-0.pg.shop.svc.cluster.local", True),
        ("pg.shop.svc.cluster.local", "pg-0.pg.evil.svc.cluster.local", False),
    ],
)
@one_loop
async def test_17_targets_outside_of_the_names_domain_are_refused_unless_they_are_allowed(
    nameserver: NameServer, resolver: Resolver, name: str, target: str, *, trusted: bool
) -> None:
    nameserver.set_srv(f"_postgresql._tcp.{name}", (0, 0, 5432, target))
    expected = (Discovered(HostSpec(target, 5432), weight=0),)
    source = SrvDiscovery(name, resolver=resolver)
    if trusted:
        assert await first_of(source) == expected
        return
    with pytest.raises(NameResolutionError, match="allowed_domains="):
        await first_of(source)
    allowing = SrvDiscovery(
        name, resolver=resolver, allowed_domains=[target.partition(".")[2] or target]
    )
    assert await first_of(allowing) == expected


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.NXDOMAIN, Fault.EMPTY, Fault.GARBAGE])
@each_source
@one_loop
async def test_17_what_is_no_answer_is_an_error_that_names_the_name(
    nameserver: NameServer, resolver: Resolver, kind: str, fault: Fault
) -> None:
    nameserver.set(NAME, "127.0.0.1")
    nameserver.set_srv(SERVICE, (0, 0, 5432, "pg.example.test"))
    nameserver.fail(fault)
    made = {"dns": DnsDiscovery, "srv": SrvDiscovery}[kind](NAME, resolver=resolver)
    with pytest.raises(NameResolutionError, match=NAME):
        await first_of(made)


@pytest.mark.parametrize("target", [(0, 0, 0, "pg.example.test"), (0, 0, 5432, "")])
@one_loop
async def test_17_a_malformed_record_is_no_answer(
    nameserver: NameServer, resolver: Resolver, target: tuple[int, int, int, str]
) -> None:
    nameserver.set_srv(SERVICE, target, (0, 0, 5432, "pg.example.test"))
    with pytest.raises(NameResolutionError):
        await first_of(SrvDiscovery(NAME, resolver=resolver))


@each_source
async def test_a_source_that_is_refreshed_looks_again_at_once(
    nameserver: NameServer, resolver: Resolver, kind: str
) -> None:
    nameserver.set(NAME, "127.0.0.1", ttl=3600)
    nameserver.set_srv(SERVICE, (0, 0, 5432, "pg.example.test"), ttl=3600)
    made = {"dns": DnsDiscovery, "srv": SrvDiscovery}[kind](NAME, resolver=resolver)
    made.refresh()  # before anybody watches
    async with watching(made) as watched:
        before = await anext(watched)
        nameserver.set(NAME, "127.0.0.2", ttl=3600)
        nameserver.set_srv(SERVICE, (0, 0, 5433, "pg.example.test"), ttl=3600)
        following = asyncio.ensure_future(anext(watched))
        async with asyncio.timeout(10):
            while not following.done():
                made.refresh()
                await asyncio.sleep(0.1)
            while following.result() == before:  # it asks once a second at most
                following = asyncio.ensure_future(anext(watched))
                while not following.done():
                    made.refresh()
                    await asyncio.sleep(0.1)
        assert following.result() != before


# Ten servers


@pytest.fixture(scope="module")
def ten() -> Iterator[LocalCluster]:
    with LocalCluster(replicas=9) as cluster:
        yield cluster


class Load:
    """Tasks that write and read; none of their operations may fail."""

    def __init__(self, kit: Kit, manager: Manager, table: Table, *, may_lose: bool = False) -> None:
        self._kit, self._manager, self._table = kit, manager, table
        #: Errors that are allowed: those of statements in flight when the master is shut down.
        self._lost = (*kit.lost, kit.refused_statement) if may_lose else ()
        self._tasks: list[asyncio.Task[None]] = []
        self._number = 0
        self.writes = 0
        #: How often each port has answered.
        self.reads: Counter[int] = Counter()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._write()) for _ in range(2)]
        self._tasks += [asyncio.ensure_future(self._read()) for _ in range(6)]
        return self

    async def __aexit__(self, *_: object) -> None:
        failed = [task.exception() for task in self._tasks if task.done()]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert failed == []

    async def _write(self) -> None:
        while True:
            self._number += 1
            with suppress(*self._lost):
                async with self._manager.acquire_master() as connection:
                    insert = f"{self._table.insert(self._number)} RETURNING i"
                    await self._kit.value(connection, insert)
                self.writes += 1
            await asyncio.sleep(0.002)

    async def _read(self) -> None:
        while True:
            with suppress(*self._lost):
                async with self._manager.acquire_replica(fallback_master=True) as connection:
                    self.reads[await self._kit.port(connection)] += 1
            await asyncio.sleep(0.002)


@pytest.fixture
async def numbers(ten: LocalCluster) -> AsyncIterator[Table]:
    await ten.master.sql("CREATE TABLE IF NOT EXISTS numbers (i int); GRANT ALL ON numbers TO app")
    yield Table("numbers")
    await ten.master.sql("DROP TABLE numbers")


two_drivers = pytest.mark.parametrize(
    "driver",
    [kit for kit in KITS if kit.name in {"asyncpg", "psycopg3"}],
    ids=lambda kit: kit.name,
)


class Members:
    """Some of ten servers, named by SRV at their ports, or by DNS at addresses of their own.

    Or an imitation of Patroni's REST API names them; test_patroni.py has a real one.
    """

    def __init__(self, kind: str, nameserver: NameServer, servers: list[LocalNode]) -> None:
        self._kind, self._nameserver, self._servers = kind, nameserver, servers
        self._ways: list[Forwarder] = []
        self._api = HttpServer(hangs)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._api)
        port = 0
        for number, server in enumerate(self._servers if self._kind == "dns" else (), 1):
            way = Forwarder(server, listen=f"127.0.2.{number}", listen_port=port)
            self._ways.append(await self._stack.enter_async_context(way))
            port = way.port
        self.are(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def are(self, number: int) -> None:
        """Make the first so many servers the members."""
        targets = [(0, 1, server.port, "localhost") for server in self._servers[:number]]
        self._nameserver.set_srv(SERVICE, *targets)
        self._nameserver.set(NAME, *(way.host for way in self._ways[:number]))
        named = [
            {"name": f"pg-{server.port}", "host": server.host, "port": server.port}
            for server in self._servers[:number]
        ]
        self._api.behaviour = answers({"members": named})

    def source(self, resolver: Resolver) -> Discovery:
        """Make the source that asks for the members."""
        if self._kind == "dns":
            return DnsDiscovery(NAME, self._ways[0].port, resolver=resolver)
        if self._kind == "rest":
            return PatroniDiscovery([self._api.url], interval=0.5)
        return SrvDiscovery(NAME, resolver=resolver, allowed_domains=["localhost"])


@pytest.fixture
async def members(
    request: pytest.FixtureRequest, ten: LocalCluster, nameserver: NameServer
) -> AsyncIterator[Members]:
    async with Members(request.param, nameserver, [*ten.nodes]) as members:
        yield members


@two_drivers
@pytest.mark.parametrize("members", ["dns", "srv", "rest"], indirect=True)
@one_loop
async def test_ten_members_come_and_go_under_load_without_a_failed_operation(
    driver: Kit, ten: LocalCluster, numbers: Table, members: Members, resolver: Resolver
) -> None:
    sizes = driver.sizes(1, 4)
    async with (
        driver.manager(
            without_hosts(ten), discovery=members.source(resolver), pool_factory_kwargs=sizes
        ) as manager,
        Load(driver, manager, numbers) as load,
    ):
        for number in (1, 4, 10, 6, 1):
            members.are(number)
            await until(lambda: len(manager.metrics().nodes) == number)  # noqa: B023  # at once
            await until(lambda: manager.available_pool_count == number)  # noqa: B023
            writes, load.reads = load.writes, Counter()
            ports = {server.port for server in ten.nodes[min(1, number - 1) : number]}
            await until(lambda: ports <= {*load.reads} and load.writes > writes)  # noqa: B023
        assert {*load.reads} == {ten.nodes[0].port}
        assert manager.metrics().role_changes == 0
        assert manager.metrics().discovery.last_error is None


@one_loop
async def test_members_are_replaced_under_load_and_the_master_goes_last(
    ten: LocalCluster, numbers: Table, nameserver: NameServer, resolver: Resolver
) -> None:
    [kit] = [kit for kit in KITS if kit.name == "asyncpg"]

    def name(*servers: LocalNode) -> None:
        nameserver.set_srv(SERVICE, *((0, 1, each.port, "localhost") for each in servers))

    def hosts(manager: Manager) -> list[int]:
        return [node.host.port for node in manager.metrics().nodes]

    old, new = ten.master, ten.replicas[0]
    others = [node for node in ten.replicas if node is not new]
    name(old, *others[:2])
    source = SrvDiscovery(NAME, resolver=resolver, allowed_domains=["localhost"])
    async with (
        kit.manager(without_hosts(ten), discovery=source, acquire_timeout=10) as manager,
        Load(kit, manager, numbers, may_lose=True) as load,
    ):
        await manager.ready(1, 2)
        name(new, *others[2:4])
        ports = [node.port for node in (*others[2:4], new)]
        await until(
            lambda: sorted(hosts(manager)[:3]) == sorted(ports) and len(hosts(manager)) == 4
        )
        assert hosts(manager)[3] == old.port  # no other node is a master
        writes = load.writes
        await until(lambda: load.writes > writes)
        await ten.switchover(new)
        await until(lambda: sorted(hosts(manager)) == sorted(ports))
        writes = load.writes
        await until(lambda: load.writes > writes)
    await ten.switchover(old)


@one_loop
async def test_a_dsn_with_srv_leads_by_names_that_the_managers_resolver_knows(
    kit: Kit, pg_cluster: LocalCluster, nameserver: NameServer, resolver: Resolver
) -> None:
    dsn = Dsn.parse(pg_cluster.dsn)
    for number, node in enumerate(pg_cluster.nodes):
        nameserver.set(f"pg{number}.example.test", node.host)
    nameserver.set_srv(
        SERVICE,
        *((0, 1, x.port, f"pg{number}.example.test") for number, x in enumerate(pg_cluster.nodes)),
    )
    # SQLAlchemy needs the name of its driver in the place of srv; the other drivers read both.
    for text in ("+srv://{}", "://{}?discovery=srv"):
        url = "postgresql" + text.format(f"{dsn.user}:{dsn.password}@{NAME}/{dsn.dbname}")
        sizes = kit.sizes(1, 2)
        async with kit.manager(url, resolver=resolver, pool_factory_kwargs=sizes) as manager:
            await manager.ready(1, 2)
            hosts = [str(node.host) for node in manager.metrics().nodes]
            assert hosts == [f"pg{i}.example.test:{x.port}" for i, x in enumerate(pg_cluster.nodes)]
            async with manager.acquire_master() as connection:
                assert await kit.port(connection) == pg_cluster.master.port
            assert "srv" in repr(manager)


@one_loop
async def test_17_a_nameserver_that_is_away_changes_nothing(
    pg_cluster: LocalCluster,
    nameserver: NameServer,
    resolver: Resolver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    [kit] = [kit for kit in KITS if kit.name == "asyncpg"]
    nameserver.set_srv(SERVICE, *((0, 1, node.port, "localhost") for node in pg_cluster.nodes))
    source = SrvDiscovery(NAME, resolver=resolver, allowed_domains=["localhost"])
    async with kit.manager(without_hosts(pg_cluster), discovery=source) as manager:
        await manager.ready(1, 2)
        with caplog.at_level(logging.WARNING, "hasql"):
            nameserver.stop()
            await until(lambda: manager.metrics().discovery.last_error is not None)
            error = manager.metrics().discovery.last_error
            assert error is not None
            assert SERVICE in error
            assert (manager.master_pool_count, manager.replica_pool_count) == (1, 2)
            async with manager.acquire_master() as connection:
                assert await kit.port(connection) == pg_cluster.master.port
            nameserver.start()
            await until(lambda: manager.metrics().discovery.last_error is None)
        said = [x.getMessage() for x in caplog.records if "SrvDiscovery" in x.getMessage()]
        assert len(said) == 1
