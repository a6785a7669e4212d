"""Leases that threads never give back are found and reported, and their places become free."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from threading import Thread, current_thread
from typing import TYPE_CHECKING, Any

import pytest

from hasql.diagnostics import correlated
from hasql.events import Event, LeaseDropped, LeaseOverdue
from hasql.resilience import Category, LeaseTerminatedError, Lifecycle
from testbed.held_clock import HeldClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.sync_kits import SyncKit

    Manager = BaseSyncPoolManager[Any, Any]

#: The drivers whose pools keep alive what they lend.
KEEPS_ALIVE = {"psycopg2"}


@contextmanager
def watched(
    kit: SyncKit,
    cluster: LocalCluster,
    lifecycle: Lifecycle,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Manager]:
    with kit.manager(
        cluster.dsn, pool_factory_kwargs=kit.sizes(1, 2), lifecycle=lifecycle, clock=clock
    ) as manager:
        manager.ready(1, 2)
        yield manager


def told(manager: Manager, kind: type[Any]) -> list[Any]:
    events: list[Any] = []

    def note(event: Event) -> None:
        if isinstance(event, kind):
            events.append(event)

    manager.add_listener(note)
    return events


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def every_place_is_free(manager: Manager, kit: SyncKit) -> None:
    with manager.acquire() as one, manager.acquire(timeout=5) as other:
        assert kit.value(one, "SELECT 1") == kit.value(other, "SELECT 1") == 1
        kit.end(one)
        kit.end(other)


def test_leases_tell_who_holds_what_since_when_and_from_where(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    with watched(sync_kit, pg_cluster, Lifecycle(stacks=True)) as manager:
        with correlated("req-1"), manager.acquire():
            (lease,) = manager.leases()
            assert lease.correlation_id == "req-1"
            assert lease.task == current_thread().name
            assert lease.since > 0
            assert lease.stack is not None
            assert lease.stack.rstrip().endswith('with correlated("req-1"), manager.acquire():')
        assert manager.leases() == []


def test_a_dropped_lease_is_given_back_and_reported(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    if sync_kit.name in KEEPS_ALIVE:
        return  # see the next test
    with watched(sync_kit, pg_cluster, Lifecycle()) as manager:
        events = told(manager, LeaseDropped)

        def leak() -> None:  # its thread has ended when the leak is found
            sync_kit.begin(manager.getconn(timeout=5), "SELECT 1")

        for number in range(4):  # more than there are places
            thread = Thread(target=leak, name=f"leaks {number}")
            thread.start()
            thread.join()
            gc.collect()
            until(lambda: len(events) > number)  # noqa: B023
        assert [each.lease.task for each in events] == [f"leaks {number}" for number in range(4)]
        until(lambda: not manager.leases())
        every_place_is_free(manager, sync_kit)


def test_an_overdue_lease_is_reported_once_and_left_alone(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    with watched(sync_kit, pg_cluster, Lifecycle(leak_threshold=0.1)) as manager:
        events = told(manager, LeaseOverdue)
        connection = manager.getconn()
        until(lambda: bool(events))
        with manager.acquire_replica():
            until(lambda: len(events) == 2)  # by then the first was looked at again
        assert not any(each.terminated for each in events)
        assert sync_kit.value(connection, "SELECT 1") == 1  # the session was not ended
        manager.putconn(connection)
        assert manager.metrics().leases_overdue == 2


def test_a_terminated_lease_breaks_and_its_place_is_free(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    lifecycle, clock = Lifecycle(leak_threshold=0.1, leak_action="terminate"), HeldClock()
    with watched(sync_kit, pg_cluster, lifecycle, clock) as manager:
        events = told(manager, LeaseOverdue)
        leaked = [manager.getconn(), manager.getconn()]
        until(lambda: len(events) == 2 and not manager.leases())
        with clock.held():
            every_place_is_free(manager, sync_kit)
        for connection in leaked:
            with pytest.raises(Exception, match=r".*"):  # whatever the driver says
                sync_kit.value(connection, "SELECT 1")
            manager.putconn(connection)  # as after any other loss
        with clock.held():
            every_place_is_free(manager, sync_kit)
        assert manager.metrics().nodes[0].in_flight == 0
        with pytest.raises(LeaseTerminatedError), manager.acquire():
            until(lambda: len(events) == 3)


def test_18_work_whose_lease_was_terminated_is_not_begun_again(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    lifecycle, clock = Lifecycle(leak_threshold=0.2, leak_action="terminate"), HeldClock()
    with watched(sync_kit, pg_cluster, lifecycle, clock) as manager:
        calls = 0

        def work(connection: Any) -> None:
            nonlocal calls
            calls += 1
            sync_kit.value(connection, "SELECT 1")
            clock.go_on()
            sync_kit.value(connection, "SELECT pg_sleep(20)")

        clock.hold()
        with pytest.raises(sync_kit.lost) as met:
            manager.run(work)
        assert calls == 1
        assert manager.category(met.value) is Category.APPLICATION, repr(met.value)
        assert not manager.retriable(met.value)


def test_a_statement_that_runs_for_too_long_ends_with_its_terminated_lease(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    lifecycle, clock = Lifecycle(leak_threshold=0.2, leak_action="terminate"), HeldClock()
    with watched(sync_kit, pg_cluster, lifecycle, clock) as manager:
        began = time.monotonic()
        with pytest.raises(sync_kit.lost), manager.acquire() as connection:
            sync_kit.value(connection, "SELECT pg_sleep(20)")
        assert time.monotonic() - began < 10
        clock.hold()
        every_place_is_free(manager, sync_kit)
