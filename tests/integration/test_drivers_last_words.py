"""A server reports that it ends its sessions before their sockets close, with every driver.

These tests hold open the moment between a server's last message and the end of its process, which
lasts milliseconds: probes say that the host is well, and no socket tells that it was closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.kits.asyncpg import AsyncpgKit
from testbed.middlemen.addresses import Place, dsn_through
from testbed.proxy import Proxy
from testbed.scene import until, until_asleep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import Kit

pytestmark = pytest.mark.usefixtures("nothing_unheard")

_PLACES = 4


@asynccontextmanager
async def idle_connections(
    kit: Kit, cluster: LocalCluster, application: str
) -> AsyncIterator[tuple[BasePoolManager[Any, Any], Proxy, set[int]]]:
    """Open all connections to a master behind a proxy; yield their server processes, too."""
    master, sizes = cluster.master, kit.sizes(_PLACES, _PLACES)
    async with Proxy(master.host, master.port) as proxy:
        dsn = dsn_through(cluster, Place("127.0.0.1", proxy.port))
        dsn = f"{dsn}?application_name={application}"
        async with kit.manager(dsn, pool_factory_kwargs=sizes) as manager:
            leased = [await manager.acquire_master() for _ in range(_PLACES)]
            pids = {await kit.pid(connection) for connection in leased}
            for connection in leased:
                await manager.release(connection)
            yield manager, proxy, pids
            proxy.drop()


async def end(master: LocalNode, pids: set[int]) -> None:
    for pid in pids:
        await master.sql(f"SELECT pg_terminate_backend({pid}, 5000)")


async def end_but_hold(proxy: Proxy, master: LocalNode, pids: set[int]) -> None:
    """Pass on what a server says as it ends sessions, but not that it closes their sockets.

    A client may close its own socket at once.
    """
    ended = proxy.ended
    proxy.hold_ends()
    await end(master, pids)
    await until(lambda: proxy.held + proxy.ended - ended >= len(pids))


def end_now(pid: int) -> None:
    """End a stopped session, and block the event loop until its process is gone."""
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def errors_of(
    kit: Kit, manager: BasePoolManager[Any, Any], ended: set[int]
) -> list[Exception]:
    """Acquire so often that each place has had its turn, and return the errors."""
    errors: list[Exception] = []
    for _ in range(3 * _PLACES):
        try:
            async with manager.acquire_master(timeout=5) as connection:
                assert await kit.pid(connection) not in ended
        except kit.lost as error:
            errors.append(error)
    return errors


async def test_last_words_that_come_together_with_a_reset_end_a_statement(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    """uvloop reports such a socket only once."""
    async with kit.manager(pg_cluster.dsn) as manager:
        with pytest.raises(kit.lost):
            async with manager.acquire_master() as connection:
                pid = await kit.pid(connection)
                os.kill(pid, signal.SIGSTOP)
                try:
                    statement = asyncio.ensure_future(kit.value(connection, "SELECT 1"))
                    # Until the statement is sent. The server does not read it.
                    for _ in range(20):
                        await asyncio.sleep(0)
                finally:
                    end_now(pid)
                await asyncio.wait_for(statement, 20)


async def test_4_of_idle_connections_that_a_server_has_ended_no_task_meets_two(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    master = pg_cluster.master
    async with idle_connections(kit, pg_cluster, application) as (manager, proxy, pids):
        await end_but_hold(proxy, master, pids)
        errors = await errors_of(kit, manager, pids)
        assert len(errors) <= 1, errors


async def test_4_what_asyncpg_has_read_the_end_of_is_not_lent(
    pg_cluster: LocalCluster, application: str
) -> None:
    """asyncpg would answer that an operation is in progress."""
    kit, master = AsyncpgKit(), pg_cluster.master
    async with idle_connections(kit, pg_cluster, application) as (manager, proxy, pids):
        await end_but_hold(proxy, master, pids)
        assert await errors_of(kit, manager, pids) == []


@pytest.mark.parametrize("way", ["block", "release"])
async def test_4_a_statement_that_has_broken_is_a_tasks_only_error_however_it_is_told(
    kit: Kit, pg_cluster: LocalCluster, application: str, way: str
) -> None:
    master = pg_cluster.master
    async with idle_connections(kit, pg_cluster, application) as (manager, proxy, pids):
        lease = manager.acquire_master()
        connection = await lease.__aenter__() if way == "block" else await lease
        busy = await kit.pid(connection)
        statement = asyncio.ensure_future(kit.value(connection, "SELECT pg_sleep(60)"))
        await until_asleep(master, application, 1)
        await end(master, {busy})
        with pytest.raises(kit.lost) as raised:
            await statement
        await until(lambda: proxy.ended == 1)
        await end_but_hold(proxy, master, pids - {busy})
        with suppress(*kit.lost):  # the end of a block may raise it again
            if way == "block":
                await lease.__aexit__(raised.type, raised.value, None)
            else:
                await manager.release(connection)
        assert await errors_of(kit, manager, pids) == []
