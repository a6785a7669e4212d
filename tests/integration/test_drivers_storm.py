"""A storm of broken leases on one server, as another server sees it, with every driver."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from testbed.middlemen.addresses import Place, dsn_through
from testbed.proxy import Proxy
from testbed.scene import until

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: it makes no difference here."""
    return "asyncio", {"use_uvloop": False}


async def test_7_broken_leases_have_another_host_probed_no_more_than_a_burst_does(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    master, replica = pg_cluster.master, pg_cluster.replicas[0]
    async with Proxy(master.host, master.port) as proxy:
        dsn = dsn_through(pg_cluster, Place("127.0.0.1", proxy.port), replica)
        # Nobody uses the master, so everything that is sent to it except logins is a probe.
        async with kit.manager(dsn, pool_factory_kwargs=kit.sizes(1, 4)) as manager:
            await manager.ready(1, 1)
            broken = 0

            async def break_leases() -> None:
                nonlocal broken
                while True:
                    with suppress(ConnectionResetError):
                        async with manager.acquire_replica():
                            raise ConnectionResetError("as of a connection that has broken")
                    broken += 1
                    await asyncio.sleep(0.01)

            before = proxy.requests
            storm = [asyncio.ensure_future(break_leases()) for _ in range(3)]
            began = asyncio.get_running_loop().time()
            await until(lambda: broken > 100 and asyncio.get_running_loop().time() - began > 1)
            for task in storm:
                task.cancel()
            await asyncio.gather(*storm, return_exceptions=True)
            seconds = asyncio.get_running_loop().time() - began
        assert proxy.requests - before <= 2 + 7 * seconds
