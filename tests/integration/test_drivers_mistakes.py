"""An application's own mistakes cost only itself, with every driver on both event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.scene import Table

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
async def pool(kit: Kit, pg_cluster: LocalCluster, application: str) -> AsyncIterator[Manager]:
    """A manager of the master alone, with two connections."""
    dsn = f"{pg_cluster.master.dsn}?application_name={application}"
    async with kit.manager(dsn, pool_factory_kwargs=kit.sizes(1, 2)) as manager:
        yield manager


async def _pids(kit: Kit, manager: Manager) -> set[int]:
    async with manager.acquire_master() as one, manager.acquire_master() as other:
        return {await kit.pid(one), await kit.pid(other)}


async def _in_its_own_read_only_transaction(kit: Kit, connection: Any, table: Table) -> None:
    await kit.begin(connection, "SET TRANSACTION READ ONLY")
    await kit.write(connection, table.insert(1))


async def _in_its_own_read_only_session(kit: Kit, connection: Any, table: Table) -> None:
    await kit.write(connection, "SET default_transaction_read_only = on")
    await kit.write(connection, table.insert(1))


async def _without_the_right(kit: Kit, connection: Any, table: Table) -> None:
    del table
    await kit.value(connection, "SELECT rolpassword FROM pg_catalog.pg_authid LIMIT 1")


@pytest.mark.parametrize(
    "mistake",
    [_in_its_own_read_only_transaction, _in_its_own_read_only_session, _without_the_right],
)
async def test_18_sixty_mistakes_cost_no_login(
    kit: Kit, pool: Manager, table: Table, mistake: Callable[[Kit, Any, Table], Awaitable[None]]
) -> None:
    before = await _pids(kit, pool)
    for _ in range(60):
        with pytest.raises(kit.refused_statement):
            async with pool.acquire_master() as connection:
                await mistake(kit, connection, table)
    assert await _pids(kit, pool) == before


async def test_18_sixty_errors_of_another_service_cost_no_login(kit: Kit, pool: Manager) -> None:
    """They look like the error of a lost connection, so the connection is checked before reuse."""
    before = await _pids(kit, pool)
    for _ in range(60):
        with pytest.raises(ConnectionResetError):
            async with pool.acquire_master():
                raise ConnectionResetError("by a cache, say")
    assert await _pids(kit, pool) == before
