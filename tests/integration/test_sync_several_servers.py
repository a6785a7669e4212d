"""Every driver for threads copes with a name that leads to several servers.

See test_several_servers.py, and test_chaos_threads.py for masters that change under load.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from testbed.middlemen.addresses import dsn_through
from testbed.middlemen.forwarder import Forwarder
from testbed.scene import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.middlemen.addresses import Address
    from testbed.sync_kits import SyncKit

    Manager = BaseSyncPoolManager[Any, Any]

_T = TypeVar("_T")

PORT = "SELECT inet_server_port()"


@pytest.fixture
def anyio_backend() -> object:
    """Run the name's forwarder on one event loop: nothing of hasql's runs there."""
    return "asyncio", {"use_uvloop": False}


@contextmanager
def manager_of(kit: SyncKit, cluster: LocalCluster, name: Address) -> Iterator[Manager]:
    """Make a manager that is terminated at the end, in the event loop, which must not wait."""
    manager = kit.manager(
        dsn_through(cluster, name), refresh_delay=0.1, pool_factory_kwargs=kit.sizes(1, 2)
    )
    try:
        yield manager
    finally:
        manager.terminate()


async def in_thread(work: Callable[..., _T], *args: Any) -> _T:
    async with asyncio.timeout(60):
        return await asyncio.to_thread(work, *args)


def masters(kit: SyncKit, manager: Manager) -> set[int]:
    """Take twenty leases of a master, and return their servers' ports."""
    found = set()
    for _ in range(20):
        with manager.acquire_master(timeout=30) as connection:
            found.add(kit.value(connection, PORT))
    return found


def break_a_lease(kit: SyncKit, manager: Manager) -> None:
    """End the session of a lease, as an administrator may: hasql then probes its host afresh."""
    with pytest.raises(kit.lost), manager.acquire_master(timeout=10) as connection:
        pid = kit.pid(connection)
        for _ in range(100):
            kit.value(connection, f"SELECT count(pg_terminate_backend({pid}))")


async def test_1_no_master_lease_leads_to_a_standby_of_the_same_name(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    master, standby = pg_cluster.master, pg_cluster.replicas[0]
    async with Forwarder(master) as name:
        with manager_of(sync_kit, pg_cluster, name) as manager:
            await in_thread(manager.ready, 1, 0)
            name.turn(master, *[standby] * 3, cut=True)
            await in_thread(manager.wait_next_pool_check)
            # Three of four connects lead to the standby.
            assert await in_thread(masters, sync_kit, manager) == {master.port}


async def test_1_a_name_that_has_moved_to_a_newer_master_is_followed(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    async with Forwarder(old) as name:
        with manager_of(sync_kit, pg_cluster, name) as manager:
            await in_thread(manager.ready, 1, 0)
            held = await in_thread(manager.getconn)
            before = manager.metrics().nodes[0].timeline
            await new.promote()
            name.turn(new)
            await in_thread(break_a_lease, sync_kit, manager)
            await until(lambda: manager.metrics().nodes[0].timeline != before)
            # The server that the name has left lives on, but acknowledges nothing more.
            with pytest.raises(sync_kit.lost):
                await in_thread(sync_kit.value, held, "SELECT 1")
            await in_thread(manager.putconn, held)
            assert await in_thread(masters, sync_kit, manager) == {new.port}
