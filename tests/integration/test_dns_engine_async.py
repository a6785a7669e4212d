"""SQLAlchemy's asyncio engine follows a name that moves, over asyncpg and psycopg."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.pool import NullPool, StaticPool

from hasql.dns import clear_dns_cache, get_async_dns_engine
from hasql.errors import ConfigurationError, NameResolutionError
from testbed.black_hole import black_hole
from testbed.middlemen.addresses import Place
from testbed.middlemen.forwarder import Forwarder
from testbed.moving_server import MovingServer, moving_server
from testbed.nameserver import NameServer
from testbed.pace import Pace
from testbed.scene import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

NAME = "db.example.test"
OLD, NEW, THIRD, NOBODY = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.9"
#: See `LATEST` in test_dns_engine.py.
LATEST = 1.5
WHERE = text("SELECT host(inet_server_addr()), pg_backend_pid()")

# SQLAlchemy has no code for an event loop and psycopg hardly any, so each driver runs on one.
of_each_driver = pytest.mark.parametrize(
    ("driver", "anyio_backend"),
    [
        pytest.param("asyncpg", ("asyncio", {"use_uvloop": True}), id="asyncpg"),
        pytest.param("psycopg", ("asyncio", {"use_uvloop": False}), id="psycopg"),
    ],
)


@pytest.fixture(scope="module")
def server() -> Iterator[MovingServer]:
    with moving_server(OLD, NEW, THIRD) as server:
        yield server


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    # The nameserver of another test may have had the same port.
    clear_dns_cache()
    with NameServer() as nameserver:
        nameserver.set(NAME, OLD)
        yield nameserver


@pytest.fixture
async def make(
    server: MovingServer, nameserver: NameServer
) -> AsyncIterator[Callable[..., AsyncEngine]]:
    """Make engines that ask the nameserver, and dispose of them at the end."""
    made: list[AsyncEngine] = []

    def make(driver: str = "asyncpg", **kwargs: Any) -> AsyncEngine:
        options: dict[str, Any] = {
            "dns_nameservers": [nameserver.address],
            "dns_timeout": 1,
            **kwargs,
        }
        made.append(get_async_dns_engine(server.url(driver, NAME), **options))
        return made[-1]

    yield make
    for engine in made:
        await engine.dispose()


async def where(connection: AsyncConnection) -> tuple[str, int]:
    address, pid = (await connection.execute(WHERE)).one()
    return address, pid


async def ask(engine: AsyncEngine) -> tuple[str, int]:
    async with engine.connect() as connection:
        return await where(connection)


async def until_at(engine: AsyncEngine, address: str) -> None:
    """Wait until a checkout leads to this address."""
    async with asyncio.timeout(5):
        while (await ask(engine))[0] != address:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def load(engine: AsyncEngine, tasks: int = 4) -> AsyncIterator[list[tuple[float, str]]]:
    """Check out, use and give back; yield a list of when each checkout began, and where it led."""
    seen: list[tuple[float, str]] = []
    stop = asyncio.Event()

    async def run() -> None:
        while not stop.is_set():
            began = time.monotonic()
            async with engine.connect() as connection:
                seen.append((began, (await where(connection))[0]))
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(run())
        yield seen
        stop.set()


@of_each_driver
async def test_a_record_is_repointed_under_load(
    make: Callable[..., AsyncEngine], nameserver: NameServer, driver: str
) -> None:
    async with load(make(driver)) as seen:
        await until(lambda: len(seen) > 10)
        nameserver.set(NAME, NEW)
        moved = time.monotonic()
        await until(lambda: seen[-1][0] > moved + LATEST + 0.5)
    assert max(at - moved for at, address in seen if address == OLD) <= LATEST
    assert {address for at, address in seen if at > moved + LATEST} == {NEW}


@of_each_driver
async def test_of_two_addresses_neither_is_reconnected(
    make: Callable[..., AsyncEngine], nameserver: NameServer, driver: str
) -> None:
    nameserver.set(NAME, OLD, NEW, ttl=0)
    engine = make(driver, pool_size=1, max_overflow=0)
    first = await ask(engine)
    others = {OLD, NEW, THIRD} - {first[0]}
    nameserver.set(NAME, first[0], *others, ttl=0)
    nameserver.forget_questions()
    await asyncio.to_thread(nameserver.wait_for_questions, 4)
    assert await ask(engine) == first


@of_each_driver
async def test_addresses_that_refuse_or_are_silent_are_passed_over(
    make: Callable[..., AsyncEngine], server: MovingServer, nameserver: NameServer, driver: str
) -> None:
    # The address that answers comes last, so all the others are dialled before it.
    silent = [f"127.0.0.{number}" for number in range(20, 26)]
    nameserver.set(NAME, NOBODY, *silent, NEW)
    with ExitStack() as stack:
        for address in silent:
            stack.enter_context(black_hole(address, server.port))
        took = []
        for _ in range(3):  # several, because a busy machine may delay some
            began = time.monotonic()
            assert (await ask(make(driver)))[0] == NEW
            took.append(time.monotonic() - began)
        assert min(took) < 1.5


@of_each_driver
async def test_without_a_nameserver_what_is_in_the_pool_serves(
    make: Callable[..., AsyncEngine], nameserver: NameServer, driver: str
) -> None:
    options = {"dns_grace_ttl": 0.5, "dns_extend_grace": False, "dns_timeout": 0.2}
    engine = make(driver, **options, dns_fallback=False, pool_size=1, max_overflow=1)
    first = await ask(engine)
    await asyncio.to_thread(nameserver.stop)
    began, pace = time.monotonic(), Pace(0.1)
    while time.monotonic() - began < 2.5:
        with pace.working():
            assert await ask(engine) == first
        with pace.pausing():
            await asyncio.sleep(0.001)
    assert pace.slow < 5  # if they waited for the nameserver, all would be slow: a dozen
    async with engine.connect():
        with pytest.raises(NameResolutionError, match=NAME):
            await ask(engine)


@of_each_driver
@pytest.mark.parametrize("pre_ping", [False, True])
async def test_a_host_that_is_gone_holds_up_no_checkout(
    make: Callable[..., AsyncEngine],
    server: MovingServer,
    nameserver: NameServer,
    driver: str,
    pre_ping: bool,
) -> None:
    way = Forwarder(Place(OLD, server.port), listen=NOBODY, listen_port=server.port)
    async with way:
        nameserver.set(NAME, NOBODY)
        engine = make(driver, pool_pre_ping=pre_ping, pool_size=1, max_overflow=0)
        assert (await ask(engine))[0] == OLD
        assert way.connections == 1
        way.black_hole()
        nameserver.set(NAME, NEW)
        nameserver.forget_questions()
        await asyncio.to_thread(nameserver.wait_for_questions, 4)
        began = time.monotonic()
        assert (await ask(engine))[0] == NEW
        assert time.monotonic() - began < 5  # the old address would never answer


@pytest.mark.parametrize("poolclass", [NullPool, StaticPool])
async def test_every_pool_follows(
    make: Callable[..., AsyncEngine], nameserver: NameServer, poolclass: type
) -> None:
    engine = make(poolclass=poolclass)
    assert (await ask(engine))[0] == OLD
    nameserver.set(NAME, NEW)
    await until_at(engine, NEW)


@of_each_driver
async def test_a_password_file_goes_by_the_name(
    server: MovingServer, nameserver: NameServer, tmp_path: Path, driver: str
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"{NAME}:{server.port}:app:{server.user}:{server.password}\n")
    passwords.chmod(0o600)
    nameserver.set(NAME, "127.0.0.8", OLD)
    url = f"postgresql+{driver}://{server.user}@{NAME}:{server.port}/app?passfile={passwords}"
    engine = get_async_dns_engine(url, dns_nameservers=[nameserver.address], dns_timeout=1)
    assert (await ask(engine))[0] == OLD
    await engine.dispose()


async def test_a_loop_of_the_users_own_is_taken(make: Callable[..., AsyncEngine]) -> None:
    engine = make(connect_args={"loop": asyncio.get_running_loop()})
    assert (await ask(engine))[0] == OLD


@of_each_driver
async def test_a_cancelled_checkout_leaves_the_pool_whole(
    make: Callable[..., AsyncEngine], nameserver: NameServer, driver: str
) -> None:
    nameserver.delay = 0.3
    engine = make(driver, pool_size=1, max_overflow=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):  # the name is being looked up
            await ask(engine)
    assert (await ask(engine))[0] == OLD


@pytest.mark.parametrize("name", ["creator", "async_creator", "pool"])
def test_what_opens_connections_by_itself_is_refused(name: str) -> None:
    given: dict[str, Any] = {name: lambda: None}
    with pytest.raises(ConfigurationError, match=f"'{name}' opens"):
        get_async_dns_engine("postgresql+asyncpg://u@db.example.test/app", **given)
    with pytest.raises(ConfigurationError, match="'async_creator_fn' opens"):
        get_async_dns_engine(
            "postgresql+asyncpg://u@db.example.test/app",
            connect_args={"async_creator_fn": lambda: None},
        )
