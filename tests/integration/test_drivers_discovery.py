"""Hosts that come and go by a source of the application's, which asks by SQL, with every driver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.dsn import Dsn
from hasql.cluster.state import Exclusion
from hasql.discovery import Ask, Discovered, Discovery
from hasql.errors import NotAvailableError
from testbed.scene import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.cluster.host import HostSpec
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

pytestmark = pytest.mark.usefixtures("nothing_unheard")

one_loop = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"], indirect=True
)


class Scripted(Discovery):
    """A source that answers and asks what a test puts into its queue: hosts, or a question."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[HostSpec, ...] | str] = asyncio.Queue()
        self.replies: asyncio.Queue[Any] = asyncio.Queue()

    async def watch(self, ask: Ask) -> AsyncIterator[tuple[Discovered, ...]]:
        while True:
            order = await self.queue.get()
            if not isinstance(order, str):
                yield tuple(Discovered(host) for host in order)
                continue
            try:
                await self.replies.put(await ask(order))
            except Exception as error:  # noqa: BLE001  # the test looks at it
                await self.replies.put(error)

    async def ask(self, question: str) -> Any:
        await self.queue.put(question)
        async with asyncio.timeout(20):
            return await self.replies.get()


async def test_a_source_asks_the_master_by_sql_and_else_another_host(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    source, master = Scripted(), pg_cluster.master
    dsn = f"{pg_cluster.dsn}?application_name={application}"
    async with kit.manager(dsn, discovery=source, refresh_timeout=10) as manager:
        await manager.ready(1, 2)
        odd = 'a\\b\t"%s" %\n{é}'
        rows = await source.ask(
            "SELECT inet_server_port() AS port, i, NULL AS nothing, i > 1 AS more, "  # noqa: S608
            f"$odd${odd}$odd$ AS odd, current_setting('application_name') AS name "
            "FROM generate_series(1, 2) AS i ORDER BY i DESC"
        )
        same = {"port": master.port, "nothing": None, "odd": odd, "name": application}
        assert rows == [{**same, "i": 2, "more": True}, {**same, "i": 1, "more": False}]
        assert await source.ask("SELECT 1 WHERE false") == []
        # The source has one connection of its own, and its transactions end.
        pid = "SELECT pg_backend_pid() AS pid"
        [first], [second] = await source.ask(pid), await source.ask(pid)
        assert first == second
        state = f"SELECT state FROM pg_stat_activity WHERE pid = {first['pid']}"  # noqa: S608
        assert await master.sql(state) == "idle"
        # The source gets the error with which the server answers a question.
        wrong = await source.ask("SELECT nonsense")
        assert isinstance(wrong, Exception)
        assert "nonsense" in str(wrong)
        assert not isinstance(wrong, NotAvailableError)
        assert await source.ask("SELECT 1 AS one") == [{"one": 1}]
        # No other host is asked merely because that connection has ended.
        await master.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # noqa: S608
            f"WHERE application_name = '{application}' AND query LIKE '%asked%'"
        )
        [row] = await source.ask("SELECT inet_server_port() AS port")
        assert row["port"] == master.port


async def test_a_source_asks_another_host_while_the_master_is_silent(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    source, master = Scripted(), pg_cluster.master
    async with kit.manager(pg_cluster.dsn, discovery=source, refresh_timeout=0.5) as manager:
        await manager.ready(1, 2)
        master.freeze()
        async with asyncio.timeout(20):  # half a second is short for the others, too
            while isinstance(
                answer := await source.ask("SELECT inet_server_port() AS port"), NotAvailableError
            ):
                pass
        [row] = answer
        assert row["port"] in {replica.port for replica in pg_cluster.nodes} - {master.port}
        for node in pg_cluster.nodes:
            node.freeze()
        error = await source.ask("SELECT 1")
        assert isinstance(error, NotAvailableError)
        assert "no host has answered" in str(error)
        for node in pg_cluster.nodes:
            node.thaw()


@one_loop
async def test_a_manager_that_names_no_host_waits_for_its_source(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    class Waiting(Discovery):
        answer = asyncio.Event()

        async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
            await self.answer.wait()
            yield tuple(map(Discovered, dsn.hosts))

    dsn, source = Dsn.parse(pg_cluster.dsn), Waiting()
    without_hosts = f"postgresql://{dsn.user}:{dsn.password}@/{dsn.dbname}"
    manager = kit.manager(without_hosts, discovery=source, pool_factory_kwargs=kit.sizes(1, 2))
    with pytest.raises(NotAvailableError, match="Waiting has not answered yet"):
        await manager.acquire_master(timeout=0.1)
    source.answer.set()
    async with manager:
        await manager.ready(1, 2)
        async with manager.acquire_master() as connection:
            assert await kit.port(connection) == pg_cluster.master.port


async def test_a_host_that_leaves_lets_its_leases_finish_and_nothing_of_it_is_left(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    source = Scripted()
    hosts, sizes = Dsn.parse(pg_cluster.dsn).hosts, kit.sizes(1, 3)
    by_port = {node.port: node for node in pg_cluster.nodes}
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{application}'"  # noqa: S608
    async with kit.manager(
        f"{pg_cluster.dsn}?application_name={application}",
        discovery=source,
        refresh_delay=0.2,
        lease_abort_after=0.3,
        pool_factory_kwargs=sizes,
    ) as manager:
        await manager.ready(1, 2)
        async with manager.acquire_replica() as connection:
            left = await kit.port(connection)
            working = asyncio.ensure_future(kit.value(connection, "SELECT pg_sleep(1) IS NULL"))
            await source.queue.put(tuple(host for host in hosts if host.port != left))
            await until(lambda: manager.metrics().nodes[-1].exclusion is Exclusion.LEAVING)
            for _ in range(5):
                async with manager.acquire_replica() as other:
                    assert await kit.port(other) != left
            assert await working is False  # after more than lease_abort_after
        await until(lambda: len(manager.metrics().nodes) == 2)
        async with asyncio.timeout(10):
            while await by_port[left].sql(sessions) != "0":
                await asyncio.sleep(0.01)
        await source.queue.put(hosts)
        await manager.ready(1, 2)
        await until(lambda: manager.replica_pool_count == 2)
