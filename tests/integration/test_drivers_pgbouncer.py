"""The drivers' suite once more, in short, with a PgBouncer before each server.

There is session pooling, with statements prepared as each driver does by default and with none
prepared, and transaction pooling with none prepared. Most scenes are those of the suite itself;
here its cluster names the poolers. Scenes that count a server's sessions are left out, because a
pooler keeps its own. So are scenes in which a server's end has to be known at once, because a
pooler goes on letting clients in.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import pytest

from hasql.events import HostDown, HostExcluded
from testbed.middlemen.addresses import dsn_through
from testbed.scene import fail_over, until
from tests.integration.test_drivers import (
    test_an_error_of_the_applications_own_costs_nobody_anything,
    test_await_and_release_is_the_other_way,
    test_masters_and_replicas_are_what_was_asked_for,
)
from tests.integration.test_drivers_ends import (
    test_a_statement_that_is_cancelled_costs_one_connection_at_most,
)
from tests.integration.test_drivers_leases import (
    test_what_was_committed_stays_whatever_ends_the_block,
)
from tests.middlemen import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.scene import Table

    Manager = BasePoolManager[Any, Any]

__all__ = (
    "test_a_statement_that_is_cancelled_costs_one_connection_at_most",
    "test_an_error_of_the_applications_own_costs_nobody_anything",
    "test_await_and_release_is_the_other_way",
    "test_masters_and_replicas_are_what_was_asked_for",
    "test_what_was_committed_stays_whatever_ends_the_block",
)

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: the suite itself covers the other."""
    return "asyncio", {"use_uvloop": False}


class _Pooled:
    """A cluster whose DSN leads through poolers."""

    def __init__(self, cluster: LocalCluster, dsn: str) -> None:
        self._cluster = cluster
        self.dsn = dsn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)


#: Session pooling without prepared statements, for those who turn them off to be safe.
_UNPREPARED = "session-unprepared"
# After a failover it takes seconds to mend the cluster, so such tests run with one mode each.
_MODES = {
    "test_a_living_master_that_was_replaced_is_fenced": ["transaction"],
    "test_masters_and_replicas_are_what_was_asked_for": ["session", "transaction", _UNPREPARED],
    "test_what_was_committed_stays_whatever_ends_the_block": [
        "session",
        "transaction",
        _UNPREPARED,
    ],
    "test_a_replica_that_is_down_is_left_and_taken_in_again": ["session"],
    "test_writers_go_on_after_a_crash": ["session"],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    modes = _MODES.get(metafunc.function.__name__, ["session", "transaction"])
    metafunc.parametrize("pg_cluster", modes, indirect=True)


@pytest.fixture
def pg_cluster(
    request: pytest.FixtureRequest,
    pg_cluster: LocalCluster,
    kit: Kit,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[_Pooled]:
    needs("pgbouncer")
    from testbed.middlemen.pgbouncer import PgBouncer

    pool_mode: Literal["session", "transaction"] = "session"
    if request.param == "transaction":
        pool_mode = "transaction"
    if request.param != "session":
        sizes = kit.sizes
        monkeypatch.setattr(kit, "sizes", lambda *bounds: {**sizes(*bounds), **kit.unprepared})
    with ExitStack() as stack:
        poolers = [
            stack.enter_context(PgBouncer(pg_cluster, node, pool_mode=pool_mode))
            for node in pg_cluster.nodes
        ]
        yield _Pooled(pg_cluster, dsn_through(pg_cluster, *poolers))


async def test_writers_go_on_after_a_crash(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster, table: Table
) -> None:
    written: list[int] = []
    #: When each failing lease was acquired, and when a host was excluded: down, or fenced.
    failed: list[float] = []
    left: list[float] = []
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    manager.add_listener(
        lambda event: (
            left.append(loop.time()) if isinstance(event, HostDown | HostExcluded) else None
        )
    )

    async def write(writer: int) -> None:
        number, acquired = writer, 0.0
        while not stop.is_set():
            number += 100
            try:
                async with manager.acquire_master(timeout=20) as connection:
                    acquired = loop.time()
                    await kit.write(connection, table.insert(number))
                written.append(number)
            except kit.lost:
                failed.append(acquired)

    writers = [asyncio.ensure_future(write(writer)) for writer in range(4)]
    await until(lambda: len(written) > 50 or any(writer.done() for writer in writers))
    _, new = await fail_over(pg_cluster)
    promoted = len(written)
    await until(lambda: len(written) > promoted + 50 or any(writer.done() for writer in writers))
    stop.set()
    await asyncio.gather(*writers)
    present = set(map(int, (await new.sql(table.rows)).split()))
    assert set(written[promoted:]) <= present
    # The pooler lets every client in until a probe has found the server gone, which happens at once
    # after the first statement that failed. Until then a task may come again, but not afterwards.
    assert all(acquired <= left[0] + 0.1 for acquired in failed), (failed, left)


async def test_a_living_master_that_was_replaced_is_fenced(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster
) -> None:
    new = pg_cluster.replicas[0]
    held = await manager.acquire_master()
    assert await kit.value(held, "SELECT 1") == 1
    await new.promote()
    await until(lambda: manager.metrics().fencings == 1)
    assert manager.is_connection_closed(held)
    with pytest.raises(kit.lost):
        await kit.value(held, "SELECT 1")
    await manager.release(held)
    for _ in range(10):
        async with manager.acquire_master() as connection:
            assert await kit.port(connection) == new.port


async def test_a_replica_that_is_down_is_left_and_taken_in_again(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster
) -> None:
    down, other = pg_cluster.replicas
    await down.stop()
    await until(lambda: manager.replica_pool_count == 1)
    for _ in range(10):
        async with manager.acquire_replica() as connection:
            assert await kit.port(connection) == other.port
    await down.start()
    await manager.ready(1, 2)
    leases = [await manager.acquire_replica() for _ in range(4)]
    assert {await kit.port(connection) for connection in leases} == {down.port, other.port}
    for connection in leases:
        await manager.release(connection)
