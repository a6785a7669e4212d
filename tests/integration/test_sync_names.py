"""The drivers for threads follow names that move, with a real nameserver and real servers."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest

from hasql import NotAvailableError
from hasql.dns import Resolver
from testbed.certificates import Authority
from testbed.moving_server import MovingServer, moving_server
from testbed.nameserver import NameServer
from tests.middlemen import needs_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hasql.sync.base import BaseSyncPoolManager
    from testbed.sync_kits import SyncKit

    Manager = BaseSyncPoolManager[Any, Any]

#: A name that only the nameserver of these tests knows.
NAME = "db.example.test"
ADDRESSES = "127.0.0.23", "127.0.0.24"
WHICH = "SELECT host(inet_server_addr())"
ENCRYPTED = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()"

pytestmark = pytest.mark.xdist_group("names")


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    with NameServer() as server:
        server.set(NAME, ADDRESSES[0])
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    needs_tls()
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[MovingServer]:
    with moving_server(*ADDRESSES, certificate=authority.issue(f"DNS:{NAME}")) as server:
        yield server


def manager_of(
    kit: SyncKit, nameserver: NameServer, server: MovingServer, authority: Authority, name: str
) -> Manager:
    """Make a manager that knows nothing but what the nameserver tells."""
    query = f"sslmode=verify-full&sslrootcert={authority.certificate}"
    login = f"{server.user}:{server.password}"
    return kit.manager(
        f"postgresql://{login}@{name}:{server.port}/app?{query}",
        resolver=Resolver(nameservers=[nameserver.address], fallback=False, timeout=1),
        acquire_timeout=5,
    )


@contextmanager
def following(
    kit: SyncKit, nameserver: NameServer, server: MovingServer, authority: Authority
) -> Iterator[Manager]:
    with manager_of(kit, nameserver, server, authority, NAME) as manager:
        manager.ready(1, 0)
        yield manager


def value(kit: SyncKit, manager: Manager, query: str) -> Any:
    with manager.acquire_master() as connection:
        return kit.value(connection, query)


def until(holds: Callable[[], bool]) -> None:
    deadline = monotonic() + 20
    while not holds():
        assert monotonic() < deadline
        sleep(0.01)


_LONGEST = 1.1 + 1.5
"""Seconds for which the old address may be lent: a TTL of one at most, and a busy machine's lag."""


def test_a_record_is_repointed_under_load_and_no_statement_fails(
    sync_kit: SyncKit, tls_server: MovingServer, authority: Authority, nameserver: NameServer
) -> None:
    """Soon after the TTL of its record has ended, no connection is lent at the old address."""
    seen: list[tuple[float, str]] = []
    errors: list[BaseException] = []
    stopping = threading.Event()

    def work(manager: Manager) -> None:
        try:
            while not stopping.is_set():
                with manager.acquire_master() as connection:
                    seen.append((monotonic(), sync_kit.value(connection, WHICH)))
        except BaseException as error:  # noqa: BLE001  # for the test
            errors.append(error)

    def times(address: str) -> int:
        return [each for _, each in seen.copy()].count(address)

    with following(sync_kit, nameserver, tls_server, authority) as manager:
        threads = [threading.Thread(target=work, args=(manager,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: times(ADDRESSES[0]) > 50 or bool(errors))
            assert value(sync_kit, manager, ENCRYPTED) == "true"
            # The TTL outlasts the test: no second look-up may find a connection that has stayed.
            nameserver.set(NAME, ADDRESSES[1], ttl=60)
            changed = monotonic()
            until(lambda: times(ADDRESSES[1]) > 50 or bool(errors))
            # The threads go on, so that a connection which stayed behind would be seen again.
            until(lambda: monotonic() > changed + _LONGEST + 0.5)
            assert value(sync_kit, manager, ENCRYPTED) == "true"
        finally:
            stopping.set()
            for thread in threads:
                thread.join(10)
        assert errors == []
        assert max(lent for lent, address in seen if address == ADDRESSES[0]) < changed + _LONGEST
        assert max(lent for lent, address in seen if address == ADDRESSES[1]) > changed + _LONGEST


def test_a_certificate_of_another_name_is_refused(
    sync_kit: SyncKit, tls_server: MovingServer, authority: Authority, nameserver: NameServer
) -> None:
    nameserver.set("other.example.test", ADDRESSES[0])
    manager = manager_of(sync_kit, nameserver, tls_server, authority, "other.example.test")
    try:
        with pytest.raises(Exception, match=r"(?i)certificate.* not (valid|match)") as raised:
            manager.ready(timeout=20)
        assert not isinstance(raised.value, NotAvailableError)
    finally:
        manager.close()
