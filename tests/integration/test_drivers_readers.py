"""The application's decoders do not touch what a server says of itself, with every driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from testbed.lost_commits import LosesCommits, Lost
from testbed.middlemen.addresses import Place, dsn_through
from testbed.misreading import misread_by_asyncpg, misreading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.scene import Table

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: to readers it makes no difference."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
def kwargs(kit: Kit) -> Iterator[dict[str, Any]]:
    """`pool_factory_kwargs` with which every value is misread, in each driver's own way."""
    hooks = kit.hooks(misread_by_asyncpg) if "asyncpg" in kit.name else {"": {}}
    # SQLAlchemy has to read a server's version, so with it words are not misread.
    with misreading(words="sqlalchemy" not in kit.module):
        yield {**kit.sizes(1, 2), **next(iter(hooks.values()))}


async def test_roles_and_identities_are_read_as_they_are(
    kit: Kit, pg_cluster: LocalCluster, kwargs: dict[str, Any]
) -> None:
    dsn = pg_cluster.dsn
    async with kit.manager(dsn, refresh_delay=0.1, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        for _ in range(2):  # with more than one form of the probe
            await manager.wait_next_pool_check()
            roles = [(node.role.value, node.fencing) for node in manager.metrics().nodes]
            assert sorted(roles) == [("master", True), ("replica", True), ("replica", True)]
        async with manager.acquire_master() as connection:
            assert await kit.value(connection, "SELECT 7") == 0


async def test_20_a_commit_whose_answer_was_lost_is_found(
    kit: Kit, pg_cluster: LocalCluster, kwargs: dict[str, Any], table: Table
) -> None:
    master, tries = pg_cluster.master, []

    async def work(connection: Any) -> None:
        tries.append(await kit.value(connection, f"{table.insert(7)} RETURNING i"))

    async with LosesCommits(master.host, master.port) as way:
        dsn = dsn_through(pg_cluster, Place("127.0.0.1", way.port))
        async with kit.manager(dsn, pool_factory_kwargs=kwargs) as manager:
            await manager.ready(1, 0)
            way.loses = Lost.ITS_ANSWER
            await manager.run(work)
            assert way.loses is None
    assert tries == [0]
    assert await master.sql(table.rows) == "7"
