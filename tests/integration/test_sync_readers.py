"""No reader of the application reads what a server says of itself, in threads.

See test_drivers_readers.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from testbed.lost_commits import LosesCommits, Lost
from testbed.middlemen.addresses import Place, dsn_through
from testbed.misreading import misreading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing import LocalCluster
    from testbed.scene import Table
    from testbed.sync_kits import SyncKit


@pytest.fixture
def anyio_backend() -> object:
    """Run the proxy on one event loop: nothing of hasql's runs there."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
def kwargs(sync_kit: SyncKit) -> Iterator[dict[str, Any]]:
    """`pool_factory_kwargs`, while the driver's library misreads every value."""
    # SQLAlchemy has to read text correctly: a server tells its version as text.
    with misreading(words="sqlalchemy" not in sync_kit.module):
        yield sync_kit.sizes(1, 2)


def test_roles_and_identities_are_read_as_they_are(
    sync_kit: SyncKit, pg_cluster: LocalCluster, kwargs: dict[str, Any]
) -> None:
    dsn = pg_cluster.dsn
    with sync_kit.manager(dsn, refresh_delay=0.1, pool_factory_kwargs=kwargs) as manager:
        manager.ready(1, 2)
        for _ in range(2):  # probes have more than one form
            manager.wait_next_pool_check()
            roles = [(node.role.value, node.fencing) for node in manager.metrics().nodes]
            assert sorted(roles) == [("master", True), ("replica", True), ("replica", True)]
        with manager.acquire_master() as connection:
            assert sync_kit.value(connection, "SELECT 7") == 0


async def test_20_a_commit_whose_answer_was_lost_is_found(
    sync_kit: SyncKit, pg_cluster: LocalCluster, kwargs: dict[str, Any], table: Table
) -> None:
    master, tries = pg_cluster.master, []

    def work(connection: Any) -> None:
        tries.append(sync_kit.value(connection, f"{table.insert(7)} RETURNING i"))

    def run(dsn: str) -> None:
        with sync_kit.manager(dsn, pool_factory_kwargs=kwargs) as manager:
            manager.ready(1, 0)
            way.loses = Lost.ITS_ANSWER
            manager.run(work)

    async with LosesCommits(master.host, master.port) as way:
        dsn = dsn_through(pg_cluster, Place("127.0.0.1", way.port))
        await asyncio.to_thread(run, dsn)
        assert way.loses is None
    assert tries == [0]
    assert await master.sql(table.rows) == "7"
