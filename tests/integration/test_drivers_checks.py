"""What a driver's pool does with an idle connection before it is lent, if the host is frozen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql.balancer_policy import RoundRobinBalancerPolicy
from testbed.scene import every_place_works, tasks_end

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

pytestmark = pytest.mark.usefixtures("nothing_unheard")


async def test_8_an_acquire_whose_idle_connection_is_checked_on_a_frozen_replica_moves_on(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    frozen, other = pg_cluster.replicas
    tasks = asyncio.all_tasks()
    for kwargs in kit.checks():
        async with kit.manager(
            pg_cluster.dsn,
            balancer_policy=RoundRobinBalancerPolicy,
            pool_factory_kwargs={**kit.sizes(1, 2), **kwargs},
        ) as manager:
            await manager.ready(1, 2)
            await every_place_works(kit, manager)  # so that each pool has idle connections
            frozen.freeze()
            try:
                # Half of the users meet the frozen host, as long as it is not known to be frozen.
                users = [asyncio.ensure_future(port(kit, manager)) for _ in range(2)]
                async with asyncio.timeout(5):
                    assert await asyncio.gather(*users) == [other.port] * 2, kwargs
            finally:
                frozen.thaw()
            await manager.ready(1, 2)
            await every_place_works(kit, manager)
    await tasks_end(tasks)


async def port(kit: Kit, manager: Any) -> int:
    # The timeout ends before the host is known to be down.
    async with manager.acquire_replica(timeout=0.9) as connection:
        return await kit.port(connection)
