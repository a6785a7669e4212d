"""The layers around the leases of tasks are told of each lease once, whatever becomes of it.

Admission, a rate limit and the breaker are used together, and leave nothing behind (invariant 11).
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import NotAvailableError, OverloadedError, PoolManagerClosedError
from hasql.metrics import BreakerState
from hasql.resilience import Admission, Breaker, Priority, RateLimit, priority
from testbed.fake_driver import FakeManager, FakeServer, fake_cluster, manager_of, until
from testbed.recording_layer import RecordingLayer, record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LENT = ["lent", "returned"]
FAILED = ["failed"]


@dataclass
class Scene:
    """A manager that uses all layers, with a master and two replicas of two places each."""

    manager: FakeManager
    servers: dict[str, FakeServer]
    outer: RecordingLayer
    inner: RecordingLayer

    @property
    def in_use(self) -> int:
        admission = self.manager.metrics().admission
        assert admission is not None
        return admission.in_use


@asynccontextmanager
async def scene(*, limit: int = 8, queue: int = 100) -> AsyncIterator[Scene]:
    servers = fake_cluster("a master", "b replica", "c replica")
    manager = manager_of(
        servers,
        refresh_delay=0.05,
        refresh_timeout=0.2,
        release_timeout=0.1,
        acquire_timeout=5.0,
        admission=Admission(limit, queue=queue, reserve=0.0),
        rate_limit=RateLimit("100000/second"),
        breaker=Breaker(threshold=1000),
    )
    outer, inner = record(manager)
    async with manager:
        await manager.ready(1, 2)
        yield Scene(manager, servers, outer, inner)


# Ways in which a lease may end. Each returns what the layers have to be told of its leases.


async def a_block(scene: Scene) -> list[list[str]]:
    async with scene.manager.acquire_master():
        assert scene.in_use == 1
    return [LENT]


async def a_block_with_an_error(scene: Scene) -> list[list[str]]:
    with pytest.raises(ZeroDivisionError):
        async with scene.manager.acquire_replica():
            raise ZeroDivisionError
    assert isinstance(scene.outer.errors[-1], ZeroDivisionError)
    return [LENT]


async def a_call(scene: Scene) -> list[list[str]]:
    await scene.manager.release(await scene.manager.acquire_master())
    return [LENT]


async def a_call_within_the_block(scene: Scene) -> list[list[str]]:
    async with scene.manager.acquire_master() as connection:
        await scene.manager.release(connection)
        assert scene.in_use == 0
    return [LENT]


async def another_tasks_call(scene: Scene) -> list[list[str]]:
    connection = await scene.manager.acquire_master()
    await asyncio.create_task(scene.manager.release(connection))
    return [LENT]


async def of_one_pool(scene: Scene) -> list[list[str]]:
    pool = await scene.manager.get_pool(read_only=True)
    async with scene.manager.acquire_from_pool(pool):
        assert scene.in_use == 1
    return [LENT]


async def no_host(scene: Scene) -> list[list[str]]:
    scene.servers["a"].kill()
    await until(lambda: scene.manager.master_pool_count == 0)
    with pytest.raises(NotAvailableError, match="hosts:"):
        async with scene.manager.acquire_master(timeout=0.01):
            pass
    return [FAILED]


async def cancelled_while_waiting_for_a_host(scene: Scene) -> list[list[str]]:
    scene.servers["a"].kill()
    await until(lambda: scene.manager.master_pool_count == 0)
    await cancelled(scene.manager.acquire_master(), lambda: scene.manager.metrics().waiting == 1)
    return [FAILED]


async def cancelled_while_connecting(scene: Scene) -> list[list[str]]:
    async with scene.manager.acquire_master():
        scene.servers["a"].freeze()
        logins = scene.servers["a"].logins
        await cancelled(scene.manager.acquire_master(), lambda: scene.servers["a"].logins > logins)
        scene.servers["a"].thaw()
    return [LENT, FAILED]


async def cancelled_in_the_block(scene: Scene) -> list[list[str]]:
    async def work() -> None:
        async with scene.manager.acquire_master():
            await asyncio.Event().wait()

    await cancelled(work(), lambda: scene.in_use == 1)
    return [LENT]


async def cancelled_while_giving_back(scene: Scene) -> list[list[str]]:
    async def work() -> None:
        async with scene.manager.acquire_master():
            scene.servers["a"].freeze()

    await cancelled(work(), lambda: scene.servers["a"].frozen)
    scene.servers["a"].thaw()
    await until(lambda: scene.in_use == 0)
    return [LENT]


async def cancelled_while_the_block_ends(scene: Scene) -> list[list[str]]:
    ends = asyncio.Event()
    begun = asyncio.Event()

    async def commit(_connection: object, _error: object) -> None:
        begun.set()
        await ends.wait()

    async def work() -> None:
        async with scene.manager.acquire_master() as connection:
            pool = next(x for x in scene.manager.driver.pools if connection in x.lent)
            pool.leave_block = commit

    await cancelled(work(), begun.is_set)
    assert scene.in_use == 1, "it is given back by a task of its own"
    ends.set()
    await until(lambda: scene.in_use == 0)
    return [LENT]


async def an_error_as_the_block_ends(scene: Scene) -> list[list[str]]:
    async def commit(_connection: object, _error: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with scene.manager.acquire_master() as connection:
            pool = next(x for x in scene.manager.driver.pools if connection in x.lent)
            pool.leave_block = commit
    assert isinstance(scene.outer.errors[-1], ZeroDivisionError)
    return [LENT]


async def a_release_that_hangs(scene: Scene) -> list[list[str]]:
    async with scene.manager.acquire_master():
        scene.servers["a"].freeze()
    scene.servers["a"].thaw()
    return [LENT]


async def put_into_the_drivers_pool_in_a_block(scene: Scene) -> list[list[str]]:
    async with scene.manager.acquire_master() as connection:
        pool = next(x for x in scene.manager.driver.pools if connection in x.lent)
        await pool.release(connection)
        async with scene.manager.acquire_master() as again:
            assert again is connection
            assert scene.in_use == 2
        assert scene.in_use == 1
    return [LENT, LENT]


async def put_into_the_drivers_pool_for_good(scene: Scene) -> list[list[str]]:
    connection = await scene.manager.acquire_master()
    pool = next(x for x in scene.manager.driver.pools if connection in x.lent)
    await pool.release(connection)
    async with scene.manager.acquire_master() as again:
        assert again is connection
        assert scene.in_use == 1, "nobody will ever give the first back"
        assert [node.in_flight for node in scene.manager.metrics().nodes] == [1, 0, 0]
    return [LENT, LENT]


async def registered_and_put_into_the_drivers_pool(scene: Scene) -> list[list[str]]:
    pool = (await scene.manager.get_master_pools())[0]
    connection = await pool.acquire()
    scene.manager.register_connection(connection, pool)
    await pool.release(connection)
    async with scene.manager.acquire_master():
        assert [node.in_flight for node in scene.manager.metrics().nodes] == [1, 0, 0]
    return [LENT]


async def lost_by_a_purge(scene: Scene) -> list[list[str]]:
    with pytest.raises(ConnectionError):
        async with scene.manager.acquire_master() as connection:
            scene.servers["a"].kill()
            await until(lambda: scene.manager.master_pool_count == 0)
            await connection.run()
    return [LENT]


async def retried_on_another_host(scene: Scene) -> list[list[str]]:
    for name in ("b", "c"):
        scene.servers[name].login_error = ConnectionRefusedError("no")
        scene.servers[name].drop_pooled()
    waiting = asyncio.create_task(hold(scene.manager.acquire_replica()))
    await until(lambda: scene.manager.metrics().retries > 0)
    for name in ("b", "c"):
        scene.servers[name].login_error = None
    await waiting
    return [LENT]


async def one_that_does_not_fit(scene: Scene) -> list[list[str]]:
    async with scene.manager.acquire_replica() as connection:
        server = connection.server
    server.promote()
    for each in server.connections:
        await each.run()  # from now on each reports that its server is no standby
    async with scene.manager.acquire_replica() as connection:
        assert connection.server is not server
    return [LENT, LENT]


async def refused_by_a_layer(scene: Scene) -> list[list[str]]:
    done = asyncio.Event()
    held = [asyncio.create_task(hold(scene.manager.acquire_replica(), done)) for _ in range(8)]
    await until(lambda: scene.in_use == 8)
    with pytest.raises(OverloadedError, match="8 of 8 leases are out"):
        async with scene.manager.acquire_replica(timeout=0.0):
            pass
    done.set()
    await asyncio.gather(*held)
    assert scene.outer.stories.pop() == FAILED
    return [LENT] * 8


ENDINGS = [
    a_block,
    a_block_with_an_error,
    a_call,
    a_call_within_the_block,
    another_tasks_call,
    of_one_pool,
    no_host,
    cancelled_while_waiting_for_a_host,
    cancelled_while_connecting,
    cancelled_in_the_block,
    cancelled_while_giving_back,
    cancelled_while_the_block_ends,
    an_error_as_the_block_ends,
    a_release_that_hangs,
    put_into_the_drivers_pool_in_a_block,
    put_into_the_drivers_pool_for_good,
    registered_and_put_into_the_drivers_pool,
    lost_by_a_purge,
    retried_on_another_host,
    one_that_does_not_fit,
    refused_by_a_layer,
]


async def hold(lease: Any, till: asyncio.Event | None = None) -> None:
    async with lease:
        if till is not None:
            await till.wait()


async def cancelled(work: Awaitable[Any], when: Callable[[], bool]) -> None:
    """Run some work in a task, and cancel the task when a condition holds."""

    async def do() -> None:
        await work

    task = asyncio.create_task(do())
    await until(when)
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
async def test_11_the_layers_are_told_once_of_a_lease_that_ends_by(
    ending: Callable[[Scene], Awaitable[list[list[str]]]],
) -> None:
    async with scene() as here:
        expected = await ending(here)
        assert here.in_use == 0
        assert here.outer.out == here.inner.out == 0
        assert here.outer.stories == expected
        assert here.inner.stories == expected
        assert all(node.in_flight == 0 for node in here.manager.metrics().nodes)


async def test_11_a_layer_that_refuses_is_not_passed_and_those_outside_of_it_are_told() -> None:
    async with scene(limit=1, queue=0) as here:
        async with here.manager.acquire_master():
            with pytest.raises(OverloadedError, match="queue=0"):
                await here.manager.acquire_master()
        assert here.outer.stories == [LENT, FAILED]
        assert here.inner.stories == [LENT]
        assert isinstance(here.outer.errors[0], OverloadedError)


@pytest.mark.parametrize("end", ["close", "terminate"])
async def test_11_leases_that_are_out_when_the_manager_closes_come_back(end: str) -> None:
    async with scene(limit=2) as here:
        began, done = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            async with here.manager.acquire_master():
                began.set()
                await done.wait()

        working = asyncio.create_task(work())
        waiting = [asyncio.create_task(hold(here.manager.acquire_master())) for _ in range(3)]
        await began.wait()
        closing = asyncio.create_task(getattr(here.manager, end)())
        await until(lambda: here.manager.closing)
        with pytest.raises(PoolManagerClosedError):
            await here.manager.acquire_master()
        done.set()
        await asyncio.gather(working, *waiting, closing, return_exceptions=True)
        assert here.in_use == 0
        assert here.outer.out == here.inner.out == 0


async def test_11_ten_thousand_cancels_leave_no_permit_token_or_place_behind() -> None:
    servers = fake_cluster("a master", "b replica")
    manager = manager_of(
        servers,
        pool_factory_kwargs={"max_size": 4},
        acquire_timeout=60.0,
        admission=Admission(6, queue=1000, adaptive=True),
        rate_limit=RateLimit("20000/second"),
        breaker=Breaker(),
    )
    outer, inner = record(manager)
    cancels = 0

    async def work(number: int) -> None:
        async with manager.acquire(read_only=number % 2 == 0):
            await asyncio.sleep(0.0005 * (number % 3))

    async with manager:
        await manager.ready(1, 1)
        while cancels < 10_000:
            tasks = [asyncio.create_task(work(number)) for number in range(200)]
            for turn in range(4):
                await asyncio.sleep(0.0005 * (turn % 2))
                for task in tasks[turn::5]:
                    cancels += task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: all(node.in_flight == 0 for node in manager.metrics().nodes))
        metrics = manager.metrics()
        assert metrics.admission is not None
        assert metrics.rate_limit is not None
        assert metrics.breaker is not None
        assert (metrics.admission.in_use, metrics.admission.waiting) == (0, 0)
        assert metrics.rate_limit.waiting == metrics.waiting == 0
        assert (metrics.breaker.state, metrics.breaker.failures) == (BreakerState.CLOSED, 0)
        assert outer.out == inner.out == 0
        assert all(story in (LENT, FAILED) for story in outer.stories)
        # All places are free, up to the limit as it has adapted. Critical acquires may use the
        # whole limit even while it is being probed.
        with priority(Priority.CRITICAL):
            held = [await manager.acquire_master() for _ in range(min(4, metrics.admission.limit))]
        for connection in held:
            await manager.release(connection)
