"""A manager for threads survives interrupts, forks, and threads that get in each other's way.

Each test bears the number of the invariant it stands for, where it stands for one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import pytest

import hasql
from hasql._adapters.psycopg.thread_slots import IdleConnections
from hasql._leasing.book import LeaseBook
from hasql._leasing.breaking import leave_addresses, purge
from hasql._leasing.lease import Lease
from hasql._leasing.overdue import OverdueTimer
from hasql._leasing.thread_returns import ThreadReturns
from hasql._routing.node import Node
from hasql._routing.request import MASTER
from hasql.cluster.host import parse_host
from hasql.cluster.probe import Role
from hasql.driver import Endpoint, PoolSizes
from hasql.driver.time_left import TimeLeft
from hasql.errors import (
    ConfigurationError,
    NotAvailableError,
    PoolManagerClosedError,
    UnknownConnectionError,
)
from hasql.resilience import Admission, Lifecycle, RateLimit
from hasql.resilience.idle_upkeep import ThreadPoolCalls
from hasql.tracing import Tracer
from testbed.fake_driver import FakeServer, ScriptedNames, ServerError, fake_cluster
from testbed.fake_threads import FakeThreadPool, ThreadConnection, ThreadManager
from tests.unit.test_driver_threads import no_more_threads
from tests.unit.test_thread_manager import (
    LONG,
    blocked_loop,
    in_child,
    managed,
    name_of,
    threads_of_hasql,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

HASQL = str(Path(hasql.__file__).parent)
#: A loop whose thread has not begun is left to the garbage collector, with its coroutines.
unclosed_loops = pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Collect what a test leaves, so that warnings about it do not hit the next test."""
    yield
    gc.collect()


@contextmanager
def called_at(
    point: int, act: Callable[[], object], within: tuple[str, ...] = (HASQL,)
) -> Iterator[Callable[[], bool]]:
    """Call `act` at the `point`-th place where a signal could come.

    Yield a function that tells whether that place was reached.

    Only points within hasql count by default: what Python's own modules leak is no fault of hasql.
    """
    left = point

    def profile(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal left
        # Python looks for signals when a Python function begins, and when a C function has ended.
        if event in {"call", "c_return"} and frame.f_code.co_filename.startswith(within):
            left -= 1
            if not left:
                sys.setprofile(None)
                act()

    try:
        sys.setprofile(profile)
        yield lambda: left <= 0
    finally:
        sys.setprofile(None)


def interrupted_at(
    point: int, work: Callable[[], object], within: tuple[str, ...] = (HASQL,)
) -> bool:
    """Interrupt some work where `called_at` would call; tell whether it was interrupted."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    gc.disable()  # otherwise the interrupt might hit a finalizer of another test's garbage
    try:
        with called_at(point, interrupt, within):
            work()
    except KeyboardInterrupt:
        return True
    finally:
        gc.enable()
    return False


def hosts_of(manager: ThreadManager) -> list[int]:
    """Return how many places are taken on each host.

    For a moment, hasql itself may take one, to warm up a host that was late to answer.
    """
    return [node.in_flight for node in manager.metrics().nodes]


# Starting


@unclosed_loops
def test_13_a_start_that_finds_no_more_threads_is_made_up_for() -> None:
    manager = ThreadManager(fake_cluster("a master"))
    with no_more_threads(), pytest.raises(RuntimeError, match="thread"):
        manager.ready()
    with manager.acquire_master() as connection:
        assert name_of(connection) == "a"
    manager.close()
    until(lambda: not threads_of_hasql())


@unclosed_loops
@pytest.mark.parametrize("end", ["close", "drop", "use"])
def test_11_a_start_that_is_interrupted_anywhere_can_be_ended_and_made_up_for(end: str) -> None:
    for point in count(1):
        manager = ThreadManager(fake_cluster("a master"))
        interrupted = interrupted_at(point, manager.ready)
        if end == "use":
            manager.ready()
        if end != "drop":
            manager.close()
            assert manager.closed
        del manager
        gc.collect()
        until(lambda: not threads_of_hasql())
        if not interrupted:
            break
    assert point > 10


def test_13_a_signal_handler_may_close_what_is_just_starting() -> None:
    servers = fake_cluster("a master")
    for point in count(1):
        manager = ThreadManager(servers)
        with suppress(PoolManagerClosedError), called_at(point, manager.close) as called:
            manager.ready()
        manager.close()
        assert manager.closed
        until(lambda: not threads_of_hasql())
        if not called():
            break
    assert point > 20


def test_a_look_at_idle_ones_that_finds_no_more_threads_loses_no_place() -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        pool = manager.pool_of("a")
        connection = pool.acquire(TimeLeft(LONG, lambda: 0.0, LONG, lambda: None))
        with no_more_threads():
            asyncio.run(ThreadPoolCalls[Any, Any]().give_back(pool, connection))
        assert not pool.lent


# Closing


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Fail if the main thread waits longer than this."""

    def fail(*_: object) -> None:
        pytest.fail(f"it waits still after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("end", [lambda manager: manager.close(0.0), ThreadManager.terminate])
def test_12_a_signal_handler_may_close_anywhere_in_an_acquire(
    end: Callable[[ThreadManager], None],
) -> None:
    servers = fake_cluster("a master")
    for point in count(1):
        manager = ThreadManager(servers)
        manager.putconn(manager.getconn())
        with no_longer_than(LONG):
            with (
                suppress(PoolManagerClosedError, ConnectionError),
                called_at(point, partial(end, manager)) as called,
            ):
                manager.putconn(manager.getconn())
            until(lambda: manager.closed or not called())  # noqa: B023  # same iteration
            manager.close()
        until(lambda: not threads_of_hasql())
        if not called():
            break
    assert point > 20


def test_12_a_signal_handler_may_close_while_its_thread_is_in_the_drivers_pool() -> None:
    with managed(fake_cluster("a master")) as manager:
        manager.putconn(manager.getconn())
        with no_longer_than(2 * LONG):
            with manager.pool_of("a")._lock:  # noqa: SLF001  # as if the signal had come in there
                manager.terminate()
            until(lambda: manager.closed)


def test_what_is_used_after_closing_says_so() -> None:
    with managed(fake_cluster("a master")) as manager:
        [pool] = manager.get_master_pools()
        lease = manager.getconn()
        closing = threading.Thread(target=manager.close)
        closing.start()
        until(lambda: manager.closing)
        with pytest.raises(PoolManagerClosedError), manager.acquire_from_pool(pool):
            pass
        manager.putconn(lease)
        closing.join()
        for use in (
            manager.ready,
            manager.wait_next_pool_check,
            manager.get_master_pools,
            manager.getconn,
            lambda: manager.acquire_from_pool(pool).take(),
        ):
            with pytest.raises(PoolManagerClosedError):
                use()
        manager.accept_timeline()  # nothing waits for its effect


def test_an_interrupted_close_ends_the_thread_all_the_same() -> None:
    with managed(fake_cluster("a master")) as manager:
        connection = manager.getconn()
        main = threading.get_ident()

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        def when_it_waits() -> None:
            until(lambda: manager.closing)
            signal.pthread_kill(main, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, interrupt)
        other = threading.Thread(target=when_it_waits)
        other.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                manager.close(LONG)
        finally:
            other.join()
            signal.signal(signal.SIGUSR1, before)
        until(lambda: not threads_of_hasql())
        assert manager.closed
        assert connection.closed


def test_who_waits_for_the_loop_when_it_ends_is_told() -> None:
    manager = ThreadManager(fake_cluster("a master"))
    manager.ready()
    told: list[BaseException] = []

    def wait() -> None:
        try:
            manager.wait_in_loop(asyncio.Event().wait)  # type: ignore[arg-type]  # never ends
        except PoolManagerClosedError as error:
            told.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    manager.close()
    waiting.join(LONG)
    assert told


# Interrupts


def test_11_an_acquire_interrupted_anywhere_leaks_nothing() -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        manager.putconn(manager.getconn())
        pool = manager.pool_of("a")

        def acquire() -> None:
            taken.append(manager.getconn(timeout=LONG))

        for point in count(1):
            taken: list[ThreadConnection] = []
            interrupted = interrupted_at(point, acquire)
            for each in taken:
                manager.putconn(each)
            until(lambda: hosts_of(manager) == [0] and not pool.lent)
            if not interrupted:
                break
        assert point > 10


def test_what_the_driver_had_taken_for_an_interrupted_acquire_is_freed_at_once() -> None:
    class Taken:
        pass

    had: list[ReferenceType[Taken]] = []

    def interrupt() -> None:
        taken = Taken()
        had.append(ref(taken))
        raise KeyboardInterrupt

    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        manager.pool_of("a").on_acquire = interrupt
        gc.disable()
        try:
            with suppress(KeyboardInterrupt):
                manager.getconn()
            assert had[0]() is None
        finally:
            gc.enable()


def test_11_a_wait_interrupted_anywhere_loses_no_place() -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        for point in count(1):
            taken = [manager.getconn()]
            over = threading.Event()

            def give_back() -> None:
                until(lambda: manager.waiting == 1 or over.is_set())  # noqa: B023  # same iteration
                manager.putconn(taken.pop(0))  # noqa: B023

            def acquire() -> None:
                connection = manager.getconn(timeout=LONG)
                taken.append(connection)  # noqa: B023

            other = threading.Thread(target=give_back)
            other.start()
            interrupted = interrupted_at(point, acquire)
            over.set()
            other.join()
            for each in taken:
                manager.putconn(each)
            until(lambda: hosts_of(manager) == [0])
            assert manager.waiting == 0, point
            if not interrupted:
                break
        assert point > 20


def for_a_place(manager: ThreadManager) -> None:
    with manager.acquire_master():
        manager.getconn(timeout=LONG / 4)


def for_a_permit(manager: ThreadManager) -> None:
    with manager.acquire_master(), manager.acquire_replica(fallback_master=True):
        manager.getconn(timeout=LONG / 4)


def for_a_token(manager: ThreadManager) -> None:
    for _ in range(3):
        with manager.acquire_replica(timeout=LONG / 4):
            pass


def for_a_login(manager: ThreadManager) -> None:
    with manager.acquire_master() as connection:
        manager.in_loop(connection.server.freeze)
        connection.lose()
    manager.getconn(timeout=LONG / 4)


def for_a_state(manager: ThreadManager) -> None:
    manager.ready(2, 1, timeout=LONG / 4)


@pytest.mark.parametrize("wait", [for_a_place, for_a_permit, for_a_token, for_a_login, for_a_state])
def test_an_alarm_of_the_application_ends_a_wait_though_it_is_a_time_limit_too(
    wait: Callable[[ThreadManager], None],
) -> None:
    class JobTimeoutError(TimeoutError):
        pass

    def alarm(*_: object) -> None:
        raise JobTimeoutError

    of: dict[object, dict[str, Any]] = {
        for_a_permit: {"admission": Admission(2)},
        for_a_token: {"rate_limit": RateLimit("1/second")},
    }
    limits = of.get(wait, {})
    servers = fake_cluster("a master", "b replica")
    sizes = {"max_size": 1}
    with managed(servers, refresh_delay=60, pool_factory_kwargs=sizes, **limits) as manager:
        before = signal.signal(signal.SIGALRM, alarm)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(JobTimeoutError):
                wait(manager)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            manager.in_loop(servers["a"].thaw)
        assert hosts_of(manager) == [0, 0]
        assert manager.waiting == 0


def test_11_giving_back_interrupted_anywhere_loses_no_place() -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        pool = manager.pool_of("a")
        for point in count(1):
            lease = manager.acquire_master()
            lease.__enter__()
            interrupted = interrupted_at(point, lambda: lease.__exit__(None, None, None))  # noqa: B023
            if point == 1:
                lease.__exit__(None, None, None)  # the interrupt came before it began
            until(lambda: hosts_of(manager) == [0] and not pool.lent)
            if not interrupted:
                break
        assert point > 10


def test_11_the_loop_goes_on_wherever_who_waits_for_it_is_interrupted() -> None:
    within = (HASQL, threading.__file__, concurrent.futures.__path__[0])
    with managed(fake_cluster("a master")) as manager, ThreadPoolExecutor(1) as threads:
        for point in count(1):
            interrupted = interrupted_at(point, lambda: manager.in_loop(lambda: None), within)
            assert threads.submit(manager.in_loop, lambda: None).result(LONG / 2) is None, point
            if not interrupted:
                break
        assert point > 10


@pytest.mark.parametrize("begins", [ThreadReturns.give_back, FakeThreadPool.release])
@pytest.mark.parametrize("fits", [True, False], ids=["by a call", "what does not fit"])
def test_11_what_goes_back_loses_no_place_if_that_is_interrupted_as_it_begins(
    begins: Callable[..., object], fits: bool
) -> None:
    def interrupt(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is begins.__code__:
            sys.settrace(None)
            raise KeyboardInterrupt

    before = sys.gettrace()
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        pool = manager.pool_of("a")
        if not fits:
            pool.on_acquired = ThreadConnection.lose
        try:
            with pytest.raises(KeyboardInterrupt):
                if fits:
                    connection = manager.getconn()
                    sys.settrace(interrupt)
                    manager.putconn(connection)
                else:
                    sys.settrace(interrupt)
                    manager.getconn(timeout=LONG)
        finally:
            sys.settrace(before)
        assert hosts_of(manager) == [0]
        assert not pool.lent
        assert not manager.leases()


def test_11_who_waits_is_served_wherever_giving_back_is_interrupted() -> None:
    # Interrupts count also within Python's own futures, which hold a lock meanwhile.
    within = (HASQL, threading.__file__, concurrent.futures.__path__[0])
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        for point in count(1):
            lease = manager.acquire_master()
            lease.__enter__()
            served = threading.Event()

            def acquire() -> None:
                with manager.acquire_master(timeout=LONG):
                    served.set()  # noqa: B023  # same iteration

            other = threading.Thread(target=acquire, daemon=True)
            other.start()
            until(lambda: manager.waiting == 1)
            end = partial(lease.__exit__, None, None, None)
            interrupted = interrupted_at(point, end, within)
            if point == 1:
                end()  # the interrupt came before it began
            assert served.wait(LONG / 2), point
            other.join()
            if not interrupted:
                break
        assert point > 20


def test_11_a_unit_of_work_interrupted_anywhere_leaks_nothing() -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        pool = manager.pool_of("a")
        for point in count(1):
            interrupted = interrupted_at(point, lambda: manager.run(lambda _: None))
            until(lambda: hosts_of(manager) == [0] and not pool.lent and not manager.leases())
            if not interrupted:
                break
        assert point > 30


def test_11_what_interrupts_a_tracer_that_is_told_of_a_lease_leaks_nothing() -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with managed(fake_cluster("a master")) as manager:
        manager.set_tracer(Tracer(connection_lent=interrupt))
        with pytest.raises(KeyboardInterrupt):
            manager.getconn()
        assert hosts_of(manager) == [0]
        assert not manager.pool_of("a").lent


@pytest.mark.parametrize("phase", [0, 1])
def test_a_tracer_may_be_taken_away_at_any_moment(phase: int) -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        turns = count(phase)
        tracer = Tracer(connection_lent=lambda _: None)

        def change(frame: FrameType, event: str, _: object) -> Any:
            if not frame.f_code.co_filename.endswith(("thread_checkout.py", "thread_returns.py")):
                return None
            if event == "line":
                manager.set_tracer((tracer, None)[next(turns) % 2])
            return change

        before = sys.gettrace()
        sys.settrace(change)
        try:
            with manager.acquire_master(), suppress(NotAvailableError):
                manager.getconn(timeout=0.01)
        finally:
            sys.settrace(before)
        assert hosts_of(manager) == [0]


def test_what_a_finalizer_gives_back_anywhere_in_a_wait_is_handed_on() -> None:
    sizes = {"max_size": 1}
    with managed(fake_cluster("a master"), pool_factory_kwargs=sizes, refresh_delay=60) as manager:
        for point in count(1):
            held, late = manager.getconn(), False

            def give_back() -> None:
                nonlocal late
                late = monotonic() > began + 0.1  # noqa: B023  # same iteration
                manager.putconn(held)  # noqa: B023

            began = monotonic()
            with blocked_loop(manager), called_at(point, give_back):
                try:
                    manager.putconn(manager.getconn(timeout=0.1))
                except NotAvailableError:
                    assert late, point
            if late:
                break
        assert point > 20
        assert hosts_of(manager) == [0]


def test_what_a_finalizer_gives_back_anywhere_in_a_release_is_handed_on() -> None:
    sizes = {"max_size": 2}
    with (
        ThreadPoolExecutor(2) as threads,
        managed(fake_cluster("a master"), pool_factory_kwargs=sizes, refresh_delay=60) as manager,
    ):
        for point in count(1):
            first, second = manager.getconn(), manager.getconn()
            waiting = [
                threads.submit(manager.getconn, timeout=LONG),
                threads.submit(manager.getconn, read_only=True, fallback_master=True, timeout=LONG),
            ]
            until(lambda: manager.waiting == 2)
            with called_at(point, partial(manager.putconn, second)) as called:
                manager.putconn(first)
            if not called():
                manager.putconn(second)
            for each in waiting:
                manager.putconn(each.result(LONG))
            until(lambda: hosts_of(manager) == [0])
            if not called():
                break
        assert point > 20


# Before a connection is lent


def test_4_a_thread_meets_no_second_of_connections_that_have_broken_together() -> None:
    servers = fake_cluster("a master")
    sizes = {"max_size": 4}
    with managed(servers, refresh_delay=60, pool_factory_kwargs=sizes) as manager:
        taken = [manager.getconn() for _ in range(4)]
        for each in taken:
            manager.putconn(each)
        pool = manager.pool_of("a")
        ended = set(taken)
        ask = pool.count_rows

        def count_rows(connection: ThreadConnection, sql: str) -> int:
            if connection in ended:  # the server has closed it, and the driver does not know yet
                connection.lose()
            return ask(connection, sql)

        pool.count_rows = count_rows  # type: ignore[method-assign]
        with pytest.raises(ConnectionResetError), manager.acquire_master() as connection:
            assert connection in ended
            connection.lose()
            connection.use()
        with manager.acquire_master(timeout=LONG) as connection:
            assert connection not in ended
            connection.use()
        assert not pool.destinations.maybe_dead
        assert hosts_of(manager) == [0]
        with manager.acquire_master():
            questions = servers["a"].questions
        assert servers["a"].questions == questions  # each connection is asked once


def test_4_a_connection_that_is_purged_as_it_is_taken_is_not_lent() -> None:
    with managed(fake_cluster("a replica")) as manager:
        pool = manager.pool_of("a")
        purged: list[ThreadConnection] = []

        def purge(connection: ThreadConnection) -> None:
            if not purged:
                purged.append(connection)
                connection.cannot_be_asked = True
                connection.lose()

        pool.on_acquired = purge
        with manager.acquire_replica(timeout=LONG) as connection:
            assert purged
            assert connection not in purged
            connection.use()
        assert manager.metrics().nodes[0].in_flight == 0


def test_9_a_connect_is_not_lent_whose_name_has_moved_while_nothing_else_was_open() -> None:
    servers, names = fake_cluster("db master"), ScriptedNames(ttl=0.0)
    server = servers["db"]  # it is at both addresses, so only the name tells of the change
    names.addresses["db"] = ("10.0.0.1",)
    sizes = {"min_size": 0}
    manager = ThreadManager(servers, names, refresh_delay=60, pool_factory_kwargs=sizes)
    manager.driver.at.update({"10.0.0.1": server, "10.0.0.2": server})
    try:
        manager.ready()
        pool = manager.pool_of("db")

        def move() -> None:
            pool.on_connected = lambda: None
            names.addresses["db"], names.ttl = ("10.0.0.2",), 60.0
            probes = len(server.probes)
            until(lambda: len(server.probes) > probes)

        pool.on_connected = move
        with manager.acquire_master(timeout=LONG):
            assert pool.destinations.addresses() == {"10.0.0.2"}
    finally:
        manager.terminate()


def test_9_who_has_a_place_when_a_name_moves_is_lent_nothing_before_the_probe_there() -> None:
    servers, names = fake_cluster("db master"), ScriptedNames(ttl=0.0)
    copy = FakeServer(parse_host("db"), master=True, system_id=8)
    copy.latency = 0.3  # a probe takes longer than a thread's login
    names.addresses["db"] = ("10.0.0.1",)
    manager = ThreadManager(servers, names, refresh_delay=60)
    manager.driver.at.update({"10.0.0.1": servers["db"], "10.0.0.2": copy})
    try:
        manager.ready()
        pool = manager.pool_of("db")

        def move() -> None:
            pool.on_acquire = lambda: None
            names.addresses["db"] = ("10.0.0.2",)
            until(lambda: copy.logins > 0)  # the monitor's login: the name has moved by then

        pool.on_acquire = move
        with pytest.raises(NotAvailableError), manager.acquire_master(timeout=3):
            pass
        assert copy.probes
        assert hosts_of(manager) == [0]
    finally:
        manager.terminate()


def test_4_a_connect_that_fails_while_its_host_is_held_does_not_keep_what_is_idle() -> None:
    servers, kwargs = fake_cluster("a master"), {"min_size": 1, "max_size": 8}
    server = servers["a"]
    with managed(servers, pool_factory_kwargs=kwargs) as manager:
        pool = manager.pool_of("a")
        broken, others = manager.acquire_master(), [manager.getconn() for _ in range(3)]
        lost = broken.__enter__()

        def lose() -> None:
            for each in [lost, *(x for x in server.connections if x.on_lost is not None)]:
                each.lose()  # the server takes no other reserved connection

        def break_lease() -> None:
            pool.on_acquire = lambda: None
            manager.in_loop(lose)
            error = ServerError("57P01")
            broken.__exit__(type(error), error, None)

        server.login_error, pool.on_acquire = ServerError("53300"), break_lease
        with pytest.raises(NotAvailableError):
            manager.getconn(timeout=0.01)
        for each in others:
            manager.putconn(each)
        with manager.acquire_master(timeout=LONG) as connection:
            assert connection in others


@pytest.mark.parametrize("pooled", [False, True])
def test_3_a_question_to_a_connection_takes_no_longer_than_the_acquire(*, pooled: bool) -> None:
    servers = fake_cluster("a master")
    servers["a"].pooler = pooled
    with managed(servers, refresh_timeout=60) as manager:
        servers["a"].lie_to_pool = True
        servers["a"].silent_after_login = True
        began = monotonic()
        with pytest.raises(NotAvailableError), manager.acquire_master(timeout=0.1):
            pass
        assert monotonic() - began < 10, "a probe may take a minute"
        assert hosts_of(manager) == [0]
        assert not manager.pool_of("a").lent


# Giving back


def test_18_two_threads_that_give_the_same_back_at_once_give_it_back_once() -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 2}) as manager:
        connection = manager.getconn()
        others: list[BaseException | None] = []

        def other_puts_it_back() -> None:
            try:
                manager.putconn(connection)
            except UnknownConnectionError as error:
                others.append(error)
            else:
                others.append(None)

        def between(frame: FrameType, event: str, _: object) -> None:
            if (event, frame.f_code.co_name) == ("call", "give_back"):
                other = threading.Thread(target=other_puts_it_back)
                other.start()
                other.join()

        before = sys.gettrace()
        sys.settrace(between)
        try:
            with pytest.raises(
                UnknownConnectionError, match="is already giving this connection back"
            ):
                manager.putconn(connection)
        finally:
            sys.settrace(before)
        assert others == [None]
        assert connection.resets == 1
        assert hosts_of(manager) == [0]


@pytest.mark.parametrize(
    "leave", [purge, partial(leave_addresses, moved=True)], ids=["host", "address"]
)
def test_4_what_comes_back_while_its_host_is_left_is_not_lent_again(
    leave: Callable[[Node[Any, Any], LeaseBook[Any, Any]], None],
) -> None:
    server = fake_cluster("a master")["a"]
    endpoint = Endpoint(server.host, "")
    endpoint.note_addresses(("127.0.0.2",), lambda address: address == "127.0.0.1")
    for point in count(1):
        node: Node[Any, Any] = Node(endpoint, 0, PoolSizes(0, 2), monotonic)
        node.pool = pool = FakeThreadPool(lambda _: server, endpoint, node.sizes)
        seconds = TimeLeft(monotonic() + LONG, monotonic, LONG, lambda: None)
        idle, back = pool.acquire(seconds), pool.acquire(seconds)
        pool.release(idle)
        book: LeaseBook[Any, Any] = LeaseBook()
        lease: Lease[Any, Any] = Lease(None, MASTER, 1.0, {})
        lease.node, lease.returning = node, True
        book.enter(lease, back)
        for connection in (idle, back):
            pool.destinations.opened(connection, False, read_only=False, address="127.0.0.1")
        # The release stands for one in another thread.
        with called_at(point, partial(pool.release, back)) as reached:
            leave(node, book)
        assert [idle.closed, back.closed] == [True, True]
        if not reached():
            break
    assert point > 5


def test_what_was_put_back_in_time_is_not_broken_for_who_has_it_next() -> None:
    servers = fake_cluster("b replica")
    with managed_replica(servers) as manager:
        pool, server = manager.pool_of("b"), servers["b"]
        first, other = threading.get_ident(), NextUser(manager)
        deadline = monotonic() + 1.0
        put_back: list[ThreadConnection] = []

        def promote(_: ThreadConnection) -> None:
            pool.on_acquired = lambda _: None
            manager.in_loop(server.promote)
            until(lambda: manager.metrics().nodes[0].role is Role.MASTER)

        release = pool.release

        def release_late(connection: ThreadConnection, **kwargs: Any) -> None:
            release(connection, **kwargs)
            if threading.get_ident() == first:  # it is back, but this thread stalls
                put_back.append(connection)
                other.begin()
                until(lambda: monotonic() > deadline)
                manager.in_loop(lambda: None)  # by then the loop has looked for overdue leases
                other.go_on()

        pool.on_acquired, pool.release = promote, release_late  # type: ignore[method-assign]
        with pytest.raises(NotAvailableError):
            manager.acquire_replica(timeout=1.0, fallback_master=False).__enter__()
        assert other.used == put_back


class NextUser:
    """A thread that is lent the next connection that comes back, and uses it when it is told to."""

    def __init__(self, manager: ThreadManager) -> None:
        self._manager = manager
        self._lent, self._goes_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._use)
        self.used: list[ThreadConnection] = []

    def begin(self) -> None:
        self._thread.start()
        assert self._lent.wait(LONG)

    def _use(self) -> None:
        with self._manager.acquire_master(timeout=LONG) as connection:
            self._lent.set()
            assert self._goes_on.wait(LONG)
            connection.use()
            self.used.append(connection)

    def go_on(self) -> None:
        self._goes_on.set()
        self._thread.join()


@contextmanager
def managed_replica(servers: dict[str, FakeServer]) -> Iterator[ThreadManager]:
    manager = ThreadManager(servers, refresh_delay=60)
    try:
        manager.ready(masters_count=0, replicas_count=1)
        yield manager
    finally:
        manager.terminate()


def test_what_upkeep_has_given_back_is_not_broken_for_who_has_it_next() -> None:
    sizes = {"min_size": 1, "max_size": 2}
    with managed(
        fake_cluster("a master"),
        refresh_delay=60,
        pool_factory_kwargs=sizes,
        lifecycle=Lifecycle(check_idle=0.2),
    ) as manager:
        pool = manager.pool_of("a")
        with manager.acquire_master():
            pass
        other, over = NextUser(manager), threading.Event()
        put_back: list[ThreadConnection] = []
        release = pool.release

        def release_late(connection: ThreadConnection, **kwargs: Any) -> None:
            release(connection, **kwargs)
            if not put_back and "upkeep" in threading.current_thread().name:
                put_back.append(connection)
                other.begin()
                time.sleep(1.1)  # upkeep waits for one second
                over.set()

        pool.release = release_late  # type: ignore[method-assign]
        assert over.wait(LONG)
        other.go_on()
        assert other.used == put_back


def test_one_that_is_lost_while_it_is_put_in_does_not_count_as_idle() -> None:
    class Connection:
        taken = _lost = False

        @property
        def lost(self) -> bool:
            """Answer, and be lost right afterwards, as if another thread had found it dead."""
            before, self._lost = self._lost, True
            idle.note_unusable(self)  # type: ignore[arg-type]  # all that is needed of a connection
            return before

    idle = IdleConnections()
    idle.note_idle(Connection())  # type: ignore[arg-type]  # as above
    assert len(idle) == 0


# What users' code that hasql calls may do


def test_a_log_handler_may_wait_for_a_thread_that_acquires() -> None:
    servers = fake_cluster("a master", "b replica")
    told, looked = threading.Event(), threading.Event()

    class Handler(logging.Handler):
        def filter(self, record: logging.LogRecord) -> bool:  # called before it takes its lock
            if threading.current_thread().name == "hasql callbacks":
                told.set()
            return bool(super().filter(record))

        def emit(self, record: logging.LogRecord) -> None:
            pass

    handler, log = Handler(), logging.getLogger("hasql")
    before = log.level
    with managed(servers, refresh_delay=0.02) as manager:
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)

        def acquire() -> None:  # like a handler that writes into a table
            with manager.acquire_replica(fallback_master=True, timeout=LONG):
                looked.set()

        acquiring = threading.Thread(target=acquire)
        try:
            with handler.lock or nullcontext():
                manager.in_loop(servers["b"].kill)
                assert told.wait(LONG)
                acquiring.start()
                assert looked.wait(LONG / 2)
        finally:
            if told.is_set():
                acquiring.join()
            log.setLevel(before)
            log.removeHandler(handler)


def test_a_tracer_may_wait_for_the_loop_wherever_a_thread_calls_it() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    told: list[str] = []
    with managed(servers, refresh_delay=60) as manager:
        servers["b"].login_error = ConnectionRefusedError("no")

        def wait_for_the_loop(record: object) -> None:
            waiting = threading.Thread(target=lambda: manager.in_loop(lambda: None))
            waiting.start()
            manager.in_loop(lambda: told.append(type(record).__name__))
            waiting.join()

        manager.set_tracer(
            Tracer(
                acquire_begun=wait_for_the_loop,
                acquire_retried=wait_for_the_loop,
                connection_lent=wait_for_the_loop,
                connection_returned=wait_for_the_loop,
            )
        )
        for _ in range(100):  # which of the two comes first varies
            with manager.acquire_replica(timeout=LONG):
                pass
            if "AcquireRetried" in told:
                break
        manager.set_tracer(None)
    assert {"AcquireBegun", "AcquireRetried", "ConnectionLent", "ConnectionReturned"} <= {*told}


def test_a_tracer_may_wait_for_a_thread_that_acquires_when_it_is_told_of_a_probe() -> None:
    with managed(fake_cluster("a master")) as manager:
        told: list[bool] = []

        def acquire() -> None:
            with manager.acquire_master(timeout=LONG):
                pass

        def wait_for_another(_: object) -> None:
            other = threading.Thread(target=acquire)
            other.start()
            other.join(LONG / 2)
            told.append(not other.is_alive())

        acquire()
        manager.set_tracer(Tracer(probe_ended=wait_for_another))
        manager.wait_next_pool_check()
        until(lambda: bool(told))
        manager.set_tracer(None)
    assert all(told)


# Forking


def test_16_what_a_child_has_lent_comes_back_though_one_of_the_parents_had_its_id() -> None:
    with managed(fake_cluster("a master")) as manager:
        connection = manager.getconn()

        def work() -> None:
            [pool] = manager.get_master_pools()
            pool.lent.add(connection)
            manager.register_connection(connection, pool)  # it stands for one of the same `id`
            manager.putconn(connection)
            assert hosts_of(manager) == [0]
            assert connection in pool.free
            manager.terminate()

        in_child(work)
        manager.putconn(connection)


def test_16_an_acquire_made_before_a_fork_takes_nothing_of_the_parents_in_the_child() -> None:
    with managed(fake_cluster("a master")) as manager:
        manager.putconn(manager.getconn())
        [pool] = manager.get_master_pools()
        [idle] = pool.free
        lease, fixed = manager.acquire_master(), manager.acquire_from_pool(pool)

        def work() -> None:
            with lease as connection:
                assert connection is not idle
                assert hosts_of(manager) == [1]
            assert hosts_of(manager) == [0]
            with pytest.raises(UnknownConnectionError, match="the parent process"), fixed:
                pass
            manager.terminate()
            assert not idle.closed

        in_child(work)
        with lease as connection:
            assert connection is idle


def test_16_a_block_that_a_fork_has_copied_ends_whoever_held_the_guard() -> None:
    with managed(fake_cluster("a master")) as manager:
        lease = manager.acquire_master()
        with lease as connection:
            manager.putconn(connection)
            holds, go_on = threading.Event(), threading.Event()

            def is_closed(connection: ThreadConnection) -> bool:  # asked under the guard
                holds.set()
                go_on.wait(LONG)
                return connection.closed

            [pool] = manager.driver.pools
            pool.is_closed = is_closed  # type: ignore[method-assign]
            other = threading.Thread(target=lambda: manager.putconn(manager.getconn()))
            other.start()
            assert holds.wait(LONG)

            def work() -> None:
                signal.alarm(5)  # kills a child that would wait for ever
                lease.__exit__(None, None, None)
                signal.alarm(0)

            try:
                in_child(work)
            finally:
                go_on.set()
                other.join()


def test_16_a_manager_that_could_not_be_made_keeps_no_other_from_beginning_anew() -> None:
    kept: list[BaseException] = []
    for _ in range(8):  # they begin afresh in an arbitrary order
        with pytest.raises(ConfigurationError) as raised:
            ThreadManager(fake_cluster("a master"), pool_factory_kwargs={"max_size": -1})
        kept.append(raised.value)
    with managed(fake_cluster("a master")) as manager:

        def work() -> None:
            assert manager.available_pool_count == 0
            manager.terminate()

        in_child(work)


# Timers


def test_15_one_timer_serves_all_releases_whenever_the_next_begins() -> None:
    looks = 0

    async def look_for_a_while() -> None:
        loop = asyncio.get_running_loop()

        class Guard(nullcontext[None]):
            def __enter__(self) -> None:
                nonlocal looks
                looks += 1
                if not timer.is_set:  # as if a thread gave back at this moment
                    timer.is_set = True
                    loop.call_soon(timer.set)

        book: LeaseBook[Any, Any] = LeaseBook()
        lease: Lease[Any, Any] = Lease(None, MASTER, 1.0, {})
        book.enter(lease, object())
        lease.returning, lease.due_back = True, 0.01
        timer = OverdueTimer(book, 0.01, lambda: 0.0, Guard())
        began = loop.time()
        timer.set()
        await asyncio.sleep(0.12)
        timer.cancel()
        # Otherwise each look would have begun two more.
        assert 1 < looks <= (loop.time() - began) / 0.01 + 1

    asyncio.run(look_for_a_while())
