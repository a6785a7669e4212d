"""The watch on leases: its cost in memory and timers, and its arguments."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from traceback import StackSummary, extract_stack
from typing import Any

import pytest

from hasql import ConfigurationError
from hasql.diagnostics import correlated, correlation_id
from hasql.events import LeaseOverdue
from hasql.resilience import Admission, Lifecycle
from simulation.virtual_time import VirtualClock, run
from testbed.fake_driver import FakeManager, fake_cluster, manager_of, until
from testbed.fake_threads import ThreadManager

#: The number of acquires after which nothing may be left behind.
MANY = 100_000


async def give_back_at_once(pool: Any, connection: Any, **_: Any) -> None:
    """Stand in for a pool's release, without a question to the server."""
    pool.lent.discard(connection)
    pool.free.append(connection)


@pytest.fixture
async def fast() -> Any:
    """A manager that uses all settings of `Lifecycle`, and whose releases are fast."""
    everything = Lifecycle(
        max_lifetime=600, max_idle=600, check_idle=600, leak_threshold=600, stacks=False
    )
    async with manager_of(fake_cluster("a master"), lifecycle=everything) as manager:
        await manager.ready()
        (pool,) = manager.driver.pools
        pool.release = give_back_at_once.__get__(pool)  # type: ignore[method-assign]
        yield manager


def tracked() -> tuple[int, int]:
    """Return the number of objects, and of blocks of memory."""
    gc.collect()
    return len(gc.get_objects()), sys.getallocatedblocks()


async def test_15_nothing_grows_with_operations(fast: FakeManager) -> None:
    async def use(times: int) -> None:
        for _ in range(times):
            async with fast.acquire_master():
                pass

    await use(1000)
    objects, blocks = tracked()
    await use(MANY)
    more_objects, more_blocks = tracked()
    assert more_objects - objects < 100
    assert more_blocks - blocks < 1000
    assert fast.leases() == []


async def test_15_there_is_one_timer_for_all_leases_and_none_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, made = asyncio.get_running_loop(), []
    call_later = loop.call_later

    def note(delay: float, function: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(function, "__qualname__", "").startswith("LeaseWatch."):
            made.append(function)
        return call_later(delay, function, *args, **kwargs)

    servers = fake_cluster("a master")
    async with manager_of(servers, lifecycle=Lifecycle(leak_threshold=5)) as manager:
        if not hasattr(loop, "_run_once"):
            return  # uvloop's methods cannot be replaced
        monkeypatch.setattr(loop, "call_later", note)
        await asyncio.sleep(0.01)
        assert made == []  # no lease is out
        for _ in range(50):
            async with manager.acquire():
                await asyncio.sleep(0)
        assert len(made) == 1


async def test_11_cancellation_anywhere_leaves_no_lease_behind() -> None:
    lifecycle = Lifecycle(leak_threshold=0.05, leak_action="terminate", stacks=True)
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, lifecycle=lifecycle, fallback_master=True) as manager:

        async def use(turn: int) -> None:
            async with manager.acquire(read_only=turn % 2 == 1):
                await asyncio.sleep(0)

        for turn in range(2000):
            task = asyncio.create_task(use(turn))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        await until(lambda: not any(node.in_flight for node in manager.metrics().nodes))
        assert manager.leases() == []
        async with manager.acquire(), manager.acquire(timeout=5):
            pass


async def test_a_lease_that_is_registered_is_watched_too() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, lifecycle=Lifecycle(leak_threshold=0.02)) as manager:
        told: list[Any] = []
        manager.add_listener(told.append)
        [pool] = await manager.get_master_pools()
        connection = await pool.acquire()
        manager.register_connection(connection, pool)
        async with manager.acquire():  # this sets the timer
            (registered, _) = manager.leases()
            assert registered.task is None
            await until(lambda: sum(isinstance(each, LeaseOverdue) for each in told) == 2)
        await manager.release(connection)


async def test_of_a_lease_is_told_under_its_own_correlation_id() -> None:
    """The timer was set by another request, which has another id."""
    servers = fake_cluster("a master")
    async with manager_of(servers, lifecycle=Lifecycle(leak_threshold=0.02)) as manager:
        told: list[tuple[str | None, str | None]] = []

        def listen(event: Any) -> None:
            told.append((event.lease.correlation_id, correlation_id.get()))

        manager.add_listener(listen)
        with correlated("first"):
            first = await manager.acquire()
        with correlated("second"):
            second = await manager.acquire()
        await until(lambda: len(told) == 2)
        assert told == [("first", "first"), ("second", "second")]
        for connection in (first, second):
            await manager.release(connection)


CALL = re.compile(r'File "(.*)", line (\d+), in (.*)')


def calls_in(stack: str | None) -> list[tuple[str, int, str]]:
    assert stack is not None
    return [(file, int(line), name) for file, line, name in CALL.findall(stack)]


def as_calls(expected: StackSummary) -> list[tuple[str, int | None, str]]:
    return [(each.filename, each.lineno, each.name) for each in expected]


@pytest.mark.parametrize("depth", [0, 3, 30])
async def test_the_stack_of_a_task_is_that_of_a_traceback(depth: int) -> None:
    async def acquire(depth: int) -> tuple[StackSummary, Any]:
        if depth:
            return await acquire(depth - 1)
        # With several lines in the body, the stack has to show the right one.
        one, two, three = 1, 2, 3
        assert one + two == three
        return extract_stack(), await manager.acquire()

    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, lifecycle=Lifecycle(stacks=True)) as manager:
        expected, connection = await acquire(depth)
        (lease,) = manager.leases()
        assert calls_in(lease.stack) == as_calls(expected)[-16:]
        await manager.release(connection)


@pytest.mark.parametrize("depth", [0, 30])
@pytest.mark.parametrize("more", [{}, {"admission": Admission(5)}], ids=["alone", "admission"])
def test_the_stack_of_a_thread_is_that_of_a_traceback(depth: int, more: dict[str, Any]) -> None:
    def acquire(depth: int) -> tuple[StackSummary, Any]:
        if depth:
            return acquire(depth - 1)
        return extract_stack(), manager.getconn()

    servers = fake_cluster("a master")
    with (
        ThreadManager(servers, lifecycle=Lifecycle(stacks=True), **more) as manager,
        ThreadPoolExecutor(1) as other,  # its call stack is shallow
    ):
        expected, connection = other.submit(acquire, depth).result()
        (lease,) = manager.leases()
        assert calls_in(lease.stack) == as_calls(expected)[-16:]
        assert lease.stack is not None
        assert ("16 calls" in lease.stack) == bool(depth)
        manager.putconn(connection)


@pytest.mark.parametrize("settles", [False, True])
def test_a_block_that_is_cancelled_after_its_lease_was_freed_ends_quietly(
    settles: bool,
) -> None:
    clock, servers = VirtualClock(), fake_cluster("a master")
    lifecycle = Lifecycle(leak_threshold=0.5, leak_action="terminate")

    async def commit() -> None:
        try:
            await asyncio.sleep(2)  # the driver does not notice that the connection was broken
        except asyncio.CancelledError:
            if settles:
                await asyncio.sleep(0.1)
            raise

    async def play() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with manager_of(servers, clock=clock, lifecycle=lifecycle) as manager:
            await manager.ready(1, 0)
            await asyncio.sleep(1)
            [pool] = manager.driver.pools
            pool.leave_block = lambda *_: commit()

            async def use() -> None:
                async with manager.acquire():
                    pass

            task = asyncio.create_task(use())
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait({task})
            await asyncio.sleep(3)
            assert manager.metrics().nodes[0].in_flight == 0
            assert told == []

    run(play(), clock)


@pytest.mark.parametrize("name", ["max_lifetime", "max_idle", "check_idle", "leak_threshold"])
def test_durations_are_checked(name: str) -> None:
    given: dict[str, Any]
    for wrong in (0, -1, float("inf"), float("nan")):
        given = {name: wrong}
        with pytest.raises(ConfigurationError, match=name):
            Lifecycle(**given)
    given = {name: "1"}
    with pytest.raises(TypeError, match=name):
        Lifecycle(**given)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"jitter": 2.0}, ConfigurationError, "jitter"),
    ({"leak_action": "kill"}, ConfigurationError, "'report' or 'terminate'"),
    ({"leak_action": "terminate"}, ConfigurationError, "needs leak_threshold"),
    ({"stacks": 1}, TypeError, "stacks"),
]


@pytest.mark.parametrize(("given", "error", "said"), REFUSED)
def test_what_cannot_work_is_refused(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        Lifecycle(**given)
