"""Threads that are interrupted anywhere in hasql, on real servers, lose no place."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest

from testbed.sync_kits import Psycopg3ThreadKit
from tests.unit.test_thread_faults import HASQL, interrupted_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.sync_kits import SyncKit

    Manager = BaseSyncPoolManager[Any, Any]

#: Seconds within which an acquire is served if a place is free.
LONG = 5.0


@contextmanager
def with_one_place(kit: SyncKit, cluster: LocalCluster) -> Iterator[Manager]:
    with kit.manager(cluster.dsn, pool_factory_kwargs=kit.sizes(0, 1)) as manager:
        manager.ready(1, 0)
        yield manager


def use(kit: SyncKit, manager: Manager) -> None:
    with manager.acquire_master(timeout=LONG) as connection:
        assert kit.value(connection, "SELECT 1") == 1
        kit.end(connection)


def acquire_interrupted_at(
    point: int, manager: Manager, within: tuple[str, ...] = (HASQL,)
) -> bool:
    """Acquire, interrupted at a point, and give back what was acquired; see `interrupted_at`."""
    taken: list[Any] = []
    interrupted = interrupted_at(point, lambda: taken.append(manager.getconn(timeout=LONG)), within)
    for connection in taken:
        manager.putconn(connection)
    return interrupted


def in_flight(manager: Manager) -> int:
    return sum(node.in_flight for node in manager.metrics().nodes)


def test_11_giving_back_interrupted_anywhere_loses_no_place(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    with with_one_place(sync_kit, pg_cluster) as manager:
        for point in count(1):
            lease = manager.acquire_master(timeout=LONG)
            connection = lease.__enter__()
            assert sync_kit.value(connection, "SELECT 1") == 1
            sync_kit.end(connection)
            end = partial(lease.__exit__, None, None, None)
            interrupted = interrupted_at(point, end)
            if point == 1:
                end()  # it was interrupted before it began
            use(sync_kit, manager)
            assert in_flight(manager) == 0, point
            if not interrupted:
                break
        assert point > 10


def test_11_an_acquire_interrupted_anywhere_loses_no_place(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    with with_one_place(sync_kit, pg_cluster) as manager:
        for point in count(1):
            interrupted = acquire_interrupted_at(point, manager)
            use(sync_kit, manager)
            assert in_flight(manager) == 0, point
            if not interrupted:
                break
        assert point > 10


@pytest.mark.parametrize("opens", [False, True], ids=["an idle one", "a new one"])
def test_11_an_acquire_interrupted_anywhere_in_psycopgs_pool_loses_no_place(
    pg_cluster: LocalCluster, opens: bool
) -> None:
    kit, within = Psycopg3ThreadKit(), (HASQL, psycopg_pool.__path__[0])
    with with_one_place(kit, pg_cluster) as manager:
        use(kit, manager)
        for point in count(1):
            if opens:
                with manager.acquire_master(timeout=LONG) as connection:
                    connection.close()
            interrupted = acquire_interrupted_at(point, manager, within)
            use(kit, manager)
            assert in_flight(manager) == 0, point
            if not interrupted:
                break
        assert point > 30


def test_11_giving_back_interrupted_anywhere_in_psycopgs_pool_loses_no_place(
    pg_cluster: LocalCluster,
) -> None:
    kit, within = Psycopg3ThreadKit(), (HASQL, psycopg_pool.__path__[0])
    with with_one_place(kit, pg_cluster) as manager:
        for point in count(2):  # the first point is before it begins
            lease = manager.acquire_master(timeout=LONG)
            lease.__enter__()
            interrupted = interrupted_at(point, partial(lease.__exit__, None, None, None), within)
            use(kit, manager)
            assert in_flight(manager) == 0, point
            if not interrupted:
                break
        assert point > 20
