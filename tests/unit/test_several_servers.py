"""Names that lead to several servers, on a scriptable cluster.

The names are `rw` and `r`, like the services of a Kubernetes operator. The tests change where they
lead while a manager runs, whose connections live on. All tests run in virtual time, so that the
number of looks, questions and attempts does not depend on how busy the machine is.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.host import parse_host
from hasql.cluster.probe import ProbeForm
from hasql.cluster.state import Exclusion, Health
from hasql.errors import NotAvailableError
from simulation.virtual_time import VirtualClock, new_loop
from testbed.fake_driver import FakeConnection, FakeManager, FakeServer, until

if TYPE_CHECKING:
    from collections.abc import Callable

RW, R = parse_host("rw"), parse_host("r")


@pytest.fixture
def anyio_backend() -> object:
    """Run in virtual time."""
    return "asyncio", {"loop_factory": partial(new_loop, VirtualClock())}


def clock() -> Callable[[], float]:
    """Return the clock of the loop."""
    return asyncio.get_running_loop().time


def server(name: str, *, master: bool = False, timeline: int = 1) -> FakeServer:
    return FakeServer(parse_host(name), master=master, timeline=timeline, clock=clock())


def manager_of(**servers: FakeServer) -> FakeManager:
    """Make a manager of names that lead to these servers, which keeps no idle connections."""
    hosts = {parse_host(name): each for name, each in servers.items()}
    return FakeManager(
        hosts,
        refresh_delay=0.02,
        pool_factory_kwargs={"min_size": 0, "max_size": 3},
        clock=clock(),
    )


async def break_a_lease(manager: FakeManager, *, read_only: bool = False) -> None:
    """Break the connection of a lease, so that hasql looks at the host afresh."""
    with pytest.raises(ConnectionResetError):
        async with manager.acquire(read_only) as connection:
            connection.lose()
            await connection.run()


async def masters(manager: FakeManager, count: int = 20) -> list[FakeServer]:
    """Take `count` leases of a master, one after the other, and return their servers."""
    found = []
    for _ in range(count):
        # Connects and looks take turns at the name, so a look may get the master instead.
        async with manager.acquire_master(timeout=60) as connection:
            found.append(connection.server)
            await connection.run()
    return found


async def test_1a_no_master_lease_leads_to_a_standby_of_the_same_name() -> None:
    one, other = server("one", master=True), server("other")
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        manager.driver.turns[RW] = cycle([other, one])
        one.drop_pooled()
        assert set(await masters(manager)) == {one}


async def test_a_name_of_which_few_connects_lead_to_the_master_is_tried_again_and_again() -> None:
    """It is not like a full server, which would be tried less and less often."""
    one, other, wrong = server("one", master=True), server("other"), 11
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        manager.driver.turns[RW] = cycle([other] * wrong + [one])
        one.drop_pooled()
        before = len(one.probes)
        assert await masters(manager, 1) == [one]
        assert other.logins >= wrong
        assert len(one.probes) - before < 12 * other.logins


async def test_1a_a_monitor_that_was_cut_and_comes_to_a_standby_finds_the_master_soon() -> None:
    one, other = server("one", master=True), server("other")
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        manager.driver.turns[RW] = cycle([other, one])
        for connection in tuple(one.connections):
            connection.lose()  # the reserved one too: the next one leads to the standby
        await until(lambda: manager.replica_pool_count == 1)
        assert set(await masters(manager)) == {one}


async def test_1a_who_is_asked_once_is_not_asked_again() -> None:
    one, other = server("one", master=True), server("other")
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        manager.driver.turns[RW] = cycle([other, one])
        one.drop_pooled()
        await masters(manager, 1)
        questions = one.questions
        await masters(manager, 20)
        assert one.questions == questions


async def test_1b_a_name_that_has_moved_to_a_newer_master_is_followed() -> None:
    old, new = server("old", master=True), server("new")
    async with manager_of(rw=old) as manager:
        await manager.ready(1, 0)
        held = await manager.acquire_master()
        new.promote()
        manager.driver.servers[RW] = new
        await break_a_lease(manager)
        await until(lambda: manager.metrics().nodes[0].timeline == 2)
        assert held.closed  # the old one acknowledges nothing more
        await manager.release(held)
        assert set(await masters(manager)) == {new}


async def test_1b_a_replaced_masters_name_is_looked_at_when_another_name_leads_elsewhere() -> None:
    """Two services do this if old connections are not cut: the reader's follows the standbys."""
    old, new = server("old", master=True), server("new")
    async with manager_of(rw=old, r=new) as manager:
        await manager.ready(1, 1)
        new.promote()
        await until(lambda: manager.metrics().nodes[0].exclusion is Exclusion.FENCED)
        manager.driver.servers[RW], manager.driver.servers[R] = new, server("another")
        new.drop_pooled()  # so that only the writer's name leads to a master
        began = clock()()
        assert set(await masters(manager)) == {new}
        assert clock()() - began < 2


async def test_1b_a_name_that_moves_back_to_a_replaced_master_is_not_followed() -> None:
    old, new = server("old", master=True), server("new", master=True, timeline=2)
    async with manager_of(rw=new) as manager:
        await manager.ready(1, 0)
        held, broken = await manager.acquire_master(), await manager.acquire_master()
        manager.driver.servers[RW] = old
        logins = old.logins
        broken.lose()
        await manager.release(broken)
        await until(lambda: old.logins > logins)  # the look has begun
        await manager.wait_next_pool_check()
        assert not held.closed
        await manager.release(held)
        assert set(await masters(manager)) == {new}


async def test_1b_a_name_that_leads_to_a_replaced_master_alone_is_fenced_until_it_does_not() -> (
    None
):
    old, new = server("old", master=True), server("new", master=True, timeline=2)
    async with manager_of(rw=new) as manager:
        await manager.ready(1, 0)
        manager.driver.servers[RW] = old
        new.kill()
        await until(lambda: manager.metrics().nodes[0].exclusion is Exclusion.FENCED)
        with pytest.raises(NotAvailableError, match="fenced"):
            await manager.acquire_master(timeout=0.1)
        new.alive = True
        manager.driver.servers[RW] = new  # the old one, which the monitor sees, lives on
        assert set(await masters(manager)) == {new}


async def test_a_master_that_answers_is_not_left_for_a_standby_of_the_same_name() -> None:
    one, other = server("one", master=True), server("other")
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        manager.driver.turns[RW] = cycle([other, one])
        logins = other.logins
        await break_a_lease(manager)
        await until(lambda: other.logins > logins)
        await manager.wait_next_pool_check()
        assert manager.master_pool_count == 1
        assert set(await masters(manager)) == {one}


async def test_1c_a_readers_name_that_led_to_the_writer_serves_once_it_does_not() -> None:
    writer, reader = server("writer", master=True), server("reader")
    async with manager_of(rw=writer, r=writer) as manager:
        await until(lambda: manager.metrics().nodes[1].exclusion is Exclusion.ALIAS)
        manager.driver.servers[R] = reader
        await manager.ready(1, 1, timeout=5)
        async with manager.acquire_replica() as connection:
            assert connection.server is reader


async def test_a_reader_is_never_given_a_connection_that_leads_to_the_writer() -> None:
    writer, reader = server("writer", master=True), server("reader")
    async with manager_of(r=reader) as manager:
        await manager.ready(0, 1)
        manager.driver.turns[R] = cycle([writer, reader])
        reader.drop_pooled()
        for _ in range(10):
            async with manager.acquire_replica(timeout=5) as connection:
                assert connection.server is reader
            connection.lose()


async def test_several_replicas_behind_one_name_are_all_used_and_none_is_purged() -> None:
    one, other = server("one"), server("other")
    async with manager_of(r=one) as manager:
        await manager.ready(0, 1)
        held = await manager.acquire_replica()
        manager.driver.servers[R] = other
        await break_a_lease(manager, read_only=True)
        await until(lambda: any(x.on_lost is not None for x in other.connections))
        await manager.wait_next_pool_check()
        await manager.release(held)
        assert not held.closed
        assert manager.replica_pool_count == 1


async def test_a_restart_is_no_second_server() -> None:
    one = server("one", master=True)
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        one.restart()
        await masters(manager, 3)
        assert one.questions == 0


async def test_a_question_that_hangs_ends_with_the_acquire_and_leaks_nothing() -> None:
    one, other = server("one", master=True), server("other")
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        other.silent_after_login = True
        manager.driver.servers[RW] = other
        one.drop_pooled()
        lease = asyncio.ensure_future(_take(manager))
        await until(lambda: len(other.connections) == 1)
        lease.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lease
        await until(lambda: manager.metrics().nodes[0].in_flight == 0)
        assert other.connections == []


async def _take(manager: FakeManager) -> FakeConnection:
    return await manager.acquire_master(timeout=5)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"read_only": True, "fallback_master": True},
        {"read_only": True, "master_as_replica_weight": 1.0},
    ],
    ids=["a writer", "a read that falls back", "a read of the masters' share"],
)
async def test_no_lease_of_a_master_is_on_one_that_was_replaced(wanted: dict[str, Any]) -> None:
    old, new = server("old", master=True), server("new", master=True, timeline=2)
    async with manager_of(rw=old) as manager:
        await manager.ready(1, 0)
        manager.driver.servers[RW] = new
        await break_a_lease(manager)
        await until(lambda: manager.metrics().nodes[0].timeline == 2)
        new.drop_pooled()
        manager.driver.turns[RW] = cycle([old, new])
        for _ in range(10):
            async with manager.acquire(timeout=5, **wanted) as connection:
                assert connection.server is new
            connection.lose()


async def test_a_readers_name_that_leads_to_the_writer_alone_has_reads_fall_back() -> None:
    writer, reader = server("writer", master=True), server("reader")
    async with manager_of(rw=writer, r=reader) as manager:
        await manager.ready(1, 1)
        manager.driver.servers[R] = writer  # the reader, which the monitor sees, lives on
        reader.drop_pooled()
        logins = writer.logins
        async with manager.acquire_replica(fallback_master=True, timeout=15) as connection:
            assert connection.server is writer
        assert writer.logins - logins < 30, "a storm of logins"


async def test_a_restart_during_a_look_is_no_second_server() -> None:
    one = server("one", master=True)
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        held, logins = await manager.acquire_master(), one.logins
        may_look = asyncio.Event()
        one.before_login = may_look.wait
        held.lose()
        await manager.release(held)
        await until(lambda: one.logins > logins)  # the look has begun, and waits
        one.before_login = None
        one.restart()
        await manager.wait_next_pool_check()
        may_look.set()
        for _ in range(3):
            await manager.wait_next_pool_check()
        await masters(manager, 3)
        assert one.questions == 0  # if the name had several servers, each connection would be asked


async def test_a_lease_that_was_lost_keeps_no_other_from_being_aborted() -> None:
    old, new = server("old", master=True), server("new", master=True, timeline=2)
    async with manager_of(rw=old) as manager:
        await manager.ready(1, 0)
        lost, held = await manager.acquire_master(), await manager.acquire_master()
        lost.lose()
        lost.cannot_be_asked = True
        manager.driver.servers[RW] = new
        await break_a_lease(manager)
        await until(lambda: manager.metrics().nodes[0].timeline == 2)
        assert held.closed
        await manager.wait_next_pool_check()
        assert manager.master_pool_count == 1
        await manager.release(lost)
        await manager.release(held)
        assert set(await masters(manager)) == {new}


async def test_a_look_under_way_ends_with_the_manager() -> None:
    one = server("one", master=True)
    before = asyncio.all_tasks()
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        held, logins = await manager.acquire_master(), one.logins
        never = asyncio.Event()
        one.before_login = never.wait
        held.lose()
        await manager.release(held)
        await until(lambda: one.logins > logins)
    assert asyncio.all_tasks() == before


async def test_a_look_at_a_server_that_tells_less_has_the_monitors_tell_all_as_before() -> None:
    one, other = server("one", master=True), server("other")
    other.denies = {ProbeForm.FULL: "42501", ProbeForm.PLAIN: "42883"}
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        held = await manager.acquire_master()
        manager.driver.servers[RW] = other
        held.lose()
        await manager.release(held)
        await until(lambda: ProbeForm.BARE in other.probes)  # the look has begun
        before = len(one.probes)
        await until(lambda: ProbeForm.FULL in one.probes[before:])
        assert ProbeForm.PLAIN not in one.probes
        assert manager.metrics().nodes[0].timeline == 1


async def test_a_look_at_a_server_that_tells_all_has_the_monitors_asked_for_no_more() -> None:
    one, other = server("one", master=True), server("other")
    one.denies = {ProbeForm.FULL: "42501"}
    async with manager_of(rw=one) as manager:
        await manager.ready(1, 0)
        held = await manager.acquire_master()
        manager.driver.servers[RW] = other
        held.lose()
        await manager.release(held)
        before = len(one.probes)
        await until(lambda: ProbeForm.FULL in other.probes)
        for _ in range(3):
            await manager.wait_next_pool_check()
        assert ProbeForm.CORE in one.probes[before:]
        assert ProbeForm.FULL not in one.probes[before:]


async def test_a_look_that_a_pooler_lets_in_does_not_speak_for_the_monitor() -> None:
    one = server("one", master=True)
    one.pooler = True
    limits: dict[str, Any] = {"refresh_delay": 0.02, "refresh_timeout": 0.4}
    async with FakeManager({RW: one}, clock=clock(), **limits) as manager:
        await manager.ready(1, 0)
        at_work, broken = await manager.acquire_master(), await manager.acquire_master()
        may_look, never = asyncio.Event(), asyncio.Event()
        before = one.logins

        async def wait() -> None:
            await (may_look if one.logins == before + 1 else never).wait()

        one.before_login = wait
        broken.lose()
        await manager.release(broken)
        await until(lambda: one.logins == before + 1)  # the login of the look
        one.freeze()
        await until(lambda: one.logins == before + 2)  # the monitor's, which never succeeds
        may_look.set()
        # If that login succeeded, the host would only be suspect, because a lease is at work.
        await until(lambda: manager.metrics().nodes[0].last_error is not None)
        assert manager.metrics().nodes[0].health is Health.DOWN
        await manager.release(at_work)
