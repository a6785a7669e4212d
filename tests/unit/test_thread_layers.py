"""The layers around leases of threads leave nothing behind, wherever a thread is interrupted.

These tests cover what differs from `test_layers`, which is about tasks (invariant 11).
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from hasql.errors import NotAvailableError, OverloadedError, PoolManagerClosedError
from hasql.metrics import BreakerState
from hasql.resilience import Admission, Breaker, RateLimit
from testbed.fake_driver import fake_cluster
from testbed.fake_threads import ThreadManager
from testbed.recording_layer import RecordingLayer, record
from tests.unit.test_thread_faults import hosts_of, interrupted_at
from tests.unit.test_thread_manager import LONG, in_child, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LENT = ["lent", "returned"]
FAILED = ["failed"]


@contextmanager
def watched(
    limit: int, rate: str = "100000/second", *, adaptive: bool = False, **kwargs: Any
) -> Iterator[tuple[ThreadManager, RecordingLayer]]:
    """Make a manager that uses all layers."""
    manager = ThreadManager(
        fake_cluster("a master", "b replica"),
        refresh_delay=60,
        admission=Admission(limit, reserve=0.0, adaptive=adaptive),
        rate_limit=RateLimit(rate),
        breaker=Breaker(threshold=1000),
        **kwargs,
    )
    outer, _ = record(manager)
    try:
        manager.ready(1, 1)
        yield manager, outer
    finally:
        manager.terminate()


def in_use(manager: ThreadManager) -> int:
    admission = manager.metrics().admission
    assert admission is not None
    return admission.in_use


def nothing_is_left(manager: ThreadManager) -> bool:
    metrics = manager.metrics()
    assert metrics.admission is not None
    assert metrics.rate_limit is not None
    assert metrics.breaker is not None
    return (
        (metrics.admission.in_use, metrics.admission.waiting) == (0, 0)
        and metrics.rate_limit.waiting == metrics.waiting == 0
        and metrics.breaker.state is BreakerState.CLOSED
        and hosts_of(manager) == [0, 0]
    )


# How a lease may end


def a_block(manager: ThreadManager) -> None:
    with manager.acquire_master():
        assert in_use(manager) == 1


def a_call(manager: ThreadManager) -> None:
    manager.putconn(manager.getconn())


def a_call_within_the_block(manager: ThreadManager) -> None:
    with manager.acquire_master() as connection:
        manager.putconn(connection)
        assert in_use(manager) == 0


def another_threads_call(manager: ThreadManager) -> None:
    connection = manager.getconn()
    other = threading.Thread(target=manager.putconn, args=[connection])
    other.start()
    other.join()


def put_into_the_drivers_pool_for_good(manager: ThreadManager) -> None:
    connection = manager.getconn()
    manager.pool_of("a").release(connection)
    with manager.acquire_master() as again:
        assert again is connection
        assert in_use(manager) == 1, "nobody will ever give the first back"
        assert hosts_of(manager) == [1, 0]


def put_into_the_drivers_pool_in_a_block(manager: ThreadManager) -> None:
    with manager.acquire_master() as connection:
        manager.pool_of("a").release(connection)
        with manager.acquire_master() as again:
            assert again is connection
            assert in_use(manager) == 2
        assert in_use(manager) == 1


def lost(manager: ThreadManager) -> None:
    with pytest.raises(ConnectionResetError), manager.acquire_master() as connection:
        connection.lose()
        connection.use()


def no_place(manager: ThreadManager) -> None:
    with manager.acquire_master(), manager.acquire_master(), pytest.raises(NotAvailableError):
        manager.getconn(timeout=0.01)


def refused(manager: ThreadManager) -> None:
    held = [manager.getconn(number % 2 == 0) for number in range(4)]
    with pytest.raises(OverloadedError, match="4 of 4 leases are out"):
        manager.getconn(timeout=0.01)
    for each in held:
        manager.putconn(each)


@pytest.mark.parametrize(
    "ending",
    [
        a_block,
        a_call,
        a_call_within_the_block,
        another_threads_call,
        put_into_the_drivers_pool_for_good,
        put_into_the_drivers_pool_in_a_block,
        lost,
        no_place,
        refused,
    ],
    ids=lambda ending: ending.__name__,
)
def test_11_the_layers_are_told_once_of_a_lease_that_ends_by(
    ending: Callable[[ThreadManager], None],
) -> None:
    with watched(4) as (manager, outer):
        ending(manager)
        assert nothing_is_left(manager)
        assert all(story in (LENT, FAILED) for story in outer.stories), outer.stories


# Interrupts


@pytest.mark.parametrize("waits_for", ["nothing", "admission", "a token"])
def test_11_an_acquire_interrupted_anywhere_leaves_nothing_behind(waits_for: str) -> None:
    rate = "100/second" if waits_for == "a token" else "100000/second"
    with watched(1, rate=rate) as (manager, outer), ThreadPoolExecutor(1) as others:
        if waits_for == "a token":
            for _ in range(100):
                manager.putconn(manager.getconn())
        for point in count(1):
            gives_back, over = None, threading.Event()
            if waits_for == "admission":
                gives_back = others.submit(give_back_later, manager, manager.getconn(), over)
            taken: list[Any] = []
            interrupted = interrupted_at(point, lambda: taken.append(manager.getconn(timeout=LONG)))  # noqa: B023
            over.set()
            if gives_back is not None:
                gives_back.result()
            for each in taken:
                manager.putconn(each)
            assert nothing_is_left(manager), point
            assert outer.out == 0, point
            if not interrupted:
                break
        assert point > 40


@pytest.mark.parametrize("others_wait_for", ["nothing", "admission", "a place"])
def test_11_giving_back_interrupted_anywhere_leaves_nothing_behind(others_wait_for: str) -> None:
    limit, sizes = (9, 1) if others_wait_for == "a place" else (1, 2)
    with (
        watched(limit, pool_factory_kwargs={"max_size": sizes}) as (manager, outer),
        ThreadPoolExecutor(2) as others,
    ):
        for point in count(1):
            lease = manager.acquire_master()
            lease.__enter__()
            waiting = []
            if others_wait_for != "nothing":
                waiting = [others.submit(use, manager) for _ in range(2)]
                until(lambda: _waiting(manager) == 2)
            interrupted = interrupted_at(point, lambda: lease.__exit__(None, None, None))  # noqa: B023
            if lease.connection is not None:
                lease.__exit__(None, None, None)  # the interrupt came before it began
            for each in waiting:
                each.result(LONG / 2)  # they are woken, wherever the interrupt came
            assert nothing_is_left(manager), point
            assert outer.out == 0, point
            if not interrupted:
                break
        assert point > 10


def give_back_later(manager: ThreadManager, held: Any, over: threading.Event) -> None:
    until(lambda: _waiting(manager) > 0 or over.is_set())
    manager.putconn(held)


def use(manager: ThreadManager) -> None:
    with manager.acquire_master(timeout=LONG):
        pass


def _waiting(manager: ThreadManager) -> int:
    metrics = manager.metrics()
    assert metrics.admission is not None
    return metrics.waiting + metrics.admission.waiting


def test_11_a_block_without_its_connection_interrupted_at_its_end_leaves_nothing_behind() -> None:
    with watched(2) as (manager, outer):
        for point in count(1):
            lease = manager.acquire_master()
            connection = lease.__enter__()
            manager.pool_of("a").release(connection)
            manager.putconn(manager.getconn())  # it is lent again, so the lease has no connection
            assert lease.connection is None
            interrupted = interrupted_at(point, lambda: lease.__exit__(None, None, None))  # noqa: B023
            if lease.node is not None:
                lease.__exit__(None, None, None)
            assert nothing_is_left(manager), point
            assert outer.out == 0, point
            if not interrupted:
                break
        assert point > 5


# Storms


class _Interrupt(BaseException):
    pass


@pytest.mark.timeout(300)  # it computes without a pause, which takes long beside other tests
def test_11_ten_thousand_interrupts_leave_no_permit_token_or_place_behind() -> None:
    # One thread is interrupted again and again, at random points, while others go on working.
    with watched(3, adaptive=True, acquire_timeout=LONG) as (manager, outer):
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                with manager.acquire_master():
                    over.wait(0.0005)

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        chance, interrupts = random.Random(7), 0  # noqa: S311  # no secret
        try:
            while interrupts < 10_000:
                lease = manager.acquire(read_only=chance.random() < 0.5)

                def use(lease: Any = lease) -> None:
                    with lease:
                        pass

                interrupts += interrupted_at(chance.randrange(1, 120), use)
                if lease.connection is not None:
                    lease.__exit__(None, None, None)  # the interrupt came before it began
        finally:
            over.set()
            for worker in workers:
                worker.join()
        until(lambda: nothing_is_left(manager))
        assert outer.out == 0


# Closing and forking


def test_threads_that_wait_for_admission_are_told_at_once_that_the_manager_closes() -> None:
    with watched(1) as (manager, outer), ThreadPoolExecutor(4) as threads:
        held = manager.getconn()
        waiting = [threads.submit(manager.getconn, timeout=LONG) for _ in range(4)]
        until(lambda: manager.metrics().admission.waiting == 4)  # type: ignore[union-attr]
        closing = threading.Thread(target=manager.close)
        closing.start()
        for each in waiting:
            with pytest.raises(PoolManagerClosedError):
                each.result(LONG / 2)
        manager.putconn(held)
        closing.join()
        assert nothing_is_left(manager)
        assert outer.out == 0


def test_16_a_child_has_permits_and_tokens_of_its_own() -> None:
    with watched(1, rate="2/hour") as (manager, _):
        held = manager.getconn()

        def work() -> None:
            for _ in range(2):
                with manager.acquire_master(timeout=LONG):
                    assert in_use(manager) == 1
            with suppress(NotAvailableError):
                manager.getconn(timeout=0.01)
                raise AssertionError("there is no third token")
            manager.terminate()

        in_child(work)
        manager.putconn(held)
        assert nothing_is_left(manager)
