"""Sources ask by SQL, on real servers that have functions with the names of the clouds' own.

There is no cloud here: the functions return what the documentation of the clouds says of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hasql import HostSpec
from hasql.discovery import AuroraDiscovery, RdsDiscovery
from testbed.scene import until, until_replicated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import Kit

pytestmark = pytest.mark.usefixtures("nothing_unheard")

one_loop = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"], indirect=True
)

AURORA = """
CREATE TABLE aurora_rows (server_id text, session_id text, durable_lsn bigint,
 last_update_timestamp timestamptz, replica_lag_in_msec double precision);
CREATE FUNCTION pg_catalog.aurora_replica_status() RETURNS SETOF public.aurora_rows LANGUAGE sql
 AS 'SELECT * FROM public.aurora_rows';
GRANT SELECT ON aurora_rows TO app;
"""
RDS = """
CREATE SCHEMA rds_tools;
CREATE TABLE rds_tools.topology (id text, endpoint text, port int);
CREATE FUNCTION rds_tools.show_topology(caller text DEFAULT '')
 RETURNS SETOF rds_tools.topology LANGUAGE sql AS 'SELECT * FROM rds_tools.topology';
GRANT USAGE ON SCHEMA rds_tools TO app;
GRANT SELECT ON rds_tools.topology TO app;
"""


async def write(cluster: LocalCluster, query: str) -> None:
    """Write something, and wait until every server has it."""
    await cluster.master.sql(query)
    await until_replicated(cluster)


@pytest.fixture
async def aurora(pg_cluster: LocalCluster) -> AsyncIterator[LocalCluster]:
    await write(pg_cluster, AURORA)
    yield pg_cluster
    await write(pg_cluster, "DROP TABLE aurora_rows CASCADE")


@pytest.fixture
async def rds(pg_cluster: LocalCluster) -> AsyncIterator[LocalCluster]:
    await write(pg_cluster, RDS)
    yield pg_cluster
    await write(pg_cluster, "DROP SCHEMA rds_tools CASCADE")


def dsn_of(cluster: LocalCluster, *nodes: LocalNode) -> str:
    """Return the cluster's DSN with these hosts alone."""
    head, _, rest = cluster.dsn.partition("@")
    hosts = ",".join(f"{node.host}:{node.port}" for node in nodes)
    return f"{head}@{hosts}/{rest.partition('/')[2]}"


def spec(node: LocalNode) -> HostSpec:
    return HostSpec(node.host, node.port)


def hosts_of(manager: BasePoolManager[Any, Any]) -> set[HostSpec]:
    return {node.host for node in manager.metrics().nodes}


async def join(cluster: LocalCluster, *nodes: LocalNode) -> None:
    for node in nodes:
        await write(
            cluster,
            f"INSERT INTO rds_tools.topology VALUES ('db-{node.port}', '{node.host}', {node.port})",  # noqa: S608  # ours
        )


@one_loop
async def test_the_instances_of_rds_come_and_go(kit: Kit, rds: LocalCluster) -> None:
    source = RdsDiscovery()
    await join(rds, *rds.nodes)
    # One host is enough to begin with, even a replica.
    manager = kit.manager(
        dsn_of(rds, rds.replicas[0]), discovery=source, pool_factory_kwargs=kit.sizes(1, 2)
    )
    async with manager:
        await manager.ready(1, 2)
        assert hosts_of(manager) == set(map(spec, rds.nodes))
        labels = {node.host: node.label for node in manager.metrics().nodes}
        assert labels[spec(rds.master)] == f"db-{rds.master.port}"
        gone = rds.replicas[1]
        await write(rds, f"DELETE FROM rds_tools.topology WHERE port = {gone.port}")  # noqa: S608  # ours
        source.refresh()
        await until(lambda: spec(gone) not in hosts_of(manager))
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT 1") == 1
        await join(rds, gone)
        source.refresh()
        await until(lambda: spec(gone) in hosts_of(manager))
        discovery = manager.metrics().discovery
        assert (discovery.source, discovery.last_error) == ("RdsDiscovery", None)


@one_loop
async def test_an_instance_of_aurora_that_is_stale_is_left_out(
    kit: Kit, aurora: LocalCluster
) -> None:
    await write(
        aurora,
        """
        INSERT INTO aurora_rows VALUES
        ('pg-2', '5b7e', 1, now(), 12.5),
        ('pg-3', '6c8f', 1, now() - interval '1 hour', 9e5),
        ('pg-4', '7d90', 1, NULL, 12.5),
        ('pg-1', 'MASTER_SESSION_ID', 1, now() - interval '1 day', 0)
        """,
    )
    source = AuroraDiscovery("?.cluster.invalid", port=6432)
    manager = kit.manager(aurora.dsn, discovery=source, pool_factory_kwargs=kit.sizes(1, 2))
    async with manager:
        await manager.ready(1, 0)
        await until(lambda: manager.metrics().discovery.last_success is not None)
        assert manager.metrics().discovery.hosts == tuple(
            HostSpec(f"pg-{number}.cluster.invalid", 6432) for number in (1, 2, 4)
        )
        # None of these hosts exists, and the hosts that do serve on.
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT 1") == 1


@one_loop
async def test_an_instance_of_aurora_is_connected_to(kit: Kit, aurora: LocalCluster) -> None:
    await write(aurora, "INSERT INTO aurora_rows VALUES ('x7f', 'MASTER_SESSION_ID')")
    # 0x7f.1 is 127.0.0.1 as C may write it: the only kind of loopback name that has two labels.
    source = AuroraDiscovery("0?.1", port=aurora.master.port)
    manager = kit.manager(aurora.dsn, discovery=source, pool_factory_kwargs=kit.sizes(1, 2))
    async with manager:
        await until(lambda: hosts_of(manager) == {HostSpec("0x7f.1", aurora.master.port)})
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT 1") == 1
    await write(aurora, "DELETE FROM aurora_rows")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (lambda: AuroraDiscovery("?.xyz.invalid"), "aurora_replica_status() does not exist"),
        (RdsDiscovery, '"rds_tools" does not exist'),
    ],
    ids=["aurora", "rds"],
)
@one_loop
async def test_elsewhere_than_in_the_cloud_the_hosts_stay_and_the_reason_is_told(
    kit: Kit, pg_cluster: LocalCluster, source: Any, why: str
) -> None:
    manager = kit.manager(pg_cluster.dsn, discovery=source(), pool_factory_kwargs=kit.sizes(1, 2))
    async with manager:
        await manager.ready(1, 2)
        await until(lambda: manager.metrics().discovery.last_error is not None)
        assert why in (manager.metrics().discovery.last_error or "")
        assert hosts_of(manager) == set(map(spec, pg_cluster.nodes))


@one_loop
async def test_a_lying_row_changes_nothing(kit: Kit, aurora: LocalCluster) -> None:
    await write(aurora, "INSERT INTO aurora_rows VALUES ('evil.example', 'x')")
    source = AuroraDiscovery("?.xyz.invalid")
    manager = kit.manager(aurora.dsn, discovery=source, pool_factory_kwargs=kit.sizes(1, 2))
    async with manager:
        await manager.ready(1, 2)
        await until(lambda: manager.metrics().discovery.last_error is not None)
        error = manager.metrics().discovery.last_error or ""
        assert "'evil.example' is not the name of an instance" in error
        assert hosts_of(manager) == set(map(spec, aurora.nodes))
