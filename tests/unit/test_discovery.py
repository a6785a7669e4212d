"""Discovery: whatever a source does, the hosts known so far stay.

The tests run in virtual time, so that waits do not depend on how busy the machine is.
"""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.host import HostSpec, parse_host
from hasql.cluster.state import Exclusion
from hasql.discovery import Discovered, Discovery, StaticDiscovery
from hasql.errors import NotAvailableError
from hasql.events import DiscoveryFailed, DiscoveryRecovered, Event
from hasql.metrics import DiscoveryMetrics
from simulation.virtual_time import VirtualClock, new_loop
from testbed.fake_driver import FakeManager, FakeServer, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NO_HOST = "postgresql://user:secret@/app"
A, B, C = (parse_host(name) for name in "abc")


@pytest.fixture
def anyio_backend() -> object:
    """Run in virtual time."""
    return "asyncio", {"loop_factory": partial(new_loop, VirtualClock())}


def found(*hosts: HostSpec) -> tuple[Discovered, ...]:
    return tuple(Discovered(host) for host in hosts)


class Scripted(Discovery):
    """A source that yields, or raises, what a test puts into its queue."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.watched = 0
        self.refreshed = 0
        self.refusal: Exception | None = None

    async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
        self.watched += 1
        while True:
            answer = await self.answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def refresh(self) -> None:
        self.refreshed += 1
        if self.refusal is not None:
            raise self.refusal


class SourcedManager(FakeManager):
    """A manager of three servers, whose hosts come from a source."""

    def __init__(self, **kwargs: Any) -> None:
        self.source = Scripted()
        clock = asyncio.get_running_loop().time
        self.servers = {host: FakeServer(host, master=host is A, clock=clock) for host in (A, B, C)}
        settings: dict[str, Any] = {"refresh_delay": 0.05, "clock": clock, **kwargs}
        super().__init__(self.servers, discovery=self.source, **settings)

    def hosts(self) -> list[HostSpec]:
        return [node.host for node in self.metrics().nodes]


@pytest.mark.parametrize(
    "answer",
    [(), None, "db1", (Discovered(A), "b"), [None], (A,), 7, OSError("no such name")],
    ids=["nothing", "none", "text", "half", "nones", "hosts", "number", "failure"],
)
async def test_17_what_is_no_answer_changes_nothing_and_is_logged_once(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        with caplog.at_level(logging.WARNING, "hasql"):
            for _ in range(2):
                await manager.source.answers.put(answer)
            await until(lambda: manager.source.answers.qsize() <= isinstance(answer, Exception))
            await until(lambda: len(caplog.records) > 0)
        assert manager.hosts() == [A, B, C]
        assert ["Scripted has failed" in record.getMessage() for record in caplog.records] == [True]
        # A valid answer still counts, in any order of hosts and with repetitions.
        if not isinstance(answer, Exception):
            await manager.source.answers.put([*found(C, A, C)])
            await until(lambda: manager.hosts() == [C, A])
        async with manager.acquire_master() as connection:
            assert connection.server.host == A


class TextlessError(Exception):
    """An error that has no text: `str` of it fails."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "told"),
    [(TextlessError(), r"TextlessError: it has no text"), (OSError("x" * 10**7), r"OSError: x+")],
    ids=["textless", "endless"],
)
async def test_17_whatever_a_source_raises_it_is_asked_again(error: Exception, told: str) -> None:
    async with SourcedManager() as manager:
        await manager.source.answers.put(error)
        await until(lambda: described(manager) is not None)
        assert re.fullmatch(told + ".{0,20}", str(described(manager)))
        assert len(str(described(manager))) < 3000
        await manager.source.answers.put(found(A, B))
        await until(lambda: manager.hosts() == [A, B])


def described(manager: SourcedManager) -> str | None:
    shown = manager.metrics().discovery
    assert shown is not None
    return shown.last_error


async def test_17_a_source_that_fails_is_asked_again_and_the_hosts_serve_meanwhile() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        await manager.source.answers.put(OSError("no such name"))
        await until(manager.source.answers.empty)
        async with manager.acquire_master() as connection:
            assert connection.server.host == A
        await manager.source.answers.put(found(A, B))
        await until(lambda: manager.hosts() == [A, B])
        assert manager.source.watched == 2


async def test_17_a_source_that_hangs_keeps_nobody_waiting() -> None:
    async with asyncio.timeout(5), SourcedManager() as manager:
        await manager.ready(1, 2)
        async with manager.acquire_replica() as connection:
            assert connection.server.host in {B, C}
        assert manager.metrics().discovery == DiscoveryMetrics("Scripted", (), None, None)


async def test_17_a_failure_is_told_of_by_an_event_and_shown_until_the_next_answer() -> None:
    heard: list[Event] = []
    async with SourcedManager() as manager:
        manager.add_listener(heard.append)
        await manager.ready(1, 2)
        for _ in range(2):
            await manager.source.answers.put(OSError("no way to u:secret@db1 password=secret"))
        await until(lambda: manager.metrics().discovery.last_error is not None)
        shown = manager.metrics().discovery
        assert (shown.source, shown.hosts, shown.last_success) == ("Scripted", (), None)
        assert shown.last_error is not None
        assert shown.last_error.startswith("OSError: no way to")
        assert "secret" not in shown.last_error
        await manager.source.answers.put(found(A, B, C))
        await until(lambda: manager.metrics().discovery.last_error is None)
        shown = manager.metrics().discovery
        assert shown.hosts == (A, B, C)
        assert shown.last_success is not None
        assert 0 <= shown.last_success < 10
        await asyncio.sleep(0)
    told = [x for x in heard if isinstance(x, DiscoveryFailed | DiscoveryRecovered)]
    assert [type(x) for x in told] == [DiscoveryFailed, DiscoveryRecovered]
    assert "secret" not in repr(told)


async def test_17_a_source_that_is_cancelled_within_is_one_that_has_failed() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        await manager.source.answers.put(asyncio.CancelledError())
        await until(lambda: manager.source.watched == 2)
        await manager.source.answers.put(found(A))
        await until(lambda: manager.hosts() == [A])


async def test_17_a_source_that_never_waits_starves_nobody() -> None:
    class Restless(Discovery):
        answers = 0

        async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
            while True:
                self.answers += 1
                yield found(A, B) if self.answers % 2 else found(A, C)

    source = Restless()
    clock = asyncio.get_running_loop().time
    servers = {host: FakeServer(host, master=host is A, clock=clock) for host in (A, B, C)}
    async with FakeManager(servers, discovery=source, clock=clock) as manager:
        before, began = source.answers, clock()
        for _ in range(50):
            async with manager.acquire_master() as connection:
                await connection.run()
            await asyncio.sleep(0.01)
        assert source.answers - before <= 2 + (clock() - began) / 0.01


async def test_17_an_answer_of_far_too_many_hosts_is_none() -> None:
    many = found(A, *(HostSpec(f"h{i}", 5432) for i in range(10_000)))
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        await manager.source.answers.put(many)
        await until(lambda: manager.metrics().discovery.last_error is not None)
        assert manager.metrics().discovery.last_error == (
            "it answered 10001 hosts, more than the 256 allowed"
        )
        assert manager.hosts() == [A, B, C]


async def test_a_source_that_breaks_its_own_name_is_called_by_its_class() -> None:
    class Nameless(Scripted):
        def __str__(self) -> str:
            raise ZeroDivisionError

    manager = FakeManager({A: FakeServer(A, master=True)}, discovery=Nameless())
    assert manager.metrics().discovery.source == "Nameless"


# A manager that knows no host yet


async def test_a_manager_without_hosts_waits_for_the_first_answer_of_its_source() -> None:
    manager = SourcedManager(dsn=NO_HOST)
    acquiring = asyncio.ensure_future(manager.acquire_master(timeout=20))
    await until(lambda: manager.metrics().waiting == 1)
    assert manager.metrics().nodes == ()
    await manager.source.answers.put(found(A, B))
    connection = await acquiring
    assert connection.server.host == A
    await manager.release(connection)
    await manager.ready(1, 1)
    await manager.close()


async def test_14_who_waits_for_a_source_in_vain_is_told_of_it() -> None:
    manager = SourcedManager(dsn=NO_HOST)
    with pytest.raises(NotAvailableError, match="Scripted has not answered yet"):
        await manager.acquire_master(timeout=0.05)
    await manager.source.answers.put(OSError("no such name: password=secret"))
    await until(lambda: manager.metrics().discovery.last_error is not None)
    with pytest.raises(NotAvailableError) as caught:
        await manager.ready(timeout=0.05)
    assert "discovery: Scripted has not answered yet, last error: OSError: no such name" in str(
        caught.value
    )
    assert "secret" not in str(caught.value)
    with pytest.raises(NotAvailableError, match="no such name"):
        await manager.acquire_replica(timeout=0.05)
    # While there is no master, the manager does not take the full pauses after failures. For
    # these failures they would be 11 s at least.
    for _ in range(3):
        await manager.source.answers.put(OSError("no such name"))
    await manager.source.answers.put(found(A, B))
    async with asyncio.timeout(9), manager.acquire_master(timeout=20):
        pass
    await manager.close()


async def test_a_source_that_ends_without_an_answer_is_told_of() -> None:
    class Empty(Discovery):
        async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
            return
            yield

    manager = FakeManager({}, dsn=NO_HOST, discovery=Empty())
    with pytest.raises(NotAvailableError, match="Empty has ended without an answer"):
        await manager.acquire_master(timeout=0.05)
    await manager.close()


async def test_9_of_two_masters_that_are_found_the_newer_serves() -> None:
    manager = SourcedManager(dsn=NO_HOST)
    manager.servers[B].promote()
    manager.servers[B].latency = 0.03
    acquiring = asyncio.ensure_future(manager.acquire_master(timeout=10))
    await manager.source.answers.put(found(A, B, C))
    connection = await acquiring
    assert connection.server.host == B
    await manager.release(connection)
    await manager.close()


# What a source says of a host


async def test_what_a_source_says_of_a_host_changes_its_node_and_nothing_else() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        held = await manager.acquire_replica()
        pool = manager.pools[1]
        await manager.source.answers.put(
            (Discovered(A, label="one"), Discovered(B, label="two", never_replica=True), *found(C))
        )
        await until(lambda: manager.replica_pool_count == 1)
        assert [node.label for node in manager.metrics().nodes] == ["one", "two", None]
        assert manager.metrics().nodes[1].exclusion is Exclusion.NEVER_REPLICA
        assert manager.pools[1] is pool
        for _ in range(20):
            async with manager.acquire_replica() as connection:
                assert connection.server.host == C
        await held.run()
        await manager.release(held)
        # The host is still ready to become the master.
        manager.servers[A].kill()
        manager.servers[B].promote()
        async with manager.acquire_master(timeout=10) as connection:
            assert connection.server.host == B
        assert manager.pools[1] is pool


async def test_never_master_of_a_source_forbids_a_master() -> None:
    async with SourcedManager() as manager:
        await manager.source.answers.put((*found(A, C), Discovered(B, never_master=True)))
        await manager.ready(1, 2)
        manager.servers[B].promote()
        await until(lambda: manager.metrics().nodes[2].exclusion is Exclusion.NEVER_MASTER)
        async with manager.acquire_master() as connection:
            assert connection.server.host == A


async def test_hosts_of_the_lowest_priority_are_used_until_they_are_full_or_gone() -> None:
    async with SourcedManager(pool_factory_kwargs={"min_size": 1, "max_size": 2}) as manager:
        await manager.source.answers.put((*found(A, B), Discovered(C, priority=1)))
        await until(lambda: manager.metrics().discovery.hosts == (A, B, C))
        await manager.ready(1, 2)
        held = [await manager.acquire_replica() for _ in range(4)]
        assert [connection.server.host for connection in held] == [B, B, C, C]
        for connection in held:
            await manager.release(connection)
        for _ in range(20):
            async with manager.acquire_replica() as connection:
                assert connection.server.host == B
        manager.servers[B].kill()
        async with manager.acquire_replica(timeout=10) as connection:
            assert connection.server.host == C


# Hosts that leave


async def test_a_removed_hosts_leases_have_all_the_time_they_want() -> None:
    async with SourcedManager(lease_abort_after=0.1) as manager:
        await manager.ready(1, 2)
        held = await manager.acquire_replica()
        left = held.server.host
        await manager.source.answers.put(found(*(host for host in (A, B, C) if host != left)))
        await until(lambda: manager.replica_pool_count == 1)
        assert [node.exclusion for node in manager.metrics().nodes][2] is Exclusion.LEAVING
        await manager.wait_next_pool_check()
        await asyncio.sleep(0.3)  # longer than lease_abort_after
        await held.run()
        await manager.release_to_pool(held, manager.pools[2])
        await until(lambda: left not in manager.hosts())
        await until(lambda: not manager.servers[left].connections)


async def test_9_a_master_that_leaves_is_fenced_like_any() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        held = await manager.acquire_master()
        await manager.source.answers.put(found(B, C))
        await until(lambda: manager.hosts() == [B, C, A])
        async with manager.acquire_master() as connection:
            assert connection.server.host == A  # it is the only master
        manager.servers[B].promote()
        await until(lambda: held.closed)
        await manager.release(held)
        await until(lambda: manager.hosts() == [B, C])
        async with manager.acquire_master() as connection:
            assert connection.server.host == B


async def test_17_hosts_of_the_dsn_are_tried_whatever_a_source_says_at_the_start() -> None:
    manager = SourcedManager()
    manager.servers[C].kill()
    for server in (manager.servers[A], manager.servers[B]):
        server.latency = 0.05
    await manager.source.answers.put(found(C))
    async with manager:
        await manager.ready(1, 1)
        assert manager.hosts() == [C, A, B]


async def test_17_hosts_that_do_not_answer_replace_nobody() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        manager.servers[C].kill()
        await until(lambda: manager.replica_pool_count == 1)
        await manager.source.answers.put(found(C))
        await until(lambda: manager.hosts() == [C, A, B])
        await manager.wait_next_pool_check()
        assert (manager.master_pool_count, manager.replica_pool_count) == (1, 1)
        manager.servers[C].restart()
        await until(lambda: manager.hosts() == [C, A])
        assert (manager.master_pool_count, manager.replica_pool_count) == (1, 1)


async def test_a_source_is_asked_to_look_again_while_no_master_is_known() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        assert manager.source.refreshed == 0
        manager.source.refusal = OSError("it may fail as well")
        manager.driver.servers[A].kill()
        await until(lambda: manager.source.refreshed >= 2)  # at once, and again a second later
        manager.driver.servers[B].promote()
        await until(lambda: manager.master_pool_count == 1)
        asked = manager.source.refreshed
        await asyncio.sleep(1.2)  # longer than the time to a next refresh
        assert manager.source.refreshed == asked


async def test_a_manager_that_is_closed_asks_no_source_any_more() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        manager.driver.servers[A].kill()
        await until(lambda: manager.source.refreshed >= 1)
    asked = manager.source.refreshed
    await asyncio.sleep(1.2)  # as above
    assert manager.source.refreshed == asked


async def test_a_master_that_comes_and_goes_has_the_source_look_again_once_a_second() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        began = asyncio.get_running_loop().time()
        for _ in range(5):
            manager.servers[A].kill()
            await until(lambda: manager.master_pool_count == 0)
            manager.servers[A].restart()
            await until(lambda: manager.master_pool_count == 1)
        assert manager.source.refreshed <= 1 + (asyncio.get_running_loop().time() - began)


async def test_a_static_source_yields_its_hosts_once() -> None:
    assert [hosts async for hosts in StaticDiscovery([A, B]).watch()] == [found(A, B)]
