"""With every driver for threads the reserved session is hasql's, and mistakes cost no login.

See test_drivers_sessions.py, test_drivers_poolers.py and test_drivers_mistakes.py.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from threading import Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest

from testbed.middlemen.addresses import dsn_through
from testbed.odd_defaults import ENVIRONMENT
from tests.integration.test_drivers_sessions import ALL_WELL, evil, odd_cluster, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.middlemen.addresses import Address
    from testbed.scene import Table
    from testbed.sync_kits import SyncKit
    from tests.middlemen import StartPgBouncer

    Manager = BaseSyncPoolManager[Any, Any]

__all__ = ("evil", "odd_cluster")  # fixtures


@pytest.fixture
def anyio_backend() -> object:
    """Prepare clusters on one event loop: nothing of hasql's runs there."""
    return "asyncio", {"use_uvloop": False}


def until(holds: Callable[[], bool]) -> None:
    deadline = monotonic() + 30
    while not holds():
        assert monotonic() < deadline
        sleep(0.01)


def manager_of(kit: SyncKit, dsn: str, **kwargs: Any) -> Manager:
    return kit.manager(dsn, refresh_delay=0.1, pool_factory_kwargs=kit.sizes(1, 2), **kwargs)


@pytest.mark.usefixtures("evil")
async def test_the_environment_neither_chooses_hosts_nor_sets_the_reserved_session(
    sync_kit: SyncKit, pg_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"PGTARGETSESSIONATTRS": "standby", "PGCLIENTENCODING": "LATIN1"}
    for name, value in {**ENVIRONMENT, **chosen}.items():
        monkeypatch.setenv(name, value)

    def look() -> None:
        with manager_of(sync_kit, pg_cluster.dsn) as manager:
            manager.ready(1, 2)
            manager.wait_next_pool_check()
            assert shown(manager) == ALL_WELL
            with manager.acquire_master(timeout=5) as connection:
                port = sync_kit.value(connection, "SELECT inet_server_port()")
                assert port == pg_cluster.master.port

    await asyncio.to_thread(look)


async def test_defaults_of_role_and_database_do_not_reach_the_reserved_session(
    sync_kit: SyncKit, odd_cluster: LocalCluster
) -> None:
    def look() -> None:
        sizes = sync_kit.sizes(0, 2)
        manager = sync_kit.manager(odd_cluster.dsn, refresh_delay=0.1, pool_factory_kwargs=sizes)
        with manager:
            until(lambda: shown(manager) == ALL_WELL)
            for _ in range(5):  # for longer than the idle timeout, with probes all the time
                manager.wait_next_pool_check()
                assert shown(manager) == ALL_WELL

    await asyncio.to_thread(look)


# Mistakes


def _pids(kit: SyncKit, manager: Manager) -> set[int]:
    with manager.acquire_master() as one, manager.acquire_master() as other:
        return {kit.pid(one), kit.pid(other)}


async def test_18_sixty_mistakes_of_each_kind_cost_no_login(
    sync_kit: SyncKit, pg_cluster: LocalCluster, table: Table
) -> None:
    def in_its_own_read_only_transaction(connection: Any) -> None:
        sync_kit.begin(connection, "SET TRANSACTION READ ONLY")
        sync_kit.begin(connection, table.insert(1))

    def in_its_own_read_only_session(connection: Any) -> None:
        sync_kit.begin(connection, "SET default_transaction_read_only = on")
        sync_kit.end(connection)
        sync_kit.begin(connection, table.insert(1))

    mistakes = in_its_own_read_only_transaction, in_its_own_read_only_session

    def make_them() -> None:
        with manager_of(sync_kit, pg_cluster.master.dsn) as manager:
            before = _pids(sync_kit, manager)
            for mistake in mistakes * 60:
                with (
                    pytest.raises(sync_kit.refused_statement),
                    manager.acquire_master() as connection,
                ):
                    mistake(connection)
            assert _pids(sync_kit, manager) == before

    await asyncio.to_thread(make_them)


# Poolers


@contextmanager
def through(kit: SyncKit, cluster: LocalCluster, pooler: Address) -> Iterator[Manager]:
    with kit.manager(
        dsn_through(cluster, pooler),
        refresh_delay=0.1,
        refresh_timeout=0.3,
        lease_abort_after=0.3,
        pool_factory_kwargs={**kit.sizes(1, 2), **kit.unprepared},
    ) as manager:
        manager.ready(1, 0)
        yield manager


def test_8_a_pooler_full_of_the_applications_own_statements_is_waited_for(
    sync_kit: SyncKit, pg_cluster: LocalCluster, pgbouncer: StartPgBouncer
) -> None:
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", default_pool_size=1)
    answers: list[Any] = []

    def work(manager: Manager) -> None:
        with manager.acquire_master() as connection:
            query = "SELECT 1 FROM (SELECT pg_sleep(1)) AS s"
            answers.append(sync_kit.value(connection, query))
            sync_kit.end(connection)

    with through(sync_kit, pg_cluster, pooler) as manager:
        seen = set()
        manager.add_listener(lambda event: seen.add(type(event).__name__))
        thread = Thread(target=work, args=(manager,))
        thread.start()
        thread.join(20)
        assert answers == [1]
        assert "HostDown" not in seen
        with manager.acquire_master() as connection:
            assert sync_kit.value(connection, "SELECT 1") == 1
