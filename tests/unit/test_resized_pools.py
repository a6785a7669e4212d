"""Pools that are resized while their connections are lent, asked for, or being given back."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hasql import NotAvailableError
from hasql.errors import PoolManagerClosedError
from simulation.virtual_time import VirtualClock, run
from testbed.fake_driver import fake_cluster, manager_of
from tests.unit.test_thread_manager import managed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from hasql.driver import PoolSizes
    from testbed.fake_driver import FakePool, FakeServer
    from testbed.fake_threads import ThreadManager

ANY = {"min_size": 0, "max_size": 4}
TWO = {"min_size": 0, "max_size": 2}


# What a lease of the former pool tells


def test_4_a_lease_that_breaks_has_its_host_held_though_the_pool_was_resized() -> None:
    clock, servers = VirtualClock(), fake_cluster("a master")
    manager = manager_of(servers, clock=clock, refresh_delay=60, pool_factory_kwargs=ANY)

    async def play() -> None:
        async with manager:
            lease = manager.acquire_master()
            connection = await lease.__aenter__()
            await manager.resize(max_size=5)
            async with manager.acquire_master():
                pass  # now idle, and perhaps broken like the other one
            servers["a"].latency = 0.05
            connection.lose()
            error = ConnectionResetError("it has broken")
            await lease.__aexit__(type(error), error, None)
            with pytest.raises(NotAvailableError):
                await manager.acquire_master(timeout=0.01)
            assert manager.driver.pools[-1].destinations.maybe_dead

    run(play(), clock)


def test_6_a_reader_that_hears_of_a_promotion_has_it_probed_though_the_pool_was_resized() -> None:
    clock, servers = VirtualClock(), fake_cluster("a master", "b replica")
    manager = manager_of(servers, clock=clock, refresh_delay=60, pool_factory_kwargs=ANY)

    async def play() -> None:
        async with manager:
            await manager.ready(1, 1)
            async with manager.acquire_replica() as connection:
                await manager.resize(max_size=5)
                await asyncio.sleep(11)  # until the burst is over
                servers["b"].promote()
                probes = len(servers["b"].probes)
                await connection.run()
            await asyncio.sleep(1)
            assert len(servers["b"].probes) > probes

    run(play(), clock)


def test_4_a_thread_whose_lease_breaks_has_the_host_doubted_though_the_pool_was_resized() -> None:
    with managed(fake_cluster("a master"), refresh_delay=60, pool_factory_kwargs=ANY) as manager:
        with pytest.raises(ConnectionResetError), manager.acquire_master() as connection:
            manager.resize(max_size=5)
            with manager.acquire_master():
                pass
            connection.lose()
            connection.use()
        (_, pool) = manager.driver.pools
        assert pool.destinations.maybe_dead


# Which connections are opened


def test_a_pool_that_was_replaced_meanwhile_is_not_filled() -> None:
    clock, servers = VirtualClock(), fake_cluster("a master")
    manager = manager_of(servers, clock=clock, refresh_delay=60, pool_factory_kwargs=ANY)
    kept: list[int] = []

    async def play() -> None:
        async with manager:
            first = await manager.acquire_master()
            await manager.resize(min_size=2, max_size=4)
            second = await manager.acquire_master()
            pool = manager.driver.pools[-1]

            async def keep(sizes: PoolSizes) -> None:
                kept.append(sizes.minimum)

            pool.keep = keep  # type: ignore[method-assign]
            releasing = asyncio.ensure_future(manager.release(first))
            # This empties the former pool, so that the next one may be filled up to its minimum.
            await manager.resize(min_size=3, max_size=4)
            await releasing
            await asyncio.sleep(1)
            await manager.release(second)

    run(play(), clock)
    assert kept == []


def test_what_a_pool_was_asked_for_before_it_was_resized_is_closed_when_it_is_back() -> None:
    servers = fake_cluster("a master")
    with managed(servers, refresh_delay=60, pool_factory_kwargs=TWO) as manager:
        pool = manager.pool_of("a")
        with manager.acquire_master():  # keeps the pool alive for a while

            def resize() -> None:
                pool.on_acquire = lambda: None
                manager.resize(max_size=3)
                manager.resize(max_size=2)

            pool.on_acquire = resize
            with manager.acquire_from_pool(pool) as connection:
                assert connection in pool.lent
            assert connection.closed
            assert most_lent(manager, servers["a"]) <= 2


def test_a_place_that_is_taken_as_the_pool_is_resized_counts_for_the_next() -> None:
    servers = fake_cluster("a master")
    with managed(servers, refresh_delay=60, pool_factory_kwargs=TWO) as manager:
        pool = manager.pool_of("a")
        with manager.acquire_master():
            lease = manager.acquire_from_pool(pool)
            resizing = threading.Thread(target=lambda: twice(manager))
            with run_beside("SharedRouter.occupy_on", resizing):
                lease.__enter__()
            resizing.join()
            try:
                assert 1 + most_lent(manager, servers["a"]) <= 2
            finally:
                lease.__exit__(None, None, None)


def test_who_waits_for_a_resize_is_told_that_the_manager_closes() -> None:
    clock, servers = VirtualClock(), fake_cluster("a master")
    manager = manager_of(servers, clock=clock)

    async def play() -> None:
        await manager.ready(1, 0)
        opened = manager.driver.open

        async def open_slowly(*args: Any) -> FakePool:
            await asyncio.sleep(1)
            return await opened(*args)

        manager.driver.open = open_slowly  # type: ignore[assignment, method-assign]
        resizing = asyncio.ensure_future(manager.resize(max_size=4))
        await asyncio.sleep(0.1)
        await manager.close(1)
        with pytest.raises(PoolManagerClosedError):
            await resizing

    run(play(), clock)


def twice(manager: ThreadManager) -> None:
    manager.resize(max_size=3)
    manager.resize(max_size=2)


def most_lent(manager: ThreadManager, server: FakeServer) -> int:
    """Return how many connections can be lent at once, with the one that is lent."""
    taken: list[Any] = []
    try:
        for _ in range(5):
            lease = manager.acquire_master(timeout=0.2)
            lease.__enter__()
            taken.append(lease)
    except NotAvailableError:
        pass
    pooled = [each for each in server.connections if each.on_lost is None]
    for lease in taken:
        lease.__exit__(None, None, None)
    assert len(pooled) <= 2
    return 1 + len(taken)


@contextmanager
def run_beside(function: str, thread: threading.Thread) -> Iterator[None]:
    """Start a thread where a function is called; give it a while, because it may have to wait."""

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_qualname == function:
            sys.setprofile(None)
            thread.start()
            thread.join(0.3)

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
