"""Admission, a rate limit and the breaker work on real servers, with each driver and both faces."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from hasql.errors import BreakerOpenError, NotAvailableError, OverloadedError
from hasql.events import BreakerClosed, BreakerOpened, Event
from hasql.metrics import BreakerState, Metrics
from hasql.resilience import Admission, Breaker, Priority, RateLimit, priority
from testbed.fake_driver import until
from testbed.kits.asyncpg import AsyncpgKit
from testbed.sync_kits import Psycopg3ThreadKit
from tests.unit.test_thread_manager import until as until_in_thread

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit
    from testbed.sync_kits import SyncKit

WORK = "SELECT count(pg_sleep(0.02))"


def is_idle(metrics: Metrics) -> bool:
    """Tell whether all permits, tokens and places are back."""
    assert metrics.admission is not None
    assert metrics.rate_limit is not None
    return (
        metrics.admission.in_use == metrics.admission.waiting == 0
        and metrics.rate_limit.waiting == metrics.waiting == 0
        and all(node.in_flight == 0 for node in metrics.nodes)
    )


def openings(metrics: Metrics) -> int:
    """Return how often the breaker has opened."""
    assert metrics.breaker is not None
    return metrics.breaker.openings


class Most:
    """Counts how many work at once, and the highest number so far."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._lock = threading.Lock()
        self.now = self.most = 0

    @property
    def is_reached(self) -> bool:
        """Whether as many have worked at once as are wanted."""
        return self.most >= self._wanted

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


async def test_tasks_are_let_in_and_the_breaker_hears_of_ended_sessions(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    told: list[Event] = []
    async with kit.manager(
        pg_cluster.dsn,
        refresh_delay=0.2,
        pool_factory_kwargs=kit.sizes(1, 8),
        acquire_timeout=10,
        admission=Admission(3),
        rate_limit=RateLimit("1000/second"),
        breaker=Breaker(threshold=2),
    ) as manager:
        manager.add_listener(told.append)
        await manager.ready(1, 2)
        working = Most(3)

        async def work() -> None:
            async with manager.acquire_master() as connection:
                with working:
                    # The first wait for one another: a connect may take longer than the work.
                    await until(lambda: working.is_reached)
                    assert await kit.value(connection, WORK) == 1

        await asyncio.gather(*(work() for _ in range(12)))
        assert working.most == 3
        metrics = manager.metrics()
        assert is_idle(metrics)
        assert metrics.admission is not None
        assert metrics.admission.waits == 9

        async def lose() -> None:
            with pytest.raises(kit.lost):
                async with manager.acquire_master() as connection:
                    pid = await kit.pid(connection)
                    await pg_cluster.master.sql(f"SELECT pg_terminate_backend({pid})")
                    await kit.value(connection, WORK)

        while not openings(manager.metrics()):  # only failures that tell of the server count
            await lose()
        await until(lambda: any(isinstance(event, BreakerOpened) for event in told))
        while BreakerClosed() not in told:  # a probe that sees the master closes it
            with suppress(BreakerOpenError):
                await work()
        await until(lambda: is_idle(manager.metrics()))


def test_threads_are_let_in_and_the_breaker_hears_of_ended_sessions(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    told: list[Event] = []
    with (
        ThreadPoolExecutor(12) as threads,
        sync_kit.manager(
            pg_cluster.dsn,
            refresh_delay=0.2,
            pool_factory_kwargs=sync_kit.sizes(1, 8),
            acquire_timeout=10,
            admission=Admission(3),
            rate_limit=RateLimit("1000/second"),
            breaker=Breaker(threshold=2),
        ) as manager,
    ):
        manager.add_listener(told.append)
        manager.ready(1, 2)
        working = Most(3)

        def work() -> None:
            with manager.acquire_master() as connection, working:
                until_in_thread(lambda: working.is_reached)
                assert sync_kit.value(connection, WORK) == 1

        for each in [threads.submit(work) for _ in range(12)]:
            each.result()
        assert working.most == 3
        assert is_idle(manager.metrics())

        def lose() -> None:
            with pytest.raises(sync_kit.lost), manager.acquire_master() as connection:
                pid = sync_kit.pid(connection)
                asyncio.run(pg_cluster.master.sql(f"SELECT pg_terminate_backend({pid})"))
                sync_kit.value(connection, WORK)

        while not openings(manager.metrics()):
            lose()
        until_in_thread(lambda: any(isinstance(event, BreakerOpened) for event in told))
        while BreakerClosed() not in told:
            with suppress(BreakerOpenError):
                work()
        until_in_thread(lambda: is_idle(manager.metrics()))


# Faults, and what they leave


async def test_after_kill_freeze_and_promotion_every_permit_is_back(
    pg_cluster: LocalCluster,
) -> None:
    told: list[Event] = []
    async with AsyncpgKit().manager(
        pg_cluster.dsn,
        refresh_delay=0.1,
        refresh_timeout=0.3,
        lease_abort_after=0.5,
        pool_factory_kwargs={"min_size": 1, "max_size": 6},
        acquire_timeout=0.4,
        admission=Admission(8, replica_limit=6, queue=10, adaptive=True),
        rate_limit=RateLimit("2000/second"),
        breaker=Breaker(threshold=5, recovery=0.5),
    ) as manager:
        manager.add_listener(told.append)
        await manager.ready(1, 2)
        over, refused, done = asyncio.Event(), 0, 0

        async def work(number: int) -> None:
            nonlocal refused, done
            level = Priority(number % 3)
            while not over.is_set():
                try:
                    with priority(level):
                        async with manager.acquire(read_only=number % 2 == 0) as connection:
                            await connection.execute(WORK)
                            done += 1
                except (BreakerOpenError, OverloadedError):
                    refused += 1
                    await asyncio.sleep(0.01)
                except (NotAvailableError, OSError, *AsyncpgKit.lost):
                    await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(work(number)) for number in range(24)]
        try:
            await asyncio.sleep(0.5)
            old, new, third = pg_cluster.master, *pg_cluster.replicas
            old.kill()
            await until(lambda: any(isinstance(event, BreakerOpened) for event in told))
            await new.promote()
            await until(lambda: BreakerClosed() in told)
            third.freeze()
            await asyncio.sleep(1.0)
            third.thaw()
            before = done
            await until(lambda: done > before + 100)
        finally:
            over.set()
            await asyncio.gather(*tasks)
        await until(lambda: is_idle(manager.metrics()))
        metrics = manager.metrics()
        assert metrics.breaker is not None
        assert metrics.breaker.state is BreakerState.CLOSED
        assert metrics.breaker.openings >= 1
        assert metrics.replica_admission is not None
        assert metrics.replica_admission.in_use == metrics.replica_admission.waiting == 0
        assert refused > 0


def test_threads_have_every_permit_back_after_their_master_was_killed(
    pg_cluster: LocalCluster,
) -> None:
    told: list[Event] = []
    with (
        ThreadPoolExecutor(12) as threads,
        Psycopg3ThreadKit().manager(
            pg_cluster.dsn,
            refresh_delay=0.1,
            refresh_timeout=0.3,
            pool_factory_kwargs={"min_size": 1, "max_size": 4},
            acquire_timeout=0.4,
            admission=Admission(4, queue=4),
            rate_limit=RateLimit("1000/second"),
            breaker=Breaker(threshold=5, recovery=0.5),
        ) as manager,
    ):
        manager.add_listener(told.append)
        manager.ready(1, 2)
        over, refused, done = threading.Event(), [], []

        def work(number: int) -> None:
            while not over.is_set():
                try:
                    with manager.acquire(read_only=number % 3 == 0) as connection:
                        connection.execute(WORK)
                        done.append(number)
                except (BreakerOpenError, OverloadedError) as error:
                    refused.append(error)
                    over.wait(0.01)
                except (NotAvailableError, *Psycopg3ThreadKit.lost):
                    over.wait(0.01)

        working = [threads.submit(work, number) for number in range(12)]
        try:
            until_in_thread(lambda: len(done) > 50)
            pg_cluster.master.kill()
            until_in_thread(lambda: any(isinstance(event, BreakerOpened) for event in told))
            asyncio.run(pg_cluster.replicas[0].promote())
            until_in_thread(lambda: BreakerClosed() in told)
            before = len(done)
            until_in_thread(lambda: len(done) > before + 50)
        finally:
            over.set()
        for each in working:
            each.result()
        until_in_thread(lambda: is_idle(manager.metrics()))
        assert refused
