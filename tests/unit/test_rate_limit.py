"""The rate limit: the text of a rate, token buckets, and the limit around leases."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasql._routing.waiters import ThreadWaiters
from hasql.errors import (
    ConfigurationError,
    NotAvailableError,
    PoolManagerClosedError,
    RateLimitedError,
)
from hasql.resilience import RateLimit
from hasql.resilience.rates import Rate
from hasql.resilience.storage_access import StorageAccess
from hasql.resilience.token_buckets import TokenBuckets
from testbed.fake_driver import fake_cluster, manager_of, until
from testbed.fake_threads import ThreadManager

# Rates


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/second", Rate(100, 1)),
        ("10 per minute", Rate(10, 60)),
        ("5/2 hours", Rate(5, 7200)),
        (" 3 per 1 day ", Rate(3, 86400)),
        ("7/SECONDS", Rate(7, 1)),
    ],
)
def test_a_rate_is_read_as_it_is_meant(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize(
    "text", ["", "100", "0/second", "10/0 seconds", "1/fortnight", "-1/second", "1.5/second", "1/s"]
)
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="such as"):
        RateLimit(text)


@pytest.mark.parametrize(
    ("arguments", "error", "remedy"),
    [
        ({"rate": 100}, TypeError, "100/second"),
        ({"strategy": "leaky"}, ConfigurationError, "moving-window"),
        ({"storage": "memcached://x"}, ConfigurationError, "redis://"),
        ({"storage": "redis://x"}, ConfigurationError, "sliding-window-counter"),
        ({"storage": 1}, TypeError, "memory://"),
        ({"on_storage_error": "ignore"}, ConfigurationError, "'allow', 'refuse'"),
        ({"wait": "yes"}, TypeError, "True or False"),
        ({"key": "tenant"}, TypeError, "function without arguments"),
    ],
)
def test_what_cannot_work_is_refused(
    arguments: dict[str, Any], error: type[Exception], remedy: str
) -> None:
    with pytest.raises(error, match=remedy):
        RateLimit(**arguments)


def test_a_password_of_the_storage_is_shown_nowhere() -> None:
    limit = RateLimit(strategy="fixed-window", storage="redis://:hunter2@host:6379/0")
    assert "hunter2" not in repr(limit)
    assert "redis://:***@host:6379/0" in repr(limit)
    with pytest.raises(ConfigurationError) as raised:
        RateLimit(storage="memcached://u:hunter2@host")
    assert "hunter2" not in str(raised.value)


# Token buckets


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_goes_through_and_then_as_many_as_the_rate_says() -> None:
    clock = Clock()
    buckets = TokenBuckets(Rate(10, 1), clock)
    assert [buckets.take("", 0.0) for _ in range(10)] == [0.0] * 10
    assert buckets.take("", 0.0) == pytest.approx(0.1)  # and no token is taken
    assert buckets.take("", 0.0) == pytest.approx(0.1)
    assert buckets.take("", 1.0) == pytest.approx(0.1)
    assert buckets.take("", 1.0) == pytest.approx(0.2)  # the next token is promised already
    buckets.give_back("")
    assert buckets.take("", 0.0) == pytest.approx(0.2)
    clock.now += 0.2
    assert buckets.take("", 0.0) == 0.0
    clock.now += 100
    assert [buckets.take("", 0.0) for _ in range(11)] == [0.0] * 10 + [pytest.approx(0.1)]


def test_each_key_has_a_bucket_of_its_own() -> None:
    buckets = TokenBuckets(Rate(1, 60), Clock())
    assert buckets.take("a", 0.0) == buckets.take("b", 0.0) == 0.0
    assert buckets.take("a", 0.0) == pytest.approx(60.0)


def test_keys_are_bounded_and_a_forgotten_one_is_given_no_more_than_its_rate() -> None:
    clock = Clock()
    buckets = TokenBuckets(Rate(2, 10), clock, most_keys=3)
    assert buckets.take("a", 0.0) == buckets.take("a", 0.0) == 0.0
    for key in "bcd":
        clock.now += 1
        assert buckets.take(key, 0.0) == 0.0
    assert len(buckets) == 3
    assert buckets.take("a", 0.0) == pytest.approx(2.0)
    clock.now += 10
    assert buckets.take("x", 0.0) == buckets.take("x", 0.0) == 0.0
    for number in range(1000):
        buckets.take(str(number), 0.0)
        clock.now += 10
    assert len(buckets) == 3


@settings(deadline=None)
@given(
    count=st.integers(1, 20),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5)), max_size=60),
)
def test_never_more_than_a_burst_and_the_rate(count: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    buckets = TokenBuckets(Rate(count, 2), clock, most_keys=2)
    began, let_in = clock.now, dict.fromkeys(range(6), 0)
    for seconds, key in steps:
        clock.now += seconds
        let_in[key] += buckets.take(str(key), 0.0) == 0.0
        assert let_in[key] <= count + (clock.now - began) * count / 2 + 1e-6


# Around a lease


async def test_acquires_wait_for_their_tokens_one_each() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, rate_limit=RateLimit("20/second"), acquire_timeout=5) as manager:
        await manager.ready(1, 1)
        began = monotonic()
        for _ in range(26):
            async with manager.acquire_master():
                pass
        assert 0.28 < monotonic() - began < 4.0
        metrics = manager.metrics().rate_limit
        assert metrics is not None
        assert metrics.waits >= 5
        assert (metrics.refusals, metrics.waiting, metrics.keys) == (0, 0, 1)


async def test_a_token_is_for_an_acquire_however_often_it_is_tried_inside() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(
        servers, rate_limit=RateLimit("2/hour"), acquire_timeout=5, refresh_delay=0.05
    ) as manager:
        await manager.ready(1, 1)
        servers["b"].login_error = ConnectionRefusedError("no")
        servers["b"].drop_pooled()
        waiting = asyncio.ensure_future(_use(manager.acquire_replica()))
        await until(lambda: manager.metrics().retries >= 3)
        servers["b"].login_error = None
        await waiting
        await _use(manager.acquire_replica())
        with pytest.raises(RateLimitedError):
            await manager.acquire_replica()


async def test_who_would_wait_beyond_its_deadline_is_told_at_once_when_to_come() -> None:
    async with manager_of(
        fake_cluster("a master"), rate_limit=RateLimit("1/minute"), acquire_timeout=20.0
    ) as manager:
        await _use(manager.acquire_master())
        began = monotonic()
        with pytest.raises(RateLimitedError, match=r"the rate of 1/minute is used up") as raised:
            await manager.acquire_master()
        assert monotonic() - began < 10
        assert 50 < raised.value.seconds <= 60
        assert isinstance(raised.value, NotAvailableError)
        with pytest.raises(RateLimitedError):  # the refusal took no token
            await manager.acquire_master()
        metrics = manager.metrics().rate_limit
        assert metrics is not None
        assert metrics.refusals == 2


async def test_without_waiting_it_refuses() -> None:
    limit = RateLimit("10/second", wait=False)
    async with manager_of(fake_cluster("a master"), rate_limit=limit) as manager:
        for _ in range(10):
            await _use(manager.acquire_master())
        with pytest.raises(RateLimitedError, match="and wait=False") as raised:
            await manager.acquire_master()
        assert 0 < raised.value.seconds <= 0.1


async def test_the_key_is_asked_for_each_acquire() -> None:
    tenant: Any = "a"
    limit = RateLimit("1/hour", key=lambda: tenant)
    async with manager_of(fake_cluster("a master"), rate_limit=limit) as manager:
        await _use(manager.acquire_master())
        tenant = "b"
        await _use(manager.acquire_master())
        with pytest.raises(RateLimitedError, match="of key 'b'"):
            await manager.acquire_master()
        tenant = 7
        with pytest.raises(TypeError, match="must return a str, not int"):
            await manager.acquire_master()


async def test_who_is_cancelled_gives_its_token_back() -> None:
    limit = RateLimit("1/minute")
    async with manager_of(
        fake_cluster("a master"), rate_limit=limit, acquire_timeout=90
    ) as manager:
        await _use(manager.acquire_master())
        for _ in range(5):
            waiting = asyncio.ensure_future(_use(manager.acquire_master()))
            await until(lambda: manager.metrics().rate_limit.waiting == 1)  # type: ignore[union-attr]
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        with pytest.raises(RateLimitedError) as raised:
            await manager.acquire_master(timeout=1)
        assert raised.value.seconds <= 60


async def test_those_who_wait_are_told_at_once_that_the_manager_closes() -> None:
    limit = RateLimit("1/minute")
    async with manager_of(
        fake_cluster("a master"), rate_limit=limit, acquire_timeout=90
    ) as manager:
        await _use(manager.acquire_master())
        waiting = asyncio.ensure_future(_use(manager.acquire_master()))
        await until(lambda: manager.metrics().rate_limit.waiting == 1)  # type: ignore[union-attr]
        await manager.close()
        with pytest.raises(PoolManagerClosedError):
            await waiting


def test_threads_wait_for_their_tokens_and_are_told_when_the_manager_closes() -> None:
    manager = ThreadManager(
        fake_cluster("a master"), rate_limit=RateLimit("10/second"), acquire_timeout=30.0
    )
    manager.ready(1, 0)
    began = monotonic()
    for _ in range(13):
        manager.putconn(manager.getconn())
    assert 0.25 < monotonic() - began < 5.0
    for _ in range(30):
        with suppress(RateLimitedError):
            manager.putconn(manager.getconn(timeout=0.0))
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            while True:
                manager.putconn(manager.getconn())
        except PoolManagerClosedError as error:
            errors.append(error)

    waiting = [threading.Thread(target=wait) for _ in range(3)]
    for each in waiting:
        each.start()
    manager.close()
    for each in waiting:
        each.join(5)
    assert len(errors) == 3


async def _use(lease: Any) -> None:
    async with lease:
        pass


# What the storage of a shared limit has answered


def test_15_no_more_is_kept_of_what_others_were_told_than_those_who_wait_could_ask_for() -> None:
    access = StorageAccess(1, ThreadWaiters(), lambda: 0.0)
    assert access.take(access.new(9.0), 9.0) is None
    waiting = [access.take(access.new(9.0), 9.0) for _ in range(3)]
    keys = [f"customer {number}" for number in range(1000)]
    for key in keys:
        access.note_answer(key, 60.0)
    known = [key for key in keys if access.known_wait(key)]
    assert keys[-1] in known
    assert len(known) <= len(waiting)
