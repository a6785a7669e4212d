"""With each driver, a write follows a promotion that comes as its thread is about to connect."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from hasql.tracing import AcquireWaited, Tracer
from testbed.proxy import Proxy
from testbed.scene import in_flight, until

if TYPE_CHECKING:
    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.scene import Table
    from testbed.sync_kits import SyncKit

#: Seconds after which a thread no longer waits for the test.
_TOO_LONG = 30.0


@pytest.fixture
def anyio_backend() -> object:
    """Watch from one event loop: the work is done in threads."""
    return "asyncio", {"use_uvloop": False}


def write(kit: SyncKit, manager: BaseSyncPoolManager[Any, Any], statement: str) -> int:
    """Write in a lease; return the port of the server that has it."""
    with manager.acquire_master(timeout=_TOO_LONG) as connection:
        port = kit.value(connection, "SELECT inet_server_port()")
        kit.begin(connection, statement)
        kit.end(connection)
        assert isinstance(port, int)
        return port


async def test_a_place_that_outlasts_a_promotion_gives_a_writer_the_new_master(
    sync_kit: SyncKit, pg_cluster: LocalCluster, table: Table
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    has_place, may_connect = threading.Event(), threading.Event()

    def hold(told: AcquireWaited) -> None:
        # Called in the thread that has a place on the old master and asks the driver next.
        if told.host.port == old.port:
            has_place.set()
            may_connect.wait(_TOO_LONG)

    manager = sync_kit.manager(
        pg_cluster.dsn,
        refresh_delay=0.1,
        refresh_timeout=2,  # on a busy machine servers answer late without being down
        pool_factory_kwargs=sync_kit.sizes(0, 1),
    )
    manager.set_tracer(Tracer(acquire_waited=hold))
    try:
        await asyncio.to_thread(manager.ready, 1, 2)
        held = await asyncio.to_thread(manager.getconn)
        writing = asyncio.create_task(asyncio.to_thread(write, sync_kit, manager, table.insert(1)))
        await until(lambda: manager.metrics().waiting == 1)
        await asyncio.to_thread(manager.putconn, held)
        await until(has_place.is_set)
        await new.promote()
        await until(lambda: manager.metrics().fencings == 1)
        may_connect.set()
        assert await writing == new.port
        assert manager.metrics().retries
        assert await old.sql(table.count) == "0"
        assert in_flight(manager) == 0
    finally:
        may_connect.set()
        manager.terminate()


async def test_a_login_that_outlasts_a_promotion_gives_a_writer_the_new_master(
    sync_kit: SyncKit, pg_cluster: LocalCluster, table: Table
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]

    async with Proxy(old.host, old.port) as proxy:
        manager = sync_kit.manager(
            pg_cluster.dsn.replace(f":{old.port}", f":{proxy.port}", 1),
            refresh_delay=0.1,
            refresh_timeout=2,  # as above
            pool_factory_kwargs=sync_kit.sizes(0, 2),
        )
        try:
            await asyncio.to_thread(manager.ready, 1, 2)
            held = await asyncio.to_thread(manager.getconn)  # so that the next one has to log in
            asked = proxy.connections
            proxy.hold_answers_to_new_ones()
            writing = asyncio.create_task(
                asyncio.to_thread(write, sync_kit, manager, table.insert(1))
            )
            await until(lambda: proxy.connections > asked)
            await new.promote()
            await until(lambda: manager.metrics().fencings == 1)
            proxy.forward()
            assert await writing == new.port
            assert manager.metrics().retries
            assert await old.sql(table.count) == "0"
            await asyncio.to_thread(manager.putconn, held)
            assert in_flight(manager) == 0
        finally:
            manager.terminate()
