"""Several managers share a rate on a real Redis, also while it fails."""

from __future__ import annotations

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
import redis

from hasql.errors import PoolManagerClosedError, RateLimitedError
from hasql.resilience import RateLimit, stored_rates
from testbed.fake_driver import fake_cluster, manager_of, until
from testbed.fake_threads import ThreadManager
from testbed.kits.asyncpg import AsyncpgKit
from testbed.redis_server import RedisServer
from testbed.sync_kits import Psycopg3ThreadKit
from tests.middlemen import needs
from tests.unit.test_thread_faults import interrupted_at
from tests.unit.test_thread_manager import managed
from tests.unit.test_thread_manager import until as until_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from hasql.testing import LocalCluster

STRATEGIES = ["moving-window", "fixed-window", "sliding-window-counter"]


@pytest.fixture
def storage() -> Iterator[RedisServer]:
    needs("redis-server")
    with RedisServer() as server:
        yield server


def clients(storage: RedisServer) -> int:
    """Return how many clients are connected, without the one that asks."""
    with redis.Redis.from_url(storage.url) as client:
        return len(client.client_list()) - 1


@asynccontextmanager
async def far(storage: RedisServer, seconds: float) -> AsyncIterator[str]:
    """Yield a URL at which a storage takes so many seconds for each answer."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(seconds / 2)
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(storage.host, storage.port)
        await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

    server = await asyncio.start_server(serve, storage.host, 0, backlog=1000)
    try:
        port = server.sockets[0].getsockname()[1]
        yield storage.url.replace(f":{storage.port}", f":{port}")
    finally:
        server.close()


async def use(manager: Any, timeout: float = 5.0) -> None:
    async with manager.acquire_master(timeout=timeout):
        pass


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_processes_share_a_rate_and_leave_no_connection_to_its_storage(
    pg_cluster: LocalCluster, storage: RedisServer, strategy: str
) -> None:
    limit = RateLimit("20/hour", strategy=strategy, storage=storage.url, wait=False)
    let_in = 0
    # Fixed windows begin by the wall clock, and the test may fall into two of them.
    async with (
        AsyncpgKit().manager(pg_cluster.dsn, rate_limit=limit) as first,
        AsyncpgKit().manager(pg_cluster.dsn, rate_limit=limit) as second,
    ):
        with pytest.raises(RateLimitedError) as raised:
            for _ in range(41):
                await use(first)
                let_in += 1
                await use(second)
                let_in += 1
        assert 20 <= let_in <= 40
        assert 0 < raised.value.seconds <= 3600

        def in_thread() -> None:
            with Psycopg3ThreadKit().manager(pg_cluster.dsn, rate_limit=limit) as third:
                third.ready()
                with pytest.raises(RateLimitedError):
                    third.getconn()
                assert clients(storage) == 3

        await asyncio.to_thread(in_thread)
        assert clients(storage) == 2
    assert clients(storage) == 0


async def test_who_waits_is_let_in_when_there_is_a_token(
    pg_cluster: LocalCluster, storage: RedisServer
) -> None:
    limit = RateLimit("10/second", strategy="moving-window", storage=storage.url)
    async with AsyncpgKit().manager(pg_cluster.dsn, rate_limit=limit) as manager:
        began = monotonic()
        await asyncio.gather(*(use(manager, 10) for _ in range(25)))
        assert 1.9 < monotonic() - began < 9
        metrics = manager.metrics().rate_limit
        assert metrics is not None
        assert metrics.waits >= 5
        assert metrics.storage_errors == metrics.waiting == metrics.refusals == 0
    assert clients(storage) == 0


#: A rate that a burst uses up, and one that it does not; and how many acquires each lets in.
BURSTS = pytest.mark.parametrize(("rate", "let_in"), [("20/day", 20), ("100000/day", None)])


@BURSTS
async def test_a_burst_waits_for_its_storage_and_does_not_take_it_for_a_silent_one(
    storage: RedisServer, rate: str, let_in: int | None
) -> None:
    times = 300
    async with far(storage, 0.02) as url:
        limit = RateLimit(rate, strategy="moving-window", storage=url, wait=False)
        cluster = fake_cluster("a master")
        async with manager_of(cluster, rate_limit=limit, acquire_timeout=30) as manager:
            await use(manager)  # this one connects
            ended = await asyncio.gather(
                *(use(manager, 30) for _ in range(times)), return_exceptions=True
            )
            assert {type(error) for error in ended if error} <= {RateLimitedError}
            assert ended.count(None) == (let_in - 1 if let_in else times)
            metrics = manager.metrics().rate_limit
            assert metrics is not None
            assert (metrics.storage_errors, metrics.waiting) == (0, 0)


@BURSTS
async def test_a_burst_of_threads_waits_for_its_storage(
    storage: RedisServer, rate: str, let_in: int | None
) -> None:
    times = 120

    def work(url: str) -> None:
        limit = RateLimit(rate, strategy="moving-window", storage=url, wait=False)
        with ThreadManager(fake_cluster("a master"), rate_limit=limit) as manager:
            manager.ready(1, 0)

            def use_one(_: int) -> bool:
                with suppress(RateLimitedError):
                    manager.putconn(manager.getconn(timeout=30))
                    return True
                return False

            with ThreadPoolExecutor(times) as threads:
                assert sum(threads.map(use_one, range(times))) == (let_in or times)
            metrics = manager.metrics().rate_limit
            assert metrics is not None
            assert (metrics.storage_errors, metrics.waiting) == (0, 0)

    async with far(storage, 0.06) as url:
        await asyncio.to_thread(work, url)


@pytest.mark.parametrize("fault", ["freeze", "kill"])
async def test_those_who_wait_for_their_turn_hear_at_once_that_a_storage_fails(
    storage: RedisServer, fault: str
) -> None:
    limit = RateLimit("100000/day", strategy="moving-window", storage=storage.url)
    cluster = fake_cluster("a master")
    async with manager_of(cluster, rate_limit=limit, acquire_timeout=30) as manager:
        await use(manager, 30)
        getattr(storage, fault)()
        began = monotonic()
        await asyncio.gather(*(use(manager, 30) for _ in range(200)))
        assert monotonic() - began < 10, "each ten have asked it in vain"
        metrics = manager.metrics().rate_limit
        assert metrics is not None
        assert 1 <= metrics.storage_errors <= 10


async def test_who_is_answered_no_more_before_its_deadline_is_told_so(
    storage: RedisServer,
) -> None:
    async with far(storage, 0.03) as url:
        limit = RateLimit("100000/day", strategy="fixed-window", storage=url)
        cluster = fake_cluster("a master")
        async with manager_of(cluster, rate_limit=limit, acquire_timeout=30) as manager:
            await asyncio.gather(*(use(manager, 30) for _ in range(10)))  # these connect
            ended = await asyncio.gather(
                *(use(manager, 0.5) for _ in range(400)), return_exceptions=True
            )
            refused = [str(error) for error in ended if isinstance(error, RateLimitedError)]
            assert refused
            assert all("was busy answering others for" in each for each in refused)
            assert storage.password not in refused[0]
            metrics = manager.metrics().rate_limit
            assert metrics is not None
            assert metrics.storage_errors == metrics.waiting == 0


async def test_those_who_wait_for_their_turn_are_told_at_once_that_the_manager_closes(
    storage: RedisServer,
) -> None:
    limit = RateLimit("100000/day", strategy="fixed-window", storage=storage.url)
    cluster = fake_cluster("a master")
    async with manager_of(cluster, rate_limit=limit, acquire_timeout=30) as manager:
        await use(manager)
        storage.freeze()
        waiting = [asyncio.ensure_future(use(manager, 30)) for _ in range(30)]
        await until(lambda: manager.metrics().rate_limit.waiting == 20)  # type: ignore[union-attr]
        await manager.close()
        for each in waiting[10:]:
            with pytest.raises(PoolManagerClosedError):
                await each
        await asyncio.gather(*waiting[:10], return_exceptions=True)
        assert manager.metrics().rate_limit.waiting == 0  # type: ignore[union-attr]


@pytest.fixture
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only one acquire at a time ask the storage."""
    monkeypatch.setattr(stored_rates, "CONNECTIONS", 1)


@pytest.mark.usefixtures("one_turn")
def test_11_asking_the_storage_interrupted_anywhere_loses_no_turn(storage: RedisServer) -> None:
    limit = RateLimit(
        "100000/day", strategy="fixed-window", storage=storage.url, on_storage_error="refuse"
    )
    with managed(fake_cluster("a master"), rate_limit=limit) as manager:
        manager.putconn(manager.getconn())
        for point in count(1):
            taken: list[Any] = []
            interrupted = interrupted_at(point, lambda: taken.append(manager.getconn()))  # noqa: B023
            for each in taken:
                manager.putconn(each)
            manager.putconn(manager.getconn(timeout=3))  # refused if a turn was lost
            if not interrupted:
                break
        assert point > 40


@pytest.mark.usefixtures("one_turn")
def test_an_alarm_of_the_application_ends_the_wait_for_a_turn(storage: RedisServer) -> None:
    def alarm(*_: object) -> None:
        raise TimeoutError("the application's")

    limit = RateLimit("100000/day", strategy="fixed-window", storage=storage.url)
    with managed(fake_cluster("a master"), rate_limit=limit) as manager:
        manager.putconn(manager.getconn())
        before = signal.signal(signal.SIGALRM, alarm)
        storage.freeze()
        try:
            with ThreadPoolExecutor(2) as others:
                asking = [others.submit(manager.getconn) for _ in range(2)]
                until_in_thread(lambda: manager.metrics().rate_limit.waiting == 1)  # type: ignore[union-attr]
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                with pytest.raises(TimeoutError, match="the application's"):
                    manager.getconn()
                for each in asking:
                    manager.putconn(each.result())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("fault", ["freeze", "kill"])
@pytest.mark.parametrize("then", ["allow", "refuse"])
async def test_a_storage_that_fails_stops_no_loop_and_no_deadline_is_missed(
    pg_cluster: LocalCluster,
    storage: RedisServer,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    then: str,
) -> None:
    caplog.set_level(logging.DEBUG, "hasql")
    limit = RateLimit(
        "100000/hour", strategy="fixed-window", storage=storage.url, on_storage_error=then
    )
    async with AsyncpgKit().manager(pg_cluster.dsn, rate_limit=limit) as manager:
        await use(manager)
        getattr(storage, fault)()
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                before = monotonic()
                await asyncio.sleep(0.005)
                longest = max(longest, monotonic() - before)

        watching = asyncio.create_task(watch())
        try:
            for _ in range(20):
                began = monotonic()
                if then == "allow":
                    await use(manager, 3.0)
                else:
                    with pytest.raises(RateLimitedError, match=r"redis://:\*\*\*@") as raised:
                        await use(manager, 3.0)
                    assert storage.password not in str(raised.value)
                assert monotonic() - began < 3.0
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        assert longest < 0.4, "the loop was blocked"
        metrics = manager.metrics().rate_limit
        assert metrics is not None
        assert 1 <= metrics.storage_errors <= 2, "it is left alone for a moment"
        if fault == "freeze":
            storage.thaw()
            await asyncio.sleep(1.1)  # longer than the storage is left alone
            await use(manager)
            await use(manager)
            assert manager.metrics().rate_limit == metrics
    assert storage.password not in caplog.text
    assert "the storage of the rate limit fails (redis://:***@" in caplog.text


def test_a_thread_waits_no_longer_for_a_silent_storage_than_that_has_to_answer(
    storage: RedisServer,
) -> None:
    limit = RateLimit("100000/day", strategy="fixed-window", storage=storage.url)
    with managed(fake_cluster("a master"), rate_limit=limit) as manager:
        manager.putconn(manager.getconn())
        storage.freeze()
        began = monotonic()
        manager.putconn(manager.getconn())
        assert monotonic() - began < 0.9, "it was asked once more"
        assert manager.metrics().rate_limit.storage_errors == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_threads_are_let_through_while_their_storage_fails(
    pg_cluster: LocalCluster, storage: RedisServer, fault: str
) -> None:
    limit = RateLimit("100000/hour", strategy="moving-window", storage=storage.url)
    with Psycopg3ThreadKit().manager(pg_cluster.dsn, rate_limit=limit) as manager:
        manager.putconn(manager.getconn())
        getattr(storage, fault)()
        for _ in range(20):
            began = monotonic()
            manager.putconn(manager.getconn(timeout=4.0))
            assert monotonic() - began < 4.0
        metrics = manager.metrics().rate_limit
        assert metrics is not None
        assert metrics.storage_errors >= 1


async def test_a_wrong_password_of_the_storage_is_said_without_it(
    pg_cluster: LocalCluster, storage: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hasql")
    url = storage.url.replace(storage.password, "hunter2-is-wrong")
    limit = RateLimit("10/second", strategy="fixed-window", storage=url, on_storage_error="refuse")
    async with AsyncpgKit().manager(pg_cluster.dsn, rate_limit=limit) as manager:
        with pytest.raises(RateLimitedError) as raised:
            await use(manager)
        assert "hunter2" not in f"{raised.value} {manager!r} {manager.metrics()}"
    assert "hunter2" not in caplog.text
    assert "AuthenticationError" in caplog.text
