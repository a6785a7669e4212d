"""A storm on the manager for threads: 64 use it while hosts are killed, frozen and promoted."""

from __future__ import annotations

import sys
import threading
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest

from hasql.errors import NotAvailableError
from testbed.fake_driver import FakeServer, fake_cluster
from testbed.fake_threads import ThreadConnection, ThreadManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THREADS, ACQUIRES = 64, 40_000
TIMEOUT, SHORT_TIMEOUT = 2.0, 0.002
"""Timeouts in seconds: of acquires, and of every seventh, so that some give up when served."""
LATE = 2.0
"""Seconds by which deadlines may be missed, with so many threads beside other tests."""
PATIENCE = 40.0
_WORK = 0.001
"""Seconds for which every eighth lease is in use, so that faults hit some leases."""
_MOMENT, _ABORTED = 0.03, 0.15
"""Seconds for which a change lasts; and for which a host is silent, so that leases are broken."""


class Client:
    """One of the threads, and its results."""

    def __init__(self, manager: ThreadManager, number: int) -> None:
        self._manager = manager
        self._number = number
        self.lent = self.broken = self.refused = 0
        #: The most seconds by which an acquire has missed its deadline.
        self.late = self._pause = 0.0
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"client {number}", daemon=True)

    def _run(self) -> None:
        try:
            for turn in range(ACQUIRES // THREADS + 1):
                self._pause = _WORK if turn % 8 == 0 else 0.0
                self._use(
                    read_only=(turn + self._number) % 2 == 1,
                    by_call=turn % 5 == 0,
                    timeout=SHORT_TIMEOUT if turn % 7 == 0 else TIMEOUT,
                )
        except BaseException as error:
            self.error = error
            raise

    def _use(self, *, read_only: bool, by_call: bool, timeout: float) -> None:
        self._deadline = monotonic() + timeout
        try:
            if by_call:
                connection = self._manager.getconn(read_only, timeout=timeout)
                self._note_lent()
                try:
                    self._work_on(connection)
                finally:
                    self._manager.putconn(connection)
            else:
                with self._manager.acquire(read_only, timeout=timeout) as connection:
                    self._note_lent()
                    self._work_on(connection)
        except ConnectionError:
            self.broken += 1
        except NotAvailableError:
            self.refused += 1
            self._note_end()

    def _work_on(self, connection: ThreadConnection) -> None:
        sleep(self._pause)
        connection.use()

    def _note_lent(self) -> None:
        self.lent += 1
        self._note_end()

    def _note_end(self) -> None:
        self.late = max(self.late, monotonic() - self._deadline)


class Director:
    """Changes the servers one after the other while clients run; leaves the cluster intact."""

    def __init__(self, manager: ThreadManager, servers: dict[str, FakeServer]) -> None:
        self._manager = manager
        self._servers = list(servers.values())
        self._timeline = 1
        self.changes = 0

    def run(self, clients: list[Client]) -> None:
        for change, seconds in self._changes():
            if not any(client.thread.is_alive() for client in clients):
                return
            self._manager.in_loop(change)
            self.changes += 1
            sleep(seconds)

    def _changes(self) -> Iterator[tuple[Callable[[], object], float]]:
        a, b, c = self._servers
        while True:
            yield c.freeze, _MOMENT
            yield c.thaw, _MOMENT
            yield c.kill, _MOMENT
            yield c.restart, _MOMENT
            # The master is killed, and another server is promoted.
            yield a.kill, _MOMENT
            yield partial(self._promote, b), _MOMENT
            yield partial(a.restart, master=False), _MOMENT
            # The master freezes, is replaced, and thaws.
            yield b.freeze, _ABORTED
            yield partial(self._promote, a), _MOMENT
            yield b.thaw, _MOMENT
            yield partial(self._follow, a, b, c), _MOMENT
            # Another server is promoted beside a live master.
            yield partial(self._promote, b), _MOMENT
            yield partial(self._follow, b, a, c), _MOMENT
            a, b = b, a

    def _promote(self, server: FakeServer) -> None:
        self._timeline += 1
        server.promote()
        server.timeline = self._timeline

    def _follow(self, master: FakeServer, *others: FakeServer) -> None:
        for server in others:
            server.restart(master=False)
            server.timeline = master.timeline


@pytest.fixture
def _many_switches() -> Iterator[None]:
    """Make the interpreter switch between threads very often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.00005)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_many_switches")
def test_64_threads_survive_killed_frozen_and_promoted_hosts_and_all_counts_are_right() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    before = set(threading.enumerate())
    manager = ThreadManager(
        servers,
        refresh_delay=0.05,
        refresh_timeout=0.05,
        lease_abort_after=0.05,
        release_timeout=0.1,
        pool_factory_kwargs={"max_size": 16},
    )
    try:
        manager.ready()
        clients = [Client(manager, number) for number in range(THREADS)]
        director = Director(manager, servers)
        deadline = monotonic() + PATIENCE
        for client in clients:
            client.thread.start()
        director.run(clients)
        for client in clients:
            client.thread.join(max(0.0, deadline - monotonic()))
        assert [client.thread.name for client in clients if client.thread.is_alive()] == []
        assert [client.error for client in clients if client.error is not None] == []
        metrics = manager.metrics()
        assert metrics.acquires == sum(client.lent for client in clients)
        assert sum(x.lent + x.refused for x in clients) >= ACQUIRES
        assert [node.in_flight for node in metrics.nodes] == [0, 0, 0]
        assert metrics.waiting == 0
        assert [pool.lent for pool in manager.driver.pools] == [set(), set(), set()]
        assert max(pool.most_lent for pool in manager.driver.pools) <= 16
        assert max(client.late for client in clients) < LATE
        assert director.changes >= 26, "two rounds of changes of the master"
        assert sum(client.broken for client in clients) > 0, "the faults met nobody"
        assert sum(client.refused for client in clients) > 0, "nobody gave up"
    finally:
        manager.terminate()
    assert set(threading.enumerate()) - before == set()
