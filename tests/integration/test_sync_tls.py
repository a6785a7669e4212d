"""With every driver for threads, TLS checks the name and the certificates of both sides.

This holds for connections of pools and reserved ones alike; see test_drivers_tls.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hasql.errors import NotAvailableError
from testbed.client_certificates import SecuredServer, secured_server
from tests.integration.test_drivers_tls import certified, files, in_environment
from tests.middlemen import needs_tls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.sync_kits import SyncKit


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredServer]:
    needs_tls()
    with secured_server(tmp_path_factory.mktemp("secured")) as server:
        yield server


@pytest.mark.parametrize("source", ["dsn", "environment"])
def test_certificates_and_a_name_are_checked_as_is_said(
    sync_kit: SyncKit,
    secured: SecuredServer,
    application: str,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    given = {"application_name": application}
    if source == "dsn":
        given |= files(secured)
    else:
        in_environment(secured, monkeypatch)
    dsn = secured.dsn("?" + "&".join(f"{name}={value}" for name, value in given.items()))
    with (
        sync_kit.manager(dsn, pool_factory_kwargs=sync_kit.sizes(1, 1)) as manager,
        manager.acquire_master(timeout=10) as connection,
    ):
        assert sync_kit.value(connection, "SELECT 1") == 1
        assert asyncio.run(certified(secured, application)) == 2


@pytest.mark.parametrize(
    ("host", "without", "words"),
    [
        ("localhost", set(), r"(?i)localhost.*match|match.*localhost"),
        ("127.0.0.1", {"sslcert", "sslkey"}, "requires a valid client certificate"),
    ],
    ids=["another name", "no certificate"],
)
def test_what_does_not_fit_is_refused_at_once(
    sync_kit: SyncKit, secured: SecuredServer, host: str, without: set[str], words: str
) -> None:
    given = {name: value for name, value in files(secured).items() if name not in without}
    query = "&".join(f"{name}={value}" for name, value in given.items())
    manager = sync_kit.manager(secured.dsn(f"?{query}", host=host))
    try:
        with pytest.raises(Exception, match=words) as met:
            manager.ready(timeout=15)
        assert not isinstance(met.value, NotAvailableError)
    finally:
        manager.close()
