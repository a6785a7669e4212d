"""Log handlers, listeners and tracers of a manager for threads may block: hasql does not wait.

Each test bears the number of the invariant it stands for, where it stands for one.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hasql import HasqlError
from hasql.events import Event, HostDown
from hasql.tracing import ProbeEnded, Tracer
from testbed.fake_driver import fake_cluster
from tests.unit.test_driver_threads import no_more_threads
from tests.unit.test_thread_manager import LONG, in_child, managed, name_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from testbed.fake_driver import FakeServer
    from testbed.fake_threads import ThreadManager


class Handler(logging.Handler):
    """Does something with each record, while it holds its lock, as every handler does."""

    def __init__(self, work: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self.work = work

    def emit(self, record: logging.LogRecord) -> None:
        self.work(record)


@contextmanager
def handled(name: str, work: Callable[[logging.LogRecord], object]) -> Iterator[Handler]:
    """Add a handler to a logger, which logs at all levels meanwhile."""
    logger, handler = logging.getLogger(name), Handler(work)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def log_often(count: int) -> None:
    """Log the numbers from 0 to `count` - 1."""
    for number in range(count):
        logging.getLogger("hasql").warning("%d", number)


def callback_threads() -> list[str]:
    return [x.name for x in threading.enumerate() if x.name == "hasql callbacks"]


def fail_over(manager: ThreadManager, servers: dict[str, FakeServer]) -> None:
    """Kill the master and promote another, which serves at once."""
    manager.in_loop(servers["a"].kill)
    until(lambda: manager.master_pool_count == 0)
    manager.in_loop(servers["b"].promote)
    with manager.acquire_master(timeout=LONG / 2) as connection:
        assert name_of(connection) == "b"


def test_4_a_log_handler_that_waits_for_the_master_does_not_hold_up_the_failover() -> None:
    servers = fake_cluster("a master", "b replica")
    stored: list[str] = []

    def store(record: logging.LogRecord) -> None:
        if record.threadName == "hasql" and record.levelno >= logging.WARNING:
            with manager.acquire_master(timeout=LONG) as connection:
                stored.append(f"{record.getMessage()} {name_of(connection)}")

    with managed(servers, refresh_delay=0.05) as manager, handled("hasql", store):
        fail_over(manager, servers)
        until(lambda: any("is down" in said and said.endswith(" b") for said in stored))


def test_4_a_log_handler_whose_lock_is_held_does_not_hold_up_the_failover() -> None:
    servers = fake_cluster("a master", "b replica")
    stored: list[str] = []

    def store(record: logging.LogRecord) -> None:
        if record.name == "app":
            with manager.acquire_master(timeout=LONG) as connection:
                stored.append(name_of(connection))

    sizes = {"max_size": 1}
    with (
        managed(servers, refresh_delay=0.05, pool_factory_kwargs=sizes) as manager,
        handled("hasql", store) as handler,
    ):
        app = logging.Logger("app")  # noqa: LOG001  # for this test alone
        app.addHandler(handler)
        manager.getconn()
        waiting = threading.Thread(target=app.warning, args=["failed"])
        waiting.start()
        until(lambda: manager.waiting == 1)  # it waits in the handler, and holds its lock
        manager.in_loop(servers["a"].kill)
        manager.in_loop(servers["b"].promote)
        waiting.join(LONG / 2)
        assert stored == ["b"]


@pytest.mark.parametrize("way", ["listener", "tracer"])
def test_4_what_is_told_of_the_cluster_may_wait_for_the_master(way: str) -> None:
    servers = fake_cluster("a master", "b replica")
    found: list[str] = []

    def listen(event: Event | ProbeEnded) -> None:
        if isinstance(event, HostDown) or getattr(event, "error", None) is not None:
            with manager.acquire_master(timeout=LONG) as connection:
                found.append(name_of(connection))

    with managed(servers, refresh_delay=0.05) as manager:
        if way == "listener":
            manager.add_listener(listen)
        else:
            manager.set_tracer(Tracer(probe_ended=listen))
        fail_over(manager, servers)
        until(lambda: "b" in found)


def test_a_listener_may_close() -> None:
    servers = fake_cluster("a master", "b replica")
    with managed(servers, refresh_delay=0.05) as manager:
        manager.add_listener(lambda _: manager.close())
        manager.in_loop(servers["b"].kill)
        until(lambda: manager.closed)


def test_what_is_told_keeps_its_order_and_all_is_told_when_the_manager_is_closed() -> None:
    told: list[object] = []
    servers = fake_cluster("a master")
    with (
        handled("hasql", lambda record: told.append(getattr(record, "event", None))),
        managed(servers, refresh_delay=0.05) as manager,
    ):
        manager.add_listener(lambda event: told.append(type(event)))
        manager.in_loop(servers["a"].kill)
        until(lambda: not manager.master_pool_count)
        manager.terminate()
        assert told.index("host_down") < told.index(HostDown)
    until(lambda: not callback_threads())


def test_15_there_is_no_thread_for_it_while_there_is_nothing_to_tell() -> None:
    with managed(fake_cluster("a master"), refresh_delay=0.02) as manager:
        until(lambda: not callback_threads())
        manager.wait_next_pool_check()
        assert not callback_threads()


def test_15_what_is_never_told_is_left_out_when_it_is_too_much() -> None:
    go_on, told = threading.Event(), list[str]()

    def wait(record: logging.LogRecord) -> None:
        told.append(record.getMessage())
        go_on.wait(LONG)

    with managed(fake_cluster("a master")) as manager, handled("hasql", wait):
        manager.in_loop(lambda: log_often(1500))
        go_on.set()
        manager.close()
    lasting = [said for said in told if said.isdigit()]
    assert lasting == [str(number) for number in range(len(lasting))]
    assert 1000 <= len(lasting) < 1500
    assert any(said.startswith(f"{1500 - len(lasting)} messages dropped") for said in told), told[
        -3:
    ]


def test_what_no_thread_could_be_had_for_is_told_by_who_closes() -> None:
    told: list[str] = []
    log = logging.getLogger("hasql")
    with (
        managed(fake_cluster("a master")) as manager,
        handled(
            "hasql", lambda record: told.append(f"{record.getMessage()} {threading.get_ident()}")
        ),
    ):
        until(lambda: not callback_threads())
        with no_more_threads():
            manager.in_loop(lambda: log.warning("kept"))
        assert not any("kept" in said for said in told)
        manager.close()
        assert f"kept {threading.get_ident()}" in told


def test_16_a_child_tells_nothing_of_what_its_parent_has_to_tell() -> None:
    go_on, told = threading.Event(), list[str]()

    def wait(record: logging.LogRecord) -> None:
        told.append(record.getMessage())
        go_on.wait(LONG)

    with managed(fake_cluster("a master")) as manager:
        until(lambda: not callback_threads())
        with handled("hasql", wait) as handler:
            manager.in_loop(lambda: log_often(2))
            until(lambda: bool(told))

            def work() -> None:
                told.clear()
                handler.work = lambda record: told.append(record.getMessage())
                manager.ready()
                manager.close()
                assert not {"0", "1"} & set(told)
                assert any("is up" in said for said in told)

            in_child(work)
            go_on.set()
            until(lambda: {"0", "1"} <= set(told))


def test_who_would_wait_in_the_loops_own_thread_is_refused_at_once() -> None:
    refused: list[BaseException] = []

    def acquire() -> None:
        try:
            manager.getconn(timeout=LONG)
        except HasqlError as error:
            refused.append(error)

    with managed(fake_cluster("a master"), pool_factory_kwargs={"max_size": 1}) as manager:
        with manager.acquire_master():
            manager.in_loop(acquire)
        assert "hasql's own thread" in str(refused[0])
        assert [node.in_flight for node in manager.metrics().nodes] == [0]
