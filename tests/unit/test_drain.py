"""Draining both kinds of manager on a scriptable cluster, and signals that cannot start a drain.

`tests/integration/test_drivers_drain.py` drains each driver, and `test_shutdown.py` whole programs.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from time import sleep
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.probe import Role
from hasql.diagnostics import correlated
from hasql.errors import (
    ConfigurationError,
    HasqlError,
    PoolManagerClosedError,
    WrongEventLoopError,
)
from hasql.resilience import (
    CommitUnknownError,
    DrainReport,
    Lifecycle,
    Outcome,
    shutdown_on_signals,
)
from hasql.tracing import Tracer
from testbed.fake_driver import fake_cluster, manager_of, until
from testbed.fake_threads import ThreadManager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.fake_driver import FakeConnection, FakeManager, FakeServer

LONG = 10.0


def asks(manager: FakeManager | ThreadManager) -> bool:
    """Tell whether a run asks what has become of its commit."""
    return bool(manager._parts.commits._searches)  # noqa: SLF001  # there is no other sign of it


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Tasks


async def test_12_draining_lets_what_is_in_use_end_and_nobody_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = manager_of(fake_cluster("a master"))
    held = [await manager.acquire_master(), await manager.acquire_master()]
    waiting = asyncio.ensure_future(manager.acquire_master(timeout=60))
    await asyncio.sleep(0)
    draining = asyncio.ensure_future(manager.drain())
    with pytest.raises(PoolManagerClosedError):
        await waiting
    with pytest.raises(PoolManagerClosedError):
        await manager.acquire_master()
    for connection in held:
        await connection.run()
        await manager.release(connection)
    report = await draining
    assert report.broken == ()
    assert 0 < report.seconds < LONG
    assert manager.closed
    assert told(caplog) == []


async def test_12_what_does_not_end_in_time_is_broken_and_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = manager_of(fake_cluster("a master", "b replica"))
    await manager.ready()
    writer = await manager.acquire_master()
    await asyncio.sleep(0.02)
    reader = await manager.acquire_replica()
    report = await manager.drain(0.05)
    assert writer.closed
    assert reader.closed
    assert [(lease.host.host, lease.role) for lease in report.broken] == [
        ("a", Role.MASTER),
        ("b", Role.REPLICA),
    ]
    first, second = report.broken
    assert LONG > first.since > second.since + 0.01 > 0.05
    (said,) = told(caplog)
    assert said == (
        "drained: 2 leases not given back in time and so broken: "
        f"a:5432 (master) out for {first.since:.1f} s, "
        f"b:5432 (replica) out for {second.since:.1f} s"
    )


async def test_12_a_log_handler_that_raises_ends_no_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manager = manager_of(fake_cluster("a master"))
    connection = await manager.acquire_master()
    monkeypatch.setattr(logging.getLogger("hasql"), "filters", [lambda _: 1 / 0])
    with pytest.raises(ZeroDivisionError):
        await manager.close(0.02)
    async with asyncio.timeout(LONG):
        await manager.close()
    assert connection.closed
    assert manager.closed


async def test_12_it_tells_who_has_what_is_broken(caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_of(fake_cluster("a master"), lifecycle=Lifecycle())
    with correlated("request 7"):
        await asyncio.create_task(manager.__aenter__(), name="starter")
        await asyncio.create_task(take(manager), name="one that forgets")
    (broken,) = (await manager.drain(0.02)).broken
    assert (broken.task, broken.correlation_id) == ("one that forgets", "request 7")
    assert told(caplog)[0].endswith(" s, taken by one that forgets")


async def take(manager: FakeManager) -> None:
    kept.append(await manager.acquire_master())


kept: list[object] = []


async def test_12_closing_tells_how_many(caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_of(fake_cluster("a master"))
    await manager.acquire_master()
    await manager.close(0.02)
    assert told(caplog) == ["closing: 1 lease not given back in time"]


async def test_12_draining_again_waits_for_the_first_and_has_its_report() -> None:
    manager = manager_of(fake_cluster("a master"))
    await manager.acquire_master()
    first = asyncio.ensure_future(manager.drain(0.05))
    second = asyncio.ensure_future(manager.drain(60))
    closing = asyncio.ensure_future(manager.close(60))
    report = await first
    assert len(report.broken) == 1
    assert await second is report
    await closing
    assert await manager.drain() is report


async def test_12_a_drain_that_is_cancelled_breaks_what_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = manager_of(fake_cluster("a master"))
    held = await manager.acquire_master()
    draining = asyncio.ensure_future(manager.drain())
    await asyncio.sleep(0.01)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert held.closed
    assert manager.closed
    assert len(told(caplog)) == 1
    assert len((await manager.drain()).broken) == 1


async def test_12_one_that_waits_for_a_drain_may_be_cancelled_alone() -> None:
    manager = manager_of(fake_cluster("a master"))
    held = await manager.acquire_master()
    first = asyncio.ensure_future(manager.drain())
    await asyncio.sleep(0)
    second = asyncio.ensure_future(manager.drain())
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.wait([second])
    assert not first.done()
    await manager.release(held)
    assert (await first).broken == ()


async def test_12_terminate_ends_a_drain(caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_of(fake_cluster("a master"))
    held = await manager.acquire_master()
    draining = asyncio.ensure_future(manager.drain())
    await asyncio.sleep(0.01)
    await manager.terminate()
    assert held.closed
    await draining
    assert told(caplog) == []  # the caller of `terminate` knows that it breaks leases


async def test_draining_what_was_never_used_is_nothing() -> None:
    manager = manager_of(fake_cluster("a master"))
    assert await manager.drain() == DrainReport()
    assert manager.closed
    with pytest.raises(PoolManagerClosedError):
        await manager.acquire_master()


async def test_a_registered_connection_is_waited_for_and_told_of() -> None:
    manager = manager_of(fake_cluster("a master"))
    await manager.ready()
    (pool,) = manager.pools
    connection = await pool.acquire()
    manager.register_connection(connection, pool)
    report = await manager.drain(0.02)
    assert [lease.host.host for lease in report.broken] == ["a"]
    assert report.broken[0].since < LONG


async def test_13_another_loop_cannot_drain() -> None:
    manager = manager_of(fake_cluster("a master"))
    await manager.ready()

    def drain_elsewhere() -> None:
        with pytest.raises(WrongEventLoopError):
            asyncio.run(manager.drain())

    await asyncio.to_thread(drain_elsewhere)
    assert not manager.closing
    await manager.terminate()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
async def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    manager, threads_manager = manager_of(fake_cluster("a master")), threaded()
    with pytest.raises((ConfigurationError, TypeError), match="timeout must be"):
        await manager.drain(timeout)
    with pytest.raises((ConfigurationError, TypeError), match="timeout must be"):
        threads_manager.drain(timeout)
    assert not manager.closing
    assert not threads_manager.closing


# Threads


def threaded(**kwargs: Any) -> ThreadManager:
    return ThreadManager(fake_cluster("a master"), **kwargs)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_12_a_drain_waits_for_other_threads(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    manager = threaded()
    lent, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with manager.acquire_master() as connection:
            lent.set()
            assert go_on.wait(LONG)
            connection.use()

    working = threads.submit(work)
    assert lent.wait(LONG)
    draining = [threads.submit(manager.drain) for _ in range(2)]
    while not manager.closing:
        assert not draining[0].done()
    with pytest.raises(PoolManagerClosedError):
        manager.getconn()
    go_on.set()
    working.result(LONG)
    reports = [each.result(LONG) for each in draining]
    assert [report.broken for report in reports] == [(), ()]
    assert told(caplog) == []


def test_12_a_drain_breaks_what_threads_do_not_give_back_and_tells(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    manager = threaded()
    connection = threads.submit(manager.getconn).result(LONG)
    report = manager.drain(0.02)
    assert connection.closed
    assert [(lease.host.host, lease.role) for lease in report.broken] == [("a", Role.MASTER)]
    (said,) = told(caplog)
    assert said == (
        "drained: 1 lease not given back in time and so broken: "
        f"a:5432 (master) out for {report.broken[0].since:.1f} s"
    )
    assert manager.drain() is report


def test_12_a_drain_within_a_block_of_its_own_thread_is_refused() -> None:
    manager = threaded()
    with manager.acquire_master() as connection:
        with pytest.raises(HasqlError, match="leave the block first, or have another thread drain"):
            manager.drain()
        assert not manager.closing
        connection.use()
    assert manager.drain().broken == ()


def test_12_a_drain_that_waits_for_its_own_thread_says_so(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no error: another thread may give back what this one has taken."""
    manager = threaded()
    connection = manager.getconn()
    said = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "this same thread took with getconn()" in record.getMessage():
                said.set()

    def give_back() -> None:
        assert said.wait(LONG)
        manager.putconn(connection)

    handler = Handler()
    logging.getLogger("hasql").addHandler(handler)
    try:
        giving = threads.submit(give_back)
        assert manager.drain().broken == ()
        giving.result(LONG)
    finally:
        logging.getLogger("hasql").removeHandler(handler)
    assert len(told(caplog)) == 1


def test_draining_what_no_thread_has_used_is_nothing() -> None:
    manager = threaded()
    assert manager.drain() == DrainReport()
    assert manager.drain() == DrainReport()
    assert manager.closed


# Commits whose answer is lost


def lost(connection: FakeConnection) -> None:
    """Lose the answer to a COMMIT; the server then says that the transaction is in progress."""
    connection.lose()
    raise ConnectionResetError


def losing_commits() -> dict[str, FakeServer]:
    """Make a master whose answers to COMMIT are all lost; its transactions write."""
    servers = fake_cluster("a master")
    servers["a"].xid, servers["a"].script["commit"] = 7, lost
    return servers


async def work(_: object) -> str:
    return "done"


async def test_12_finding_out_what_has_become_of_a_commit_is_waited_for() -> None:
    servers = losing_commits()
    a = servers["a"]
    manager = manager_of(servers)
    await manager.ready(1, 0)
    running = asyncio.create_task(manager.run(work))
    await until(lambda: asks(manager))
    draining = asyncio.create_task(manager.drain(60))
    asked = len(a.probes)
    await until(lambda: len(a.probes) > asked + 3)
    assert not draining.done()
    a.statuses[7] = "committed"
    assert await running == "done"
    report = await draining
    assert report.broken == ()


async def test_12_what_is_not_found_out_by_the_end_of_a_drain_is_unknown() -> None:
    manager = manager_of(losing_commits())
    await manager.ready(1, 0)
    running = asyncio.create_task(manager.run(work))
    await until(lambda: asks(manager))
    await manager.drain(0.05)
    with pytest.raises(CommitUnknownError) as met:
        await running
    assert await met.value.outcome(1) is Outcome.UNKNOWN


async def test_12_nobody_waits_for_who_asks_no_more() -> None:
    """A run that was cancelled, or that does not ask, leaves nothing for a drain to wait for."""
    manager = manager_of(losing_commits())
    await manager.ready(1, 0)
    with pytest.raises(CommitUnknownError):
        await manager.run(work, resolve_commits=False)
    running = asyncio.create_task(manager.run(work))
    await until(lambda: asks(manager))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await manager.drain(60)).seconds < LONG


def test_12_a_thread_that_finds_out_what_has_become_of_a_commit_is_waited_for(
    threads: ThreadPoolExecutor,
) -> None:
    servers = losing_commits()
    a = servers["a"]
    manager = ThreadManager(servers)
    manager.ready(1, 0)
    draining: list[Future[DrainReport]] = []

    def lost_with_a_drain(connection: FakeConnection) -> None:
        draining.append(threads.submit(manager.drain, 60))
        while not manager.closing:
            sleep(0.001)
        lost(connection)

    a.script["commit"] = lost_with_a_drain
    # This leaves the drain time to end between the end of the run's lease and its question.
    manager.set_tracer(Tracer(connection_returned=lambda _: sleep(0.2)))
    running = threads.submit(manager.run, lambda _: "done")
    while not asks(manager):
        assert not running.done()
    asked = len(a.probes)
    while len(a.probes) < asked + 4:
        assert not running.done()
    assert not draining[0].done()
    a.statuses[7] = "committed"
    assert running.result(LONG) == "done"
    assert draining[0].result(LONG).broken == ()


def test_12_what_a_thread_has_not_found_out_by_the_end_of_a_drain_is_unknown(
    threads: ThreadPoolExecutor,
) -> None:
    manager = ThreadManager(losing_commits())
    manager.ready(1, 0)
    running = threads.submit(manager.run, lambda _: "done")
    while not asks(manager):
        sleep(0.001)
    manager.drain(0.05)
    with pytest.raises(CommitUnknownError) as met:
        running.result(LONG)
    assert met.value.outcome(1) is Outcome.UNKNOWN


# Signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Check that a test leaves the signal handlers as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) == handler
        signal.signal(number, handler)


async def test_signals_need_a_pool_manager() -> None:
    with pytest.raises(TypeError, match="takes pool managers, which have drain"):
        shutdown_on_signals(print)  # type: ignore[arg-type]


async def test_signals_need_the_main_thread() -> None:
    def call(pool: Any) -> None:
        with pytest.raises(ConfigurationError, match="call it there, before other threads"):
            shutdown_on_signals(pool)

    await asyncio.to_thread(call, threaded())


def test_signals_need_the_loop_of_an_async_manager() -> None:
    manager: FakeManager = manager_of(fake_cluster("a master"))
    with pytest.raises(WrongEventLoopError, match="in the coroutine that asyncio"):
        shutdown_on_signals(threaded(), manager)


async def test_a_handler_of_the_loop_is_refused() -> None:
    """hasql could not call it later: there is no way to find out what it is."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, print)
    try:
        with pytest.raises(ConfigurationError, match=r"SIGTERM has .*install it with signal\.sig"):
            shutdown_on_signals(manager_of(fake_cluster("a master")))
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_the_handlers_of_a_web_server_are_left_to_it() -> None:
    def handle_exit(number: int, frame: object) -> None: ...

    handle_exit.__module__ = "uvicorn.server"
    before = signal.signal(signal.SIGTERM, handle_exit)
    try:
        with pytest.raises(ConfigurationError, match="is handled by uvicorn, which has to stop"):
            shutdown_on_signals(manager_of(fake_cluster("a master")))
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        ((), "`signals` is empty"),
        ((signal.SIGKILL,), "SIGKILL cannot be caught"),
        ((1234,), "1234 is not the number of a signal"),
    ],
)
def test_signals_that_cannot_be(signals: tuple[int, ...], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        shutdown_on_signals(threaded(), signals=signals)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        shutdown_on_signals(threaded(), signals=iter([signal.SIGINT]))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_windows_has_no_such_signals() -> None:
    program = """
import sys
from hasql.resilience import shutdown_on_signals
class Pool:
    def drain(self, timeout): ...
sys.platform = "win32"
shutdown_on_signals(Pool())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert "which Windows does not have: drain the pool managers in a `finally`" in done.stderr
