"""TLS with a name and certificates that are checked on both sides, with every driver.

This holds for the connections of pools and for reserved ones alike. Errors that tell which file or
name is at fault are in test_drivers_configuration.py, and names that move in test_drivers_names.py.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import NotAvailableError
from testbed.client_certificates import SecuredServer, secured_server
from testbed.scene import sockets, until
from tests.middlemen import needs_tls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.base import BasePoolManager
    from testbed.kits.base import Kit

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: test_drivers_names.py tests the handshakes on both."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredServer]:
    needs_tls()
    with secured_server(tmp_path_factory.mktemp("secured")) as server:
        yield server


def files(secured: SecuredServer) -> dict[str, str]:
    """Return the parameters that make both sides check each other."""
    return {
        "sslmode": "verify-full",
        "sslrootcert": str(secured.trusted),
        "sslcert": str(secured.certificate),
        "sslkey": str(secured.certificate),
    }


def in_environment(secured: SecuredServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the same parameters in the environment, for tests that set them nowhere else."""
    for name, value in files(secured).items():
        monkeypatch.setenv(f"PG{name.upper()}", value)


async def certified(secured: SecuredServer, application: str) -> int:
    """Count an application's sessions, each of which must be encrypted and certified."""
    query = "SELECT ssl, client_dn FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE"
    seen = await secured.server.node.sql(f"{query} application_name = '{application}'")
    assert {*seen.split()} == {"t|/CN=hasql"}
    return len(seen.split())


async def check(kit: Kit, manager: Manager, secured: SecuredServer, application: str) -> None:
    """Check that the pool's connection and the reserved one are encrypted and certified."""
    async with manager.acquire_master(timeout=10) as connection:
        assert await kit.value(connection, "SELECT 1") == 1
        assert (await certified(secured, application)) == 2


async def test_a_certificate_and_a_name_are_checked_as_the_dsn_says(
    kit: Kit, secured: SecuredServer, application: str
) -> None:
    given = {**files(secured), "application_name": application}
    query = "&".join(f"{name}={value}" for name, value in given.items())
    dsn = secured.dsn(f"?{query}")
    async with kit.manager(dsn, pool_factory_kwargs=kit.sizes(1, 1)) as manager:
        await check(kit, manager, secured, application)


async def test_a_certificate_and_a_name_are_checked_as_the_environment_says(
    kit: Kit, secured: SecuredServer, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment sets nothing in the reserved session: see test_drivers_sessions.py."""
    in_environment(secured, monkeypatch)
    dsn = secured.dsn(f"?application_name={application}")
    async with kit.manager(dsn, pool_factory_kwargs=kit.sizes(1, 1)) as manager:
        await check(kit, manager, secured, application)


async def test_a_certificate_and_a_name_are_checked_as_the_arguments_say(
    kit: Kit, secured: SecuredServer, application: str
) -> None:
    given: dict[str, Any] = files(secured)
    if not kit.over_libpq:
        context = ssl.create_default_context(cafile=secured.trusted)
        context.load_cert_chain(secured.certificate)
        given = {"ssl": context}
    kwargs = {**kit.sizes(1, 1), **kit.of_connections(**given)}
    dsn = secured.dsn(f"?application_name={application}")
    async with kit.manager(dsn, pool_factory_kwargs=kwargs) as manager:
        await check(kit, manager, secured, application)


async def test_another_name_of_the_same_server_is_refused_by_name(
    kit: Kit, secured: SecuredServer
) -> None:
    query = "&".join(f"{name}={value}" for name, value in files(secured).items())
    manager = kit.manager(secured.dsn(f"?{query}", host="localhost"))
    try:
        with pytest.raises(
            Exception, match=r"(?i)(localhost.*match|match.*localhost|not valid for)"
        ) as met:
            async with asyncio.timeout(20):
                await manager.ready(timeout=15)
        assert not isinstance(met.value, NotAvailableError)
    finally:
        await manager.close()


async def test_who_has_no_certificate_is_refused_in_the_servers_words(
    kit: Kit, secured: SecuredServer
) -> None:
    before = sockets()
    manager = kit.manager(secured.dsn(f"?sslmode=verify-full&sslrootcert={secured.trusted}"))
    try:
        with pytest.raises(Exception, match="requires a valid client certificate") as met:
            await manager.ready(timeout=15)
        assert not isinstance(met.value, NotAvailableError)
    finally:
        await manager.close()
    # asyncpg says goodbye to the server, within TLS, only after it has raised the error.
    await until(lambda: sockets() <= before)
