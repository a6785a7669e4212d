"""Every driver follows a cluster that Patroni runs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from hasql import HostSpec
from hasql.cluster.state import Exclusion
from hasql.discovery import Discovered, PatroniDiscovery
from hasql.discovery.http import HttpClient, HttpEndpoint
from hasql.discovery.patroni_cluster import PatroniCluster as Answer
from testbed.kits import KITS
from testbed.patroni import PatroniCluster, PatroniUnavailableError, Programs
from testbed.patroni_scenes import Fault, Hosts, come_and_go, perform
from testbed.scene import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.metrics import NodeMetrics

pytestmark = pytest.mark.usefixtures("nothing_unheard")

_TASKS = 2
"""The number of writers, and of readers, for each driver. All drivers work at the same time."""

_ASYNCIO = ("asyncio", {"use_uvloop": False})
_UVLOOP = ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="module")
def patroni() -> Iterator[PatroniCluster]:
    try:
        programs = Programs.find()
    except PatroniUnavailableError as error:
        pytest.skip(str(error))
    with PatroniCluster(programs) as cluster:
        yield cluster


# A dead leader's lock lasts for 20 seconds, so each fault runs on one event loop only.
@pytest.mark.parametrize(
    ("fault", "hosts", "anyio_backend"),
    [
        pytest.param(Fault.SWITCHOVER, Hosts.DSN, _ASYNCIO, id="switchover-asyncio"),
        pytest.param(Fault.SWITCHOVER, Hosts.DSN, _UVLOOP, id="switchover-uvloop"),
        pytest.param(Fault.SWITCHOVER, Hosts.REST, _ASYNCIO, id="switchover-rest-asyncio"),
        pytest.param(Fault.SERVER_KILLED, Hosts.DSN, _ASYNCIO, id="server killed-asyncio"),
        pytest.param(Fault.LEADER_KILLED, Hosts.REST, _UVLOOP, id="leader killed-rest-uvloop"),
    ],
)
async def test_a_new_leader_is_followed_at_once_and_nothing_acknowledged_is_lost(
    patroni: PatroniCluster, fault: Fault, hosts: Hosts
) -> None:
    reports = await perform(patroni, KITS, fault, _TASKS, hosts)
    assert reports.keys() == {kit.name for kit in KITS}
    for driver, report in reports.items():
        assert report.problems == (), driver
        assert report.rows.present == report.rows.acknowledged, driver
        assert report.most_failures_of_one_task <= 1, (driver, report.errors)
        assert report.outage is not None, driver
        assert 0 <= report.outage.added_by_hasql < 1, driver


@pytest.mark.parametrize("anyio_backend", [_ASYNCIO], ids=["asyncio"], indirect=True)
async def test_members_come_and_go_under_load_without_a_failed_operation(
    patroni: PatroniCluster,
) -> None:
    scaled = await come_and_go(patroni, KITS, _TASKS)
    assert scaled.keys() == {kit.name for kit in KITS}
    for driver, seen in scaled.items():
        assert seen.failed == (), driver
        assert seen.writes >= 200, driver
        assert seen.reads > 0, driver


@pytest.mark.parametrize("anyio_backend", [_ASYNCIO], ids=["asyncio"], indirect=True)
async def test_the_next_leader_is_open_even_if_nobody_reads_from_it(
    patroni: PatroniCluster,
) -> None:
    await patroni.heal()
    old, new = patroni.leader, patroni.standby
    assert old is not None
    assert new is not None
    (kit,) = (each for each in KITS if each.name == "asyncpg")
    source = PatroniDiscovery(patroni.api_urls, interval=0.2)
    try:
        async with kit.manager(
            patroni.hostless_dsn, discovery=source, pool_factory_kwargs=kit.sizes(3, 4)
        ) as manager:
            await manager.ready(1, 2)
            await asyncio.to_thread(patroni.tag, new, noloadbalance=True)

            def node() -> NodeMetrics:
                host = HostSpec(new.host, new.port)
                return next(each for each in manager.metrics().nodes if each.host == host)

            await until(lambda: node().exclusion is Exclusion.NEVER_REPLICA)
            await until(lambda: node().pool_idle == 3)
            assert node().label == new.name
            assert manager.replica_pool_count == 1
            await asyncio.to_thread(patroni.switch_over, old, new)
            async with manager.acquire_master(timeout=20) as connection:
                assert await kit.port(connection) == new.port
    finally:
        await asyncio.to_thread(patroni.tag, new)


@pytest.mark.parametrize("anyio_backend", [_ASYNCIO], ids=["asyncio"], indirect=True)
async def test_a_real_answer_is_read(patroni: PatroniCluster) -> None:
    await patroni.heal()
    client = HttpClient(timeout=5.0)
    endpoint = HttpEndpoint.parse(patroni.api_urls[0], "the API")

    async def ask() -> Answer:
        answer = await client.get(endpoint, "/cluster")
        return Answer.read(answer.body, answer.date)

    cluster = await ask()
    assert cluster.scope == "hasql"
    assert cluster.hosts == tuple(
        Discovered(HostSpec(member.host, member.port), label=member.name)
        for member in patroni.members
    )
    assert cluster.api_urls == tuple(f"{url}/patroni" for url in patroni.api_urls)
    assert cluster.switchover_in is None
    await asyncio.to_thread(patroni.schedule_switch_over, datetime.now(UTC) + timedelta(minutes=1))
    try:
        soon = (await ask()).switchover_in
        assert soon is not None
        assert 40 < soon <= 61
    finally:
        await asyncio.to_thread(patroni.forget_switch_over)
