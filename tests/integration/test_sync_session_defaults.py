"""`session=`: what each connection is set to, as SHOW has it, with every driver for threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import ConfigurationError
from testbed.middlemen.addresses import dsn_through
from testbed.strict_proxy import StrictProxy
from tests.integration.test_drivers_session_defaults import ALL, SHOWN

if TYPE_CHECKING:
    from hasql.resilience import SessionDefaults
    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.sync_kits import SyncKit

    Manager = BaseSyncPoolManager[Any, Any]


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: it is that of the middle men."""
    return "asyncio", {"use_uvloop": False}


def shown(kit: SyncKit, connection: Any, *names: str) -> dict[str, str]:
    return {name: kit.value(connection, f"SHOW {name}") for name in names or SHOWN}


def settled(kit: SyncKit, dsn: str, session: SessionDefaults = ALL, **more: Any) -> Manager:
    kwargs = {**kit.sizes(1, 1), **more}
    return kit.manager(dsn, session=session, pool_factory_kwargs=kwargs, refresh_delay=0.2)


def test_each_connection_is_set_from_the_first_lease_to_the_last(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    with settled(sync_kit, pg_cluster.dsn) as manager:
        manager.ready(1, 2)
        for _ in range(3):
            with manager.acquire_master() as connection:
                assert shown(sync_kit, connection) == SHOWN
        connection = manager.getconn(read_only=True)
        assert shown(sync_kit, connection) == SHOWN
        manager.putconn(connection)


def test_a_reset_leads_back_to_the_settings(sync_kit: SyncKit, pg_cluster: LocalCluster) -> None:
    with settled(sync_kit, pg_cluster.dsn) as manager, manager.acquire_master() as connection:
        sync_kit.value(connection, "SELECT set_config('statement_timeout', '7s', false)")
        assert shown(sync_kit, connection, "statement_timeout") == {"statement_timeout": "7s"}
        sync_kit.begin(connection, "RESET ALL")
        assert shown(sync_kit, connection) == SHOWN


def test_contradictions_are_refused_with_the_names_of_both(sync_kit: SyncKit) -> None:
    with pytest.raises(ConfigurationError, match=r"session= sets lock_timeout .*, and the DSN to"):
        settled(sync_kit, "postgresql://app@localhost/app?options=-c%20lock_timeout%3D5s")


async def test_where_the_login_is_refused_sql_sets_a_connection(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    def work(dsn: str) -> None:
        with settled(sync_kit, dsn) as manager:
            for _ in range(2):
                with manager.acquire_master() as connection:
                    assert shown(sync_kit, connection) == SHOWN

    async with StrictProxy(pg_cluster.master) as proxy:
        await asyncio.to_thread(work, dsn_through(pg_cluster, proxy.address))
        assert proxy.refused
