"""Leases that are never given back, with every driver: found, reported, and their places freed."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.probe import Role
from hasql.diagnostics import correlated
from hasql.events import Event, LeaseDropped, LeaseOverdue
from hasql.resilience import Category, LeaseTerminatedError, Lifecycle
from testbed.held_clock import HeldClock
from testbed.scene import until, until_sessions_at_most

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

    Manager = BasePoolManager[Any, Any]

pytestmark = pytest.mark.usefixtures("nothing_unheard")

#: Drivers whose pools keep alive what they lend.
KEEPS_ALIVE = {"asyncpg", "asyncpgsa"}


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: what these tests check is the same on any."""
    return "asyncio", {"use_uvloop": False}


@asynccontextmanager
async def watched(
    kit: Kit,
    cluster: LocalCluster,
    application: str,
    lifecycle: Lifecycle,
    clock: Callable[[], float] = monotonic,
) -> AsyncIterator[Manager]:
    dsn = f"{cluster.dsn}?application_name={application}"
    async with kit.manager(
        dsn,
        pool_factory_kwargs=kit.sizes(1, 2),
        lifecycle=lifecycle,
        clock=clock,
    ) as manager:
        await manager.ready(1, 2)
        yield manager


def told(manager: Manager, kind: type[Any]) -> list[Any]:
    events: list[Any] = []

    def note(event: Event) -> None:
        if isinstance(event, kind):
            events.append(event)

    manager.add_listener(note)
    return events


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(x) for x in caplog.records if vars(x).get("event") == event]


async def every_place_is_free(manager: Manager, kit: Kit) -> None:
    """Take both of the master's connections at the same time."""
    async with manager.acquire() as one, manager.acquire(timeout=5) as other:
        assert await kit.value(one, "SELECT 1") == await kit.value(other, "SELECT 1") == 1


async def test_leases_tell_who_holds_what_since_when_and_from_where(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    async with watched(kit, pg_cluster, application, Lifecycle(stacks=True)) as manager:
        assert manager.leases() == []
        with correlated("req-1"):
            async with manager.acquire() as connection:
                async with manager.acquire_replica():
                    master, replica = manager.leases()
                assert [master.role, replica.role] == [Role.MASTER, Role.REPLICA]
                assert master.host.port == pg_cluster.master.port
                assert master.since >= replica.since > 0
                assert master.correlation_id == replica.correlation_id == "req-1"
                task = asyncio.current_task()
                assert task is not None
                assert master.task == task.get_name()
                assert master.stack is not None
                assert master.stack.rstrip().endswith("async with manager.acquire() as connection:")
                assert "/hasql/_leasing/" not in master.stack
                assert await kit.value(connection, "SELECT 1") == 1
        assert manager.leases() == []


async def test_a_dropped_lease_is_given_back_and_reported(
    kit: Kit, pg_cluster: LocalCluster, application: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kit.name in KEEPS_ALIVE:
        return  # see the next test
    async with watched(kit, pg_cluster, application, Lifecycle()) as manager:
        events = told(manager, LeaseDropped)
        for number in range(4):  # more often than there are places
            with correlated(f"req-{number}"):
                connection = await manager.acquire(timeout=5)
            await kit.begin(connection, "SELECT 1")
            del connection
            gc.collect()
            await until(lambda: not manager.leases() and len(events) > number)  # noqa: B023
        assert [each.lease.correlation_id for each in events] == [f"req-{n}" for n in range(4)]
        assert manager.metrics().leases_dropped == 4
        await every_place_is_free(manager, kit)
        # The pool's sessions, and the monitor's.
        await until_sessions_at_most(pg_cluster.master, application, 2 + 1)
    records = logged(caplog, "lease_dropped")
    assert [(x["correlation_id"], x["role"], x["levelno"]) for x in records] == [
        (f"req-{number}", "master", logging.WARNING) for number in range(4)
    ]
    assert {x["host"] for x in records} == {f"127.0.0.1:{pg_cluster.master.port}"}


async def test_an_overdue_lease_is_reported_once_and_left_alone(
    kit: Kit, pg_cluster: LocalCluster, application: str, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle = Lifecycle(leak_threshold=0.1)
    async with watched(kit, pg_cluster, application, lifecycle) as manager:
        events = told(manager, LeaseOverdue)
        with correlated("req-1"):
            connection = await manager.acquire()
        await until(lambda: bool(events))
        async with manager.acquire_replica() as other:
            await until(lambda: len(events) == 2)  # so the first was looked at again
            assert await kit.value(other, "SELECT 1") == 1
        assert [(each.lease.correlation_id, each.terminated) for each in events] == [
            ("req-1", False),
            (None, False),
        ]
        assert await kit.value(connection, "SELECT 1") == 1  # the lease was not broken
        await manager.release(connection)
        assert manager.metrics().leases_overdue == 2
    records = logged(caplog, "lease_overdue")
    assert [x["correlation_id"] for x in records] == ["req-1", None]


async def test_a_terminated_lease_breaks_and_its_place_is_free(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    lifecycle, clock = Lifecycle(leak_threshold=0.1, leak_action="terminate"), HeldClock()
    async with watched(kit, pg_cluster, application, lifecycle, clock) as manager:
        events = told(manager, LeaseOverdue)
        leaked = [await manager.acquire(), await manager.acquire()]
        await until(lambda: len(events) == 2 and not manager.leases())
        assert all(each.terminated for each in events)
        with clock.held():
            await every_place_is_free(manager, kit)
        for connection in leaked:
            with pytest.raises(Exception, match=r".*"):  # whatever the driver says
                await kit.value(connection, "SELECT 1")
            await manager.release(connection)  # as after any other loss
        clock.hold()
        await every_place_is_free(manager, kit)
        assert manager.metrics().nodes[0].in_flight == 0


@pytest.mark.parametrize("notices", [False, True])
async def test_18_work_whose_lease_was_terminated_is_not_begun_again(
    kit: Kit, pg_cluster: LocalCluster, application: str, notices: bool
) -> None:
    lifecycle, clock = Lifecycle(leak_threshold=0.1, leak_action="terminate"), HeldClock()
    async with watched(kit, pg_cluster, application, lifecycle, clock) as manager:
        events, calls = told(manager, LeaseOverdue), 0

        async def work(connection: Any) -> None:
            nonlocal calls
            calls += 1
            await kit.value(connection, "SELECT 1")
            clock.go_on()
            if notices:
                await kit.value(connection, "SELECT 1 FROM pg_sleep(20)")
            await until(lambda: bool(events))

        clock.hold()
        with pytest.raises(Exception, match=r".*") as met:  # whatever the driver says
            await manager.run(work)
        assert calls == 1
        assert isinstance(met.value, LeaseTerminatedError) or notices
        assert manager.category(met.value) is Category.APPLICATION, repr(met.value)
        assert not manager.retriable(met.value)


async def test_a_block_does_not_end_well_whose_lease_was_terminated(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    lifecycle, clock = Lifecycle(leak_threshold=0.1, leak_action="terminate"), HeldClock()
    async with watched(kit, pg_cluster, application, lifecycle, clock) as manager:
        events = told(manager, LeaseOverdue)
        with pytest.raises(LeaseTerminatedError, match="leak_threshold"):
            clock.hold()
            async with manager.acquire() as connection:
                await kit.begin(connection, "SELECT 1")
                clock.go_on()
                await until(lambda: bool(events))
        with pytest.raises(KeyError, match="mine"):
            async with manager.acquire():
                await until(lambda: len(events) == 2)
                raise KeyError("mine")
        clock.hold()
        await every_place_is_free(manager, kit)
