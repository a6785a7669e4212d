"""`credentials=` is asked for each new connection to a server, with every driver for threads."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import NotAvailableError
from tests.integration.test_drivers_credentials import Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.sync_kits import SyncKit

    Manager = BaseSyncPoolManager[Any, Any]


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: hasql has another one of its own."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
async def role(pg_cluster: LocalCluster) -> AsyncIterator[Role]:
    """A role with a password of its own."""
    made = Role(pg_cluster)
    await made.rotate()
    yield made
    await pg_cluster.master.sql(f"DROP ROLE {made.name}")


def asking(kit: SyncKit, dsn: str, ask: Callable[[], Any]) -> Manager:
    kwargs = kit.sizes(1, 2)
    return kit.manager(dsn, credentials=ask, refresh_delay=0.2, pool_factory_kwargs=kwargs)


@pytest.mark.parametrize("how", ["in a thread", "in the loop"])
async def test_old_connections_live_on_and_new_ones_have_the_new_password(
    sync_kit: SyncKit, role: Role, how: str
) -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        kit, ask = sync_kit, role.give if how == "in a thread" else role.give_in_loop
        with asking(kit, role.dsn(), ask) as manager:
            manager.ready(1, 0)
            with manager.acquire_master() as connection:
                assert kit.value(connection, "SELECT session_user") == role.name
                pid = kit.pid(connection)
                before = role.asked
                asyncio.run_coroutine_threadsafe(role.rotate(), loop).result(10)
                with manager.acquire_master() as another:
                    assert kit.pid(another) != pid
                    assert role.asked == before + 1
                assert kit.pid(connection) == pid
            with manager.acquire_master() as connection:
                assert kit.value(connection, "SELECT 1") == 1
            assert role.asked == before + 1
            if how == "in the loop":
                assert len(role.threads) == 1
            assert threading.get_ident() not in role.threads

    await asyncio.to_thread(work)


async def test_its_failure_is_the_connects_and_is_named_without_a_secret(
    sync_kit: SyncKit, role: Role
) -> None:
    failing = False

    def give() -> str:
        password = role.give()
        if failing:
            raise LookupError(f"the vault is sealed for {password}")
        return password

    def work() -> None:
        nonlocal failing
        with asking(sync_kit, role.dsn(), give) as manager:
            with manager.acquire_master():
                failing = True
                match = "LookupError: the vault is sealed"
                with pytest.raises(NotAvailableError, match=match) as met:
                    manager.getconn(timeout=1)
                assert role.password not in str(met.value)
            failing = False
            with manager.acquire_master(timeout=5), manager.acquire_master(timeout=5):
                pass

    await asyncio.to_thread(work)


async def test_one_that_does_not_return_costs_no_more_than_the_time_of_an_acquire(
    sync_kit: SyncKit, role: Role
) -> None:
    go_on = threading.Event()
    hanging = False

    def give() -> str:
        if hanging:
            go_on.wait(20)
        return role.give()

    def work() -> None:
        nonlocal hanging
        with asking(sync_kit, role.dsn(), give) as manager:
            with manager.acquire_master():
                hanging = True
                began = monotonic()
                with pytest.raises(NotAvailableError):
                    manager.getconn(timeout=0.3)
                assert monotonic() - began < 3
            hanging = False
            go_on.set()
            with manager.acquire_master(timeout=10), manager.acquire_master(timeout=10):
                pass

    try:
        await asyncio.to_thread(work)
    finally:
        go_on.set()
