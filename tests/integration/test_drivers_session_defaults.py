"""`session=`: what each connection is set to, as SHOW has it, with every driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import ConfigurationError
from hasql.resilience import SessionDefaults
from testbed.middlemen.addresses import dsn_through
from testbed.strict_proxy import StrictProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")

ALL = SessionDefaults(
    statement_timeout=5,
    lock_timeout=1.5,
    idle_in_transaction_timeout=30.0,
    application_name="it's \\ mine",
    search_path=["$user", "My s\\ch'em\"a", "public"],
)
SHOWN = {
    "statement_timeout": "5s",
    "lock_timeout": "1500ms",
    "idle_in_transaction_session_timeout": "30s",
    "application_name": "it's \\ mine",
    "search_path": '"$user", "My s\\ch\'em""a", public',
}


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: to a setting it makes no difference."""
    return "asyncio", {"use_uvloop": False}


async def shown(kit: Kit, connection: Any, *names: str) -> dict[str, str]:
    return {name: await kit.value(connection, f"SHOW {name}") for name in names or SHOWN}


def settled(kit: Kit, dsn: str, session: SessionDefaults = ALL, **more: Any) -> Manager:
    kwargs = {**kit.sizes(1, 1), **more}
    return kit.manager(dsn, session=session, pool_factory_kwargs=kwargs, refresh_delay=0.2)


async def test_each_connection_is_set_from_the_first_lease_to_the_last(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with settled(kit, pg_cluster.dsn) as manager:
        await manager.ready(1, 2)
        for _ in range(3):  # of one connection on the master, through what its driver resets
            async with manager.acquire_master() as connection:
                assert await shown(kit, connection) == SHOWN
        async with manager.acquire_replica() as connection:
            assert await shown(kit, connection) == SHOWN


@pytest.mark.parametrize("command", ["RESET ALL", "DISCARD ALL"])
async def test_a_reset_leads_back_to_the_settings(
    kit: Kit, pg_cluster: LocalCluster, command: str
) -> None:
    # DISCARD ALL takes from asyncpg the statements that it has prepared.
    kwargs = {**(kit.autocommit or {}), **({} if kit.over_libpq else kit.unprepared)}
    async with (
        settled(kit, pg_cluster.dsn, **kwargs) as manager,
        manager.acquire_master() as connection,
    ):
        await kit.value(connection, "SELECT set_config('statement_timeout', '7s', false)")
        assert (await shown(kit, connection))["statement_timeout"] == "7s"
        await kit.write(connection, command)
        assert await shown(kit, connection) == SHOWN


async def test_what_the_application_sets_by_itself_stays(
    kit: Kit, pg_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c geqo_threshold=9")
    more = kit.with_settings(application_name="mine", work_mem="5MB")
    session = SessionDefaults(statement_timeout=5)
    async with (
        settled(kit, pg_cluster.dsn, session, **more) as manager,
        manager.acquire_master() as connection,
    ):
        seen = await shown(kit, connection, "statement_timeout", "work_mem", "application_name")
        assert list(seen.values()) == ["5s", "5MB", "mine"]
    if not kit.over_libpq:
        return
    async with (
        settled(kit, pg_cluster.dsn, session) as manager,
        manager.acquire_master() as connection,
    ):
        seen = await shown(kit, connection, "statement_timeout", "geqo_threshold")
        assert list(seen.values()) == ["5s", "9"]


async def test_contradictions_are_refused_with_the_names_of_both(
    kit: Kit,
) -> None:
    dsn = "postgresql://app@localhost/app"
    for query in ("application_name=other", "options=-c%20lock_timeout%3D5s"):
        with pytest.raises(ConfigurationError, match=r"session= sets .*, and the DSN to"):
            settled(kit, f"{dsn}?{query}")
    for name, value in (("application_name", "other"), ("lock_timeout", "5s")):
        more = kit.with_settings(**{"application_name": SHOWN["application_name"], name: value})
        match = rf"session= sets {name} to .*, and pool_factory_kwargs.* to '{value}'"
        with pytest.raises(ConfigurationError, match=match):
            settled(kit, dsn, **more)
    same = kit.with_settings(application_name=ALL.application_name or "", lock_timeout="1500")
    settled(kit, dsn, **same)


@pytest.fixture
async def strict(pg_cluster: LocalCluster) -> AsyncIterator[StrictProxy]:
    """A proxy before the master that takes no settings at the login."""
    async with StrictProxy(pg_cluster.master) as proxy:
        yield proxy


async def test_where_the_login_is_refused_sql_sets_a_connection_and_again_after_each_reset(
    kit: Kit, pg_cluster: LocalCluster, strict: StrictProxy
) -> None:
    async with settled(kit, dsn_through(pg_cluster, strict.address)) as manager:
        for _ in range(3):
            async with manager.acquire_master() as connection:
                assert await shown(kit, connection) == SHOWN
    assert strict.refused
