"""The pool manager for threads on a scriptable cluster, where it differs from that for tasks.

Each test bears the number of the invariant it stands for, where it stands for one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest

from hasql._leasing.abort_timer import AbortTimer
from hasql.balancer_policy import RoundRobinBalancerPolicy
from hasql.cluster.state import Health
from hasql.errors import (
    HasqlError,
    NotAvailableError,
    PoolManagerClosedError,
    UnknownConnectionError,
)
from hasql.events import HostUp
from hasql.resilience import Lifecycle
from hasql.tracing import Tracer
from testbed.fake_driver import DriverError, FakeServer, ServerError, fake_cluster
from testbed.fake_threads import ThreadConnection, ThreadManager
from testbed.scene import complaints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from types import FrameType

    from hasql.events import Event as HasqlEvent

LONG = 10.0


@contextmanager
def managed(servers: dict[str, FakeServer], **kwargs: Any) -> Iterator[ThreadManager]:
    """Make a manager that is ready, and terminate it at the end."""
    manager = ThreadManager(servers, **kwargs)
    try:
        manager.ready()
        yield manager
    finally:
        manager.terminate()
    # Python lists a thread for a moment longer than it works, even if its end was awaited.
    until(lambda: not threads_of_hasql())


@contextmanager
def blocked_loop(manager: ThreadManager) -> Iterator[None]:
    """Keep the manager's event loop from doing anything."""
    busy, go_on = threading.Event(), threading.Event()

    async def block() -> None:
        busy.set()
        go_on.wait(LONG)

    blocking = threading.Thread(target=lambda: manager.wait_in_loop(block))
    blocking.start()
    busy.wait(LONG)
    try:
        yield
    finally:
        go_on.set()
        blocking.join()


def threads_of_hasql() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "hasql"]


def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds that other threads bring about."""
    tick, deadline = threading.Event(), monotonic() + LONG
    while not holds():
        assert monotonic() < deadline
        tick.wait(0.001)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


@pytest.fixture
def restless() -> Iterator[None]:
    """Make the interpreter switch between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def name_of(connection: ThreadConnection) -> str:
    return connection.server.host.host


# Starting


def test_13_constructing_starts_no_thread() -> None:
    manager = ThreadManager(fake_cluster("a master"))
    assert not threads_of_hasql()
    assert "open, 0 masters" in repr(manager)
    assert manager.available_pool_count == 0
    manager.close()
    with pytest.raises(PoolManagerClosedError), manager.acquire_master():
        pass
    assert not threads_of_hasql()


def test_13_the_first_acquire_starts_one_thread_that_ends_with_the_manager() -> None:
    manager = ThreadManager(fake_cluster("a master", "b replica"))
    with manager.acquire_replica() as connection:
        assert name_of(connection) == "b"
    assert len(threads_of_hasql()) == 1
    manager.close()
    until(lambda: not threads_of_hasql())
    assert manager.closed


def test_threads_that_start_it_at_once_start_it_once(threads: ThreadPoolExecutor) -> None:
    manager = ThreadManager(fake_cluster("a master"), pool_factory_kwargs={"max_size": 16})
    together = threading.Barrier(16)

    def acquire() -> str:
        together.wait()
        with manager.acquire_master() as connection:
            return name_of(connection)

    assert [x.result() for x in [threads.submit(acquire) for _ in range(16)]] == ["a"] * 16
    assert len(threads_of_hasql()) == 1
    manager.close()


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"lifecycle": Lifecycle(leak_threshold=60, max_idle=60, check_idle=60), "report_every": 60},
    ],
    ids=["plain", "watched"],
)
def test_a_manager_that_is_dropped_leaves_no_thread_and_no_connection(
    features: dict[str, Any],
) -> None:
    servers = fake_cluster("a master")
    manager = ThreadManager(servers, **features)
    with manager.acquire_master():
        pass
    del manager
    gc.collect()
    until(lambda: not threads_of_hasql())
    assert not [c for c in servers["a"].connections if isinstance(c, ThreadConnection)]


def test_a_program_that_ends_without_closing_says_nothing() -> None:
    program = """
from testbed.fake_driver import fake_cluster
from testbed.fake_threads import ThreadManager

manager = ThreadManager(fake_cluster("a master", "b replica"))
manager.ready()
connection = manager.getconn()
lease = manager.acquire_replica()
other = lease.__enter__()
print("used")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, complaints(done.stderr)) == (0, "used\n", "")


def test_entering_waits_for_a_host_and_leaving_closes() -> None:
    with ThreadManager(fake_cluster("a master")) as manager:
        assert manager.master_pool_count == 1
    assert manager.closed
    until(lambda: not threads_of_hasql())


# Acquiring


def test_an_acquire_never_enters_the_loop_while_a_candidate_is_known() -> None:
    with managed(fake_cluster("a master", "b replica")) as manager:
        with manager.acquire_master(), manager.acquire_replica():
            pass
        with blocked_loop(manager):
            with manager.acquire_master() as master, manager.acquire_replica() as replica:
                assert (name_of(master), name_of(replica)) == ("a", "b")
            manager.putconn(manager.getconn())
            assert manager.metrics().acquires == 5


def test_a_thread_waits_for_a_place_and_the_earliest_gets_it(threads: ThreadPoolExecutor) -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        served: list[int] = []

        def acquire(number: int) -> None:
            with manager.acquire_master(timeout=LONG):
                served.append(number)

        waiting: list[Future[None]] = []
        with manager.acquire_master():
            for number in range(5):
                waiting.append(threads.submit(acquire, number))
                until(lambda: manager.waiting == len(waiting))
        for each in waiting:
            each.result(LONG)
        assert served == [0, 1, 2, 3, 4]
        assert manager.metrics().waits == 5


def test_3_a_thread_waits_no_longer_than_its_deadline() -> None:
    with (
        managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager,
        manager.acquire_master(),
    ):
        began = monotonic()
        with (
            pytest.raises(NotAvailableError, match="1 of 1 connections in use") as raised,
            manager.acquire_master(timeout=0.05),
        ):
            pass
        assert isinstance(raised.value, TimeoutError)
        assert monotonic() - began >= 0.05
        assert manager.waiting == 0


@pytest.mark.usefixtures("restless")
def test_places_are_handed_on_without_loss(threads: ThreadPoolExecutor) -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 2}) as manager:

        def work() -> None:
            for _ in range(300):
                with manager.acquire_master(timeout=LONG) as connection:
                    connection.use()

        for each in [threads.submit(work) for _ in range(16)]:
            each.result()
        metrics = manager.metrics()
        assert metrics.acquires == 16 * 300
        assert (metrics.nodes[0].in_flight, metrics.waiting) == (0, 0)
        assert manager.pool_of("a").most_lent <= 2


def test_a_place_given_back_while_a_thread_begins_to_wait_is_not_lost() -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        connection = manager.getconn()

        def give_back(frame: FrameType, event: str, _: object) -> None:
            if (event, frame.f_code.co_name) == ("call", "_wait"):
                other = threading.Thread(target=manager.putconn, args=[connection])
                other.start()
                other.join()

        before = sys.gettrace()
        sys.settrace(give_back)
        try:
            # A running loop would hand the place on sooner or later, so it is blocked.
            with blocked_loop(manager), manager.acquire_master(timeout=1):
                pass
        finally:
            sys.settrace(before)
        assert connection.resets == 2  # so the place was given back in between


def test_an_interrupted_wait_loses_no_place() -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        connection = manager.getconn()
        raised_in = threading.Event()

        def interrupt(*_: object) -> None:
            raised_in.set()
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGUSR1, interrupt)
        main = threading.get_ident()

        def when_it_waits() -> None:
            until(lambda: manager.waiting == 1)
            signal.pthread_kill(main, signal.SIGUSR1)

        other = threading.Thread(target=when_it_waits)
        other.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                manager.getconn(timeout=LONG)
        finally:
            signal.signal(signal.SIGUSR1, before)
            other.join()
        assert raised_in.is_set()
        assert manager.waiting == 0
        manager.putconn(connection)
        assert manager.metrics().nodes[0].in_flight == 0
        with manager.acquire_master(timeout=1):
            pass


def test_what_is_raised_while_the_driver_acquires_loses_nothing() -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:

        def interrupt() -> None:
            raise KeyboardInterrupt

        pool = manager.pool_of("a")
        pool.on_acquire = interrupt
        with pytest.raises(KeyboardInterrupt), manager.acquire_master():
            pass
        pool.on_acquire = lambda: None
        pool.on_look = interrupt  # by then the driver has acquired the connection
        with pytest.raises(KeyboardInterrupt):
            manager.getconn()
        pool.on_look = lambda: None
        assert not pool.lent
        with manager.acquire_master():
            assert manager.metrics().nodes[0].in_flight == 1


def test_4_a_refused_connection_is_no_error_while_another_host_can_serve() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    with managed(servers, balancer_policy=RoundRobinBalancerPolicy) as manager:
        servers["b"].login_error = ConnectionRefusedError("no")
        for _ in range(6):
            with manager.acquire_replica() as connection:
                assert name_of(connection) == "c"
        assert manager.metrics().retries >= 1


def test_3_a_silent_host_costs_an_acquire_no_more_than_its_deadline() -> None:
    servers = fake_cluster("a master")
    with managed(servers, refresh_timeout=60) as manager:
        servers["a"].silent_after_login = True  # no connection has been opened yet
        manager.in_loop(servers["a"].freeze)
        with pytest.raises(NotAvailableError), manager.acquire_master(timeout=0.15):
            pass
        assert manager.metrics().nodes[0].in_flight == 0
        servers["a"].silent_after_login = False
        manager.in_loop(servers["a"].thaw)
        with manager.acquire_master(timeout=LONG):
            pass


def test_8_a_host_that_goes_quiet_ends_the_connects_to_it(threads: ThreadPoolExecutor) -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    with managed(servers, refresh_delay=0.05, refresh_timeout=0.1) as manager:
        manager.in_loop(servers["b"].freeze)

        def acquire() -> str:
            with manager.acquire_replica(timeout=LONG) as connection:
                return name_of(connection)

        acquired = [threads.submit(acquire) for _ in range(8)]
        assert {each.result(LONG) for each in acquired} == {"c"}
        manager.in_loop(servers["b"].thaw)


def test_an_idle_connection_that_was_aborted_meanwhile_is_not_lent() -> None:
    with managed(fake_cluster("a master")) as manager:
        with manager.acquire_master() as first:
            pass
        pool = manager.pool_of("a")
        # The loop may do this after the driver has lent a connection and before hasql does.
        pool.on_acquired = lambda connection: connection.lose() if connection is first else None
        with manager.acquire_master() as second:
            assert second is not first
            assert not second.closed
        assert manager.metrics().nodes[0].in_flight == 0


# Giving back


def test_what_getconn_took_may_be_put_back_by_any_thread(threads: ThreadPoolExecutor) -> None:
    with managed(fake_cluster("a master")) as manager:
        connection = manager.getconn()
        threads.submit(manager.putconn, connection).result()
        assert manager.metrics().nodes[0].in_flight == 0
        with pytest.raises(UnknownConnectionError, match="was released already"):
            manager.putconn(connection)


def test_putconn_within_a_block_ends_the_lease() -> None:
    with managed(fake_cluster("a master")) as manager:
        with manager.acquire_master() as connection:
            manager.putconn(connection)
            assert manager.metrics().nodes[0].in_flight == 0
        assert manager.metrics().nodes[0].in_flight == 0


def test_a_lease_is_for_one_use() -> None:
    with managed(fake_cluster("a master")) as manager:
        lease = manager.acquire_master()
        with lease:
            pass
        with pytest.raises(HasqlError, match="used already"), lease:
            pass


def test_12_giving_back_to_a_silent_host_takes_release_timeout_at_most() -> None:
    servers = fake_cluster("a master")
    with managed(servers, release_timeout=0.1, refresh_timeout=60) as manager:
        connection = manager.getconn()
        manager.in_loop(servers["a"].freeze)
        began = monotonic()
        manager.putconn(connection)
        assert monotonic() - began < LONG
        assert connection.closed
        assert manager.metrics().nodes[0].in_flight == 0
        manager.in_loop(servers["a"].thaw)


def test_an_error_at_the_end_of_a_block_is_raised_and_the_connection_given_back() -> None:
    with managed(fake_cluster("a master")) as manager:
        with manager.acquire_master():
            pass

        def commit(*_: object) -> None:
            raise ValueError("no commit")

        manager.pool_of("a").leave_block = commit
        with pytest.raises(ValueError, match="no commit"), manager.acquire_master():
            pass
        assert manager.metrics().nodes[0].in_flight == 0


def test_the_drivers_own_pool_can_be_used_and_registered() -> None:
    with managed(fake_cluster("a master", "b replica")) as manager:
        [pool] = manager.get_master_pools()
        assert manager.get_pool(read_only=False) is pool
        assert manager.pool_is_master(pool)
        [replica] = manager.get_replica_pools()
        assert manager.pool_is_replica(replica)
        with manager.acquire_from_pool(replica) as connection:
            assert name_of(connection) == "b"
            assert not manager.is_connection_closed(connection)
        connection = manager.getconn()
        manager.register_connection(connection, pool)
        with pytest.raises(UnknownConnectionError, match="was lent by a"):
            manager.release_to_pool(connection, replica)
        manager.release_to_pool(connection, pool)
        assert manager.metrics().nodes[0].in_flight == 0


# Failing over


def test_the_application_follows_the_master() -> None:
    servers = fake_cluster("a master", "b replica")
    with managed(servers, refresh_delay=0.05) as manager:
        with manager.acquire_master() as connection:
            assert name_of(connection) == "a"

        def fail_over() -> None:
            servers["a"].kill()
            servers["b"].promote()

        manager.in_loop(fail_over)
        with manager.acquire_master(timeout=LONG) as connection:
            assert name_of(connection) == "b"


def test_6_a_lease_that_breaks_has_its_host_probed_at_once() -> None:
    servers = fake_cluster("a master", "b replica")
    with managed(servers, refresh_delay=60) as manager:
        until(lambda: len(servers["a"].probes) >= 1)
        probes = len(servers["a"].probes)
        with pytest.raises(ConnectionResetError), manager.acquire_master() as connection:
            manager.in_loop(connection.lose)
            connection.use()
        until(lambda: len(servers["a"].probes) > probes)
        with manager.acquire_master() as connection:
            assert name_of(connection) == "a"


def test_a_hold_ends_where_no_probe_is_to_come() -> None:
    servers = fake_cluster("a master")
    with managed(servers, refresh_delay=60) as manager:
        unprobed = 0
        for _ in range(20):  # more than there are bursts for hints
            with pytest.raises(ConnectionResetError), manager.acquire_master() as connection:
                manager.in_loop(connection.lose)
                probes = len(servers["a"].probes)
                connection.use()
            with manager.acquire_master(timeout=LONG):
                unprobed += len(servers["a"].probes) == probes
        assert unprobed


def test_6_a_lease_that_breaks_does_not_end_the_hold_for_anothers_probe() -> None:
    sizes = {"max_size": 3}
    with managed(fake_cluster("a master"), pool_factory_kwargs=sizes, refresh_delay=60) as manager:
        with manager.acquire_master(), manager.acquire_master(), manager.acquire_master():
            pass  # now three are idle
        busy, broken, told, looked = (threading.Event() for _ in range(4))

        async def hear_of_both() -> None:
            busy.set()
            broken.wait(LONG)
            await asyncio.sleep(0)  # next the loop hears of both leases; no timer is due
            told.set()
            looked.wait(LONG)

        loop = threading.Thread(target=lambda: manager.wait_in_loop(hear_of_both))
        loop.start()
        try:
            assert busy.wait(LONG)
            with pytest.raises(ConnectionResetError), manager.acquire_master() as first:
                with pytest.raises(ConnectionResetError), manager.acquire_master() as second:
                    second.lose()
                    second.use()  # begins a burst, whose probe ends the hold
                first.lose()
                first.use()  # begins no burst
            broken.set()
            assert told.wait(LONG)
            with pytest.raises(NotAvailableError), manager.acquire_master(timeout=0.01):
                pass
        finally:
            broken.set()
            looked.set()
            loop.join()
        with manager.acquire_master(timeout=LONG):
            pass


def test_9_a_lease_on_a_master_that_was_replaced_is_aborted() -> None:
    servers = fake_cluster("a master", "b replica")
    with managed(servers, refresh_delay=0.05) as manager:
        connection = manager.getconn()
        manager.in_loop(servers["b"].promote)
        until(lambda: connection.closed)
        with pytest.raises(ConnectionResetError):
            connection.use()
        manager.putconn(connection)
        with manager.acquire_master(timeout=LONG) as connection:
            assert name_of(connection) == "b"


@pytest.mark.parametrize("becomes", ["fenced", "a replica"])
def test_9_a_writer_is_given_no_login_that_has_outlasted_its_hosts_time_as_the_master(
    becomes: str,
) -> None:
    servers = fake_cluster("a master", "b replica")
    a, b = servers["a"], servers["b"]

    def promote() -> None:
        a.master = becomes == "fenced"  # if fenced, it is alive and still a master
        b.promote()

    with managed(servers, refresh_delay=0.02) as manager:
        of_a, of_b = manager.pool_of("a"), manager.pool_of("b")

        def lose_the_role() -> None:
            # By now the thread has its place, and is about to log in.
            of_a.on_acquire = lambda: None
            manager.in_loop(promote)
            until(lambda: manager.pool_is_master(of_b) and not manager.pool_is_master(of_a))
            assert not of_a.free

        of_a.on_acquire = lose_the_role
        with manager.acquire_master(timeout=LONG) as connection:
            assert name_of(connection) == "b"
        assert manager.metrics().retries == 1
        assert [node.in_flight for node in manager.metrics().nodes] == [0, 0]


def test_8_leases_on_a_silent_host_are_broken_after_lease_abort_after() -> None:
    servers = fake_cluster("a master")
    with managed(
        servers, refresh_delay=0.05, refresh_timeout=0.1, lease_abort_after=0.2
    ) as manager:
        with pytest.raises(ConnectionResetError), manager.acquire_master() as connection:
            manager.in_loop(servers["a"].freeze)
            connection.use()
        manager.in_loop(servers["a"].thaw)


def test_5_a_replica_that_says_it_was_promoted_is_not_handed_out_for_reading() -> None:
    servers = fake_cluster("a master", "b replica")
    with managed(servers, refresh_delay=60) as manager:
        with manager.acquire_replica() as connection:
            assert name_of(connection) == "b"
            manager.in_loop(servers["b"].promote)
            connection.use()
        with (
            pytest.raises(NotAvailableError),
            manager.acquire_replica(timeout=0.2) as connection,
        ):
            pass
        with manager.acquire_master(timeout=LONG) as connection:
            assert name_of(connection) == "b"


def test_5_a_master_connection_that_says_standby_is_asked_before_it_is_lent() -> None:
    servers = fake_cluster("a master")
    with managed(servers) as manager:
        servers["a"].lie_to_pool = True
        with manager.acquire_master() as connection:
            assert name_of(connection) == "a"
        assert servers["a"].questions == 1


def test_5_the_question_is_ended_where_the_connection_has_gone_deaf() -> None:
    servers = fake_cluster("a master")
    with managed(servers) as manager:
        servers["a"].lie_to_pool = True
        servers["a"].silent_after_login = True
        began = monotonic()
        with pytest.raises(NotAvailableError), manager.acquire_master(timeout=1.0):
            pass
        assert monotonic() - began < LONG
        assert manager.metrics().nodes[0].in_flight == 0


class CountedLoop:
    """Calls immediately what a loop should call, and counts how often it is asked to."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, function: Callable[..., object], /, *args: Any) -> None:
        self.asked += 1
        function(*args)

    def call_later(self, seconds: float, function: Callable[..., object], /, *args: Any) -> None:
        asyncio.get_running_loop().call_later(seconds, function, *args)


async def test_15_a_limit_that_is_kept_wakes_no_loop_and_holds_on_to_nothing() -> None:
    loop, event = CountedLoop(), asyncio.Event()
    timer = AbortTimer(monotonic, nullcontext(), loop)
    used = []
    for _ in range(1000):
        connection = ThreadConnection(fake_cluster("a master")["a"])
        used.append(ref(connection))
        with timer.limit(LONG, connection.lose):
            del connection
    assert loop.asked == 1
    gc.collect()
    assert not any(each() for each in used)
    with timer.limit(0.01, event.set), timer.limit(LONG, event.set):
        await event.wait()
    assert loop.asked == 2


def test_a_lease_that_takes_longer_than_its_limit_is_aborted() -> None:
    with managed(fake_cluster("a master")) as manager:
        lease = manager.acquire_master()
        with lease as connection:
            with lease.limited(LONG):
                assert not connection.closed
            with lease.limited(0.05):
                until(lambda: connection.closed)


# Closing


def test_12_closing_waits_for_leases_and_dismisses_those_who_wait(
    threads: ThreadPoolExecutor,
) -> None:
    sizes = {"max_size": 1}
    with managed(
        fake_cluster("a master"),
        pool_factory_kwargs=sizes,
        refresh_delay=60,
        release_timeout=60,
    ) as manager:  # with these values nothing else wakes the loop
        manager.putconn(manager.getconn())
        connection = manager.getconn()
        waiting = threads.submit(manager.getconn, timeout=LONG)
        until(lambda: manager.waiting == 1)
        closing = [threads.submit(manager.close, 6 * LONG) for _ in range(2)]
        with pytest.raises(PoolManagerClosedError):
            waiting.result(LONG)
        assert not manager.closed
        connection.use()
        manager.putconn(connection)
        for each in closing:
            each.result(LONG)
        assert manager.closed


def test_12_closing_breaks_what_is_lent_after_its_timeout() -> None:
    with managed(fake_cluster("a master")) as manager, manager.acquire_master() as connection:
        manager.close(0.05)
        assert connection.closed
        assert manager.closed
    with pytest.raises(PoolManagerClosedError), manager.acquire_master():
        pass


def test_closing_leaves_no_task_of_the_loop_behind() -> None:
    """An abandoned connect ends, and closes its socket, before its loop ends."""
    ended = threading.Event()
    with managed(fake_cluster("a master")) as manager:
        left: list[asyncio.Task[None]] = []

        async def linger() -> None:
            try:
                await asyncio.sleep(LONG)
            finally:
                await asyncio.sleep(0)  # closing a socket may take a turn
                ended.set()

        async def begin() -> None:
            left.append(asyncio.create_task(linger()))
            await asyncio.sleep(0)

        manager.wait_in_loop(begin)
        manager.close()
        assert ended.is_set()


def test_a_tracer_is_told_of_the_acquires_of_threads() -> None:
    told: list[str] = []
    with managed(fake_cluster("a master")) as manager:
        tracer = Tracer(
            connection_lent=lambda record: told.append(f"lent by {record.host.host}"),
            connection_returned=lambda record: told.append(f"back to {record.host.host}"),
        )
        manager.set_tracer(tracer)
        with manager.acquire_master():
            pass
    assert told == ["lent by a", "back to a"]


def test_refusals_are_raised_by_ready() -> None:
    servers = fake_cluster("a master")
    manager = ThreadManager(servers)
    with pytest.raises(ValueError, match="or neither"):
        manager.ready(masters_count=1)
    with pytest.raises(NotAvailableError):
        manager.ready(masters_count=2, replicas_count=0, timeout=0.05)
    manager.wait_next_pool_check()
    manager.wait_all_ready()
    manager.wait_masters_ready(1)
    manager.wait_replicas_ready(0)
    manager.accept_timeline()
    manager.terminate()


# Forking


def in_child(work: Callable[[], None]) -> None:
    """Do some work in a forked child, and fail if the child fails."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b"ok"
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # the parent is told
            said = repr(error).encode()
        os.write(write, said)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        said = told.read()
    os.waitpid(pid, 0)
    assert said == b"ok", said.decode()


def test_16_a_manager_made_before_a_fork_starts_in_the_child_alone() -> None:
    manager = ThreadManager(fake_cluster("a master"))

    def work() -> None:
        with manager.acquire_master() as connection:
            assert name_of(connection) == "a"
        manager.close()

    in_child(work)
    assert not threads_of_hasql()
    with manager.acquire_master():
        pass
    manager.close()


def test_16_a_manager_started_before_a_fork_starts_afresh_in_the_child() -> None:
    servers = fake_cluster("a master", "b replica")
    with managed(servers, pool_factory_kwargs={"max_size": 1}) as manager:
        heard: list[HasqlEvent] = []
        manager.add_listener(heard.append)
        lease = manager.acquire_master()
        connection = lease.__enter__()
        ours = manager.getconn(read_only=True)

        def work() -> None:
            assert not threads_of_hasql()
            assert manager.available_pool_count == 0
            manager.putconn(ours)  # a lease of the parent's
            lease.__exit__(None, None, None)
            assert not ours.closed
            assert (ours.resets, connection.resets) == (0, 0)
            heard.clear()
            with manager.acquire_master() as another:  # the child's pool has its own place
                assert another is not connection
            manager.ready()
            manager.close()
            assert [type(event) for event in heard] == [HostUp, HostUp]
            assert not connection.closed

        in_child(work)
        assert not connection.closed
        connection.use()
        lease.__exit__(None, None, None)
        manager.putconn(ours)
        assert [node.in_flight for node in manager.metrics().nodes] == [0, 0]
        assert all(node.health is Health.UP for node in manager.metrics().nodes)


def test_16_children_do_not_all_choose_alike() -> None:
    with managed(fake_cluster("a master")) as manager:
        chance = manager.balancer.chance
        before = chance.getstate()

        def work() -> None:
            assert chance.getstate() != before

        in_child(work)
        assert chance.getstate() == before


def test_16_a_fork_while_other_threads_acquire_leaves_no_lock_behind(
    threads: ThreadPoolExecutor,
) -> None:
    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 4}) as manager:
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                with manager.acquire_master(timeout=LONG):
                    pass

        loads = [threads.submit(load) for _ in range(8)]

        def work() -> None:
            with manager.acquire_master(timeout=LONG):
                pass
            manager.terminate()

        try:
            for _ in range(10):
                in_child(work)
        finally:
            stop.set()
        for each in loads:
            each.result(LONG)


# What its leases have met


def test_hasql_knows_what_a_lease_of_a_threads_has_met() -> None:
    servers = fake_cluster("a master", "b replica")
    with ThreadManager(servers) as manager:
        with pytest.raises(DriverError) as of_lost, manager.acquire_master() as connection:
            connection.lose()
            raise DriverError
        assert manager.retriable(of_lost.value)
        with pytest.raises(ServerError) as of_standby, manager.acquire_master() as connection:
            servers["a"].master = False
            connection.use()
            raise ServerError("25006")
        assert manager.retriable(of_standby.value)
