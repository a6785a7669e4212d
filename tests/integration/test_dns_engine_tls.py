"""TLS is checked against the name, wherever the name leads. The certificate is for it alone."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import uvloop
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from hasql.dns import clear_dns_cache, get_async_dns_engine, get_dns_engine
from hasql.driver.addressed_loop import AddressedLoop
from testbed.certificates import Authority
from testbed.moving_server import MovingServer, moving_server
from testbed.nameserver import NameServer
from testbed.silent_tls import SilentTls
from tests.middlemen import needs, needs_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

NAME, STRANGER = "db.example.test", "stranger.example.test"
OLD, NEW = "127.0.0.2", "127.0.0.3"
WHERE = text("SELECT host(inet_server_addr()), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")


class Secured(NamedTuple):
    """A server with TLS, and the certificate that a client trusts."""

    server: MovingServer
    trusted: Path

    def arguments(self, driver: str) -> tuple[str, dict[str, Any]]:
        """Return how a driver is told to check the name: a part of the URL, and arguments."""
        if driver == "pg8000":
            return "", {"ssl_context": ssl.create_default_context(cafile=self.trusted)}
        if driver == "asyncpg":
            return "", {"ssl": ssl.create_default_context(cafile=self.trusted)}
        return f"?sslmode=verify-full&sslrootcert={self.trusted}", {}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    needs_tls()
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with moving_server(OLD, NEW, certificate=authority.issue(f"DNS:{NAME}")) as server:
        yield Secured(server, authority.certificate)


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    # The nameserver of another test may have had the same port.
    clear_dns_cache()
    with NameServer() as nameserver:
        nameserver.set(NAME, OLD)
        nameserver.set(STRANGER, OLD)
        yield nameserver


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "pg8000"])
def test_a_name_that_moves_stays_verified(
    secured: Secured, nameserver: NameServer, driver: str
) -> None:
    query, arguments = secured.arguments(driver)

    def make(name: str) -> Any:
        return get_dns_engine(
            secured.server.url(driver, name, query),
            connect_args=arguments,
            dns_nameservers=[nameserver.address],
            dns_timeout=1,  # so that look-ups end soon after the test
        )

    engine = make(NAME)
    with engine.connect() as connection:
        assert connection.execute(WHERE).one() == (OLD, True)
    nameserver.set(NAME, NEW)
    end, seen = time.monotonic() + 5, OLD
    while seen == OLD and time.monotonic() < end:
        with engine.connect() as connection:
            seen, encrypted = connection.execute(WHERE).one()
            assert encrypted
    assert seen == NEW
    engine.dispose()
    # The name really is checked: under another name the same server is refused.
    with pytest.raises((DBAPIError, ssl.SSLError), match=r"match|mismatch"):
        make(STRANGER).connect()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_name_that_moves_stays_verified_with_asyncio(
    secured: Secured, nameserver: NameServer, driver: str
) -> None:
    query, arguments = secured.arguments(driver)

    def make(name: str) -> Any:
        return get_async_dns_engine(
            secured.server.url(driver, name, query),
            connect_args=arguments,
            dns_nameservers=[nameserver.address],
            dns_timeout=1,  # so that look-ups end soon after the test
        )

    engine = make(NAME)
    async with engine.connect() as connection:
        assert (await connection.execute(WHERE)).one() == (OLD, True)
    nameserver.set(NAME, NEW)
    end, seen = time.monotonic() + 5, OLD
    while seen == OLD and time.monotonic() < end:
        async with engine.connect() as connection:
            seen, encrypted = (await connection.execute(WHERE)).one()
            assert encrypted
    assert seen == NEW
    await engine.dispose()
    with pytest.raises((DBAPIError, ssl.SSLError), match=r"match|mismatch"):
        await make(STRANGER).connect()


async def test_tls_without_a_negotiation_is_checked_against_the_name(tmp_path: Path) -> None:
    """asyncpg's `direct_tls` does this too, but needs a server of PostgreSQL 17."""
    needs("openssl")
    authority = Authority(tmp_path)
    both = authority.issue(f"DNS:{NAME}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    trusting = ssl.create_default_context(cafile=authority.certificate)
    async with await asyncio.start_server(
        lambda _, writer: writer.close(), OLD, 0, ssl=context
    ) as listener:
        port = listener.sockets[0].getsockname()[1]
        running = asyncio.get_running_loop()
        loop = AddressedLoop(running, NAME, OLD)
        transport, _ = await loop.create_connection(asyncio.Protocol, NAME, port, ssl=trusting)
        transport.abort()
        loop = AddressedLoop(running, STRANGER, OLD)
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            await loop.create_connection(asyncio.Protocol, STRANGER, port, ssl=trusting)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_loop_that_ends_after_a_login_was_given_up_leaves_no_socket(
    nameserver: NameServer, tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    needs("openssl")
    authority = Authority(tmp_path)
    nameserver.set(NAME, "127.0.0.1")

    async def leave(server: SilentTls) -> None:
        engine = get_async_dns_engine(
            f"postgresql+asyncpg://app:x@{NAME}:{server.port}/app",
            connect_args={"ssl": ssl.create_default_context(cafile=authority.certificate)},
            dns_nameservers=[nameserver.address],
            dns_timeout=1,
        )

        async def connect() -> None:
            async with engine.connect():
                raise AssertionError("it is silent")

        connecting = asyncio.create_task(connect())
        await asyncio.to_thread(server.wait_for_client)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await engine.dispose()

    with (
        SilentTls(authority.server(f"DNS:{NAME}")) as server,
        warnings.catch_warnings(record=True) as heard,
    ):
        # A warning that is raised as an error would make uvloop hang.
        warnings.simplefilter("always")
        run(leave(server))
        gc.collect()
    assert [str(each.message) for each in heard] == []
