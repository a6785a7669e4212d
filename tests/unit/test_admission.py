"""Admission in a manager: which acquires wait, which go first, and what a refusal says."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import (
    ConfigurationError,
    NotAvailableError,
    OverloadedError,
    PoolManagerClosedError,
)
from hasql.resilience import Admission, Priority, priority
from simulation.virtual_time import VirtualClock, new_loop
from testbed.fake_driver import FakeManager, fake_cluster, manager_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: For tests in which the clock decides what comes first, not how busy the machine is.
in_virtual_time = pytest.mark.parametrize(
    "anyio_backend",
    [pytest.param(("asyncio", {"loop_factory": partial(new_loop, VirtualClock())}), id="virtual")],
)


@asynccontextmanager
async def managed(admission: Admission, **kwargs: Any) -> AsyncIterator[FakeManager]:
    manager = manager_of(
        fake_cluster("a master", "b replica"),
        admission=admission,
        pool_factory_kwargs={"max_size": 50},
        **kwargs,
    )
    async with manager:
        await manager.ready(1, 1)
        yield manager


class Crowd:
    """Tasks that each ask for a lease; `let_in` is the order in which they get it."""

    def __init__(self, manager: FakeManager) -> None:
        self._manager = manager
        self.tasks: list[asyncio.Task[None]] = []
        self.let_in: list[str] = []
        self._done: dict[str, asyncio.Event] = {}

    async def ask(
        self, name: str, level: Priority = Priority.NORMAL, timeout: float = 60.0, **kwargs: Any
    ) -> None:
        """Let one more task ask for a lease, and wait until it has the lease or waits for it."""
        self._done[name] = asyncio.Event()

        async def use() -> None:
            with priority(level):
                async with self._manager.acquire(timeout=timeout, **kwargs):
                    self.let_in.append(name)
                    await self._done[name].wait()

        self.tasks.append(asyncio.create_task(use()))
        for _ in range(10):
            await asyncio.sleep(0)

    async def end(self, *names: str) -> None:
        for name in names:
            self._done[name].set()
            for _ in range(20):
                await asyncio.sleep(0)

    async def end_all(self) -> list[BaseException | None]:
        for done in self._done.values():
            done.set()
        return await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_those_who_wait_are_let_in_by_priority_and_then_in_the_order_of_asking() -> None:
    async with managed(Admission(1)) as manager:
        crowd = Crowd(manager)
        await crowd.ask("first")
        await crowd.ask("background", Priority.BACKGROUND)
        await crowd.ask("normal 1")
        await crowd.ask("normal 2")
        await crowd.ask("critical", Priority.CRITICAL)
        for name in ("first", "critical", "normal 1", "normal 2", "background"):
            await crowd.end(name)
        assert await crowd.end_all() == [None] * 5
        assert crowd.let_in == ["first", "critical", "normal 1", "normal 2", "background"]


@in_virtual_time
async def test_who_has_waited_for_half_of_its_deadline_goes_first() -> None:
    async with managed(Admission(1), clock=asyncio.get_running_loop().time) as manager:
        crowd = Crowd(manager)
        await crowd.ask("first")
        await crowd.ask("critical", Priority.CRITICAL)
        await crowd.ask("background", Priority.BACKGROUND, timeout=1.0)
        await asyncio.sleep(0.55)
        await crowd.end("first", "background")
        assert await crowd.end_all() == [None] * 3
        assert crowd.let_in == ["first", "background", "critical"]


async def test_a_share_is_kept_for_what_is_critical() -> None:
    async with managed(Admission(10, reserve=0.25)) as manager:  # two, rounded down
        crowd = Crowd(manager)
        for number in range(9):
            await crowd.ask(f"normal {number}")
        assert len(crowd.let_in) == 8
        for name in ("critical 1", "critical 2", "critical 3"):
            await crowd.ask(name, Priority.CRITICAL)
        assert crowd.let_in[8:] == ["critical 1", "critical 2"]
        await crowd.end("normal 0")
        assert crowd.let_in[10:] == ["critical 3"]
        await crowd.end("critical 1")
        assert len(crowd.let_in) == 11, "what is kept is for nobody else"
        await crowd.end("critical 2", "critical 3")
        assert crowd.let_in[11:] == ["normal 8"]
        await crowd.end_all()


async def test_a_full_queue_refuses_at_once_and_says_why() -> None:
    async with managed(Admission(2, queue=1)) as manager:
        crowd = Crowd(manager)
        for name in ("first", "second", "waits"):
            await crowd.ask(name)
        began = asyncio.get_running_loop().time()
        with pytest.raises(OverloadedError) as raised:
            await manager.acquire(timeout=60)
        assert asyncio.get_running_loop().time() - began < 1.0
        assert str(raised.value) == (
            "overloaded: 2 of 2 leases are out and 1 waiting, the most allowed (queue=1); try "
            "later, do less at once, or raise limit or queue"
        )
        assert isinstance(raised.value, NotAvailableError)
        metrics = manager.metrics().admission
        assert metrics is not None
        assert (metrics.limit, metrics.in_use, metrics.waiting) == (2, 2, 1)
        assert (metrics.waits, metrics.refusals, metrics.timeouts) == (1, 1, 0)
        await crowd.end_all()


async def test_in_a_full_queue_who_came_last_of_those_that_count_less_gives_way() -> None:
    async with managed(Admission(1, queue=3)) as manager:
        crowd = Crowd(manager)
        await crowd.ask("first")
        await crowd.ask("background", Priority.BACKGROUND)
        await crowd.ask("normal 1")
        await crowd.ask("normal 2")
        await crowd.ask("critical 1", Priority.CRITICAL)
        await crowd.ask("critical 2", Priority.CRITICAL)
        await crowd.end("first", "critical 1", "critical 2", "normal 1")
        ended = await crowd.end_all()
        assert crowd.let_in == ["first", "critical 1", "critical 2", "normal 1"]
        assert [type(error) for error in ended] == [
            type(None),
            OverloadedError,
            type(None),
            OverloadedError,
            type(None),
            type(None),
        ]


async def test_waiting_ends_at_the_deadline_and_says_for_what_it_was() -> None:
    async with managed(Admission(2)) as manager, manager.acquire_master():
        async with manager.acquire_replica():
            began = asyncio.get_running_loop().time()
            with pytest.raises(
                NotAvailableError, match=r"no admission within 0.1 s: 2 of 2 leases are out"
            ):
                await manager.acquire_replica(timeout=0.1)
            assert 0.09 < asyncio.get_running_loop().time() - began < 2.0
        metrics = manager.metrics().admission
        assert metrics is not None
        assert (metrics.waiting, metrics.waits, metrics.timeouts) == (0, 1, 1)


async def test_replicas_may_be_counted_apart_by_what_is_asked_for() -> None:
    servers = fake_cluster("a master", "b replica")
    admission = Admission(1, replica_limit=2, queue=0)
    async with manager_of(
        servers, admission=admission, fallback_master=True, refresh_delay=0.05
    ) as manager:
        await manager.ready(1, 1)
        async with manager.acquire_master(), manager.acquire_replica(), manager.acquire_replica():
            with pytest.raises(OverloadedError, match="1 of 1 leases other than those of replicas"):
                await manager.acquire_master()
            with pytest.raises(OverloadedError, match="2 of 2 leases of replicas"):
                await manager.acquire_replica()
        servers["b"].kill()
        await until(lambda: manager.replica_pool_count == 0)
        async with manager.acquire_replica():  # falls back to the master
            metrics = manager.metrics()
            assert metrics.admission is not None
            assert metrics.replica_admission is not None
            assert (metrics.admission.in_use, metrics.replica_admission.in_use) == (0, 1)
        [pool] = await manager.get_master_pools()
        async with manager.acquire_from_pool(pool):
            metrics = manager.metrics()
            assert metrics.admission is not None
            assert metrics.admission.in_use == 1


async def test_those_who_wait_are_told_at_once_that_the_manager_closes() -> None:
    async with managed(Admission(1)) as manager:
        crowd = Crowd(manager)
        for name in ("first", "second", "third"):
            await crowd.ask(name)
        closing = asyncio.create_task(manager.close())
        await asyncio.sleep(0)
        ended = await asyncio.wait_for(asyncio.gather(*crowd.tasks[1:], return_exceptions=True), 1)
        assert [type(error) for error in ended] == [PoolManagerClosedError] * 2
        await crowd.end_all()
        await closing


async def test_another_loop_is_refused_before_it_waits() -> None:
    async with managed(Admission(1)) as manager, manager.acquire_master():

        async def elsewhere() -> None:
            with pytest.raises(Exception, match="another event loop"):
                await manager.acquire_master()

        await asyncio.to_thread(asyncio.run, elsewhere())


def test_priority_is_for_what_is_inside() -> None:
    with pytest.raises(TypeError, match=r"Priority\.CRITICAL"), priority(0):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": 0}, ConfigurationError),
        ({"limit": 1.5}, TypeError),
        ({"limit": True}, TypeError),
        ({"limit": 1, "replica_limit": 0}, ConfigurationError),
        ({"limit": 1, "queue": -1}, ConfigurationError),
        ({"limit": 1, "reserve": 1.0}, ConfigurationError),
        ({"limit": 1, "reserve": -0.1}, ConfigurationError),
        ({"limit": 1, "adaptive": 1}, TypeError),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Admission(**arguments)
