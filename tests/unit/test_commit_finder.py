"""The commit finder on a scriptable cluster (20): which hosts it asks, how long, what it keeps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from hasql.cluster.host import parse_host
from hasql.cluster.probe import ProbeForm
from hasql.resilience import CommitMark, Outcome
from simulation.virtual_time import VirtualClock, run
from testbed.fake_driver import FakeServer, ScriptedNames, fake_cluster, manager_of, until
from testbed.fake_threads import ThreadManager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql._manager.commit_finder import CommitFinder
    from testbed.fake_driver import FakeConnection, FakeManager, FakePool


def finder_of(manager: FakeManager) -> CommitFinder[FakePool, FakeConnection]:
    return manager._parts.commits  # noqa: SLF001  # `run` uses it


def mark_on(server: FakeServer) -> CommitMark:
    """Return the mark of transaction 100 on a fake server."""
    assert server.system_id is not None
    return CommitMark(
        xid=100,
        host=server.host,
        system_id=server.system_id,
        timeline=server.timeline,
        position=500,
        flushed=400,
        started_at=server.started_at,
        recovered_to=server.recovered_to,
        at=0,
    )


async def test_what_is_in_progress_is_asked_for_until_it_has_ended() -> None:
    servers = fake_cluster("a master", "b replica")
    a = servers["a"]
    async with manager_of(servers) as manager:
        await manager.ready(1, 1)
        asked = asyncio.create_task(finder_of(manager).find(mark_on(a), monotonic() + 20))
        logins = a.logins
        await until(lambda: a.logins > logins)
        await asyncio.sleep(0.05)
        assert not asked.done()
        a.statuses[100] = "committed"
        assert await asked is Outcome.COMMITTED


async def test_a_master_is_waited_for_and_asked_once_there_is_one() -> None:
    servers = fake_cluster("a master", "b replica")
    a, b = servers["a"], servers["b"]
    b.statuses[100] = "aborted"
    async with manager_of(servers) as manager:
        await manager.ready(1, 1)
        mark = mark_on(a)
        a.kill()
        asked = asyncio.create_task(finder_of(manager).find(mark, monotonic() + 20))
        await until(lambda: manager.master_pool_count == 0)
        assert not asked.done()
        b.promote()
        assert await asked is Outcome.ABORTED


async def test_a_promotion_that_the_monitor_has_seen_counts_after_a_restart() -> None:
    servers = fake_cluster("a master", "b replica")
    a, b = servers["a"], servers["b"]
    b.statuses[100] = "committed"
    async with manager_of(servers) as manager:
        await manager.ready(1, 1)
        mark = replace(mark_on(a), flushed=500)
        a.kill()
        b.promote()
        await until(lambda: manager.metrics().nodes[1].role.value == "master")
        b.restart()
        assert await finder_of(manager).find(mark, monotonic() + 20) is Outcome.COMMITTED


async def test_a_later_mark_tells_what_had_been_flushed() -> None:
    servers = fake_cluster("a master")
    a = servers["a"]
    a.flushed = 400
    a.statuses[100] = "committed"
    async with manager_of(servers) as manager:
        await manager.ready(1, 0)
        finder, mark = finder_of(manager), mark_on(a)
        a.restart()
        assert await finder.find(mark, monotonic() + 20) is Outcome.UNKNOWN
        finder.note_mark(replace(mark, xid=101, position=700, flushed=600))
        assert await finder.find(mark, monotonic() + 20) is Outcome.COMMITTED


async def test_at_the_deadline_it_is_unknown() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers) as manager:
        await manager.ready(1, 0)
        began, find = monotonic(), finder_of(manager).find
        for seconds in (0.2, 0.0, -1.0):
            assert await find(mark_on(servers["a"]), began + seconds) is Outcome.UNKNOWN
        assert 0.15 < monotonic() - began < 2
        assert await find(None, began + 20) is Outcome.UNKNOWN


async def test_many_ask_over_one_session_and_none_is_left() -> None:
    servers = fake_cluster("a master")
    a = servers["a"]
    async with manager_of(servers) as manager:
        await manager.ready(1, 0)
        logins, open_before = a.logins, len(a.connections)
        find, mark = finder_of(manager).find, mark_on(a)
        asked = [asyncio.create_task(find(mark, monotonic() + 20)) for _ in range(100)]
        await until(lambda: a.logins > logins)
        a.statuses[100] = "committed"
        assert {*await asyncio.gather(*asked)} == {Outcome.COMMITTED}
        assert (a.logins, len(a.connections)) == (logins + 1, open_before)


async def test_who_is_cancelled_leaves_no_session() -> None:
    servers = fake_cluster("a master")
    a = servers["a"]
    async with manager_of(servers) as manager:
        await manager.ready(1, 0)
        logins, open_before = a.logins, len(a.connections)
        find, mark = finder_of(manager).find, mark_on(a)
        for _ in range(20):
            asked = asyncio.create_task(find(mark, monotonic() + 20))
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
            assert asked.cancelled()
        assert len(a.connections) == open_before
        asked = asyncio.create_task(find(mark, monotonic() + 20))
        logins = a.logins
        await until(lambda: a.logins > logins)
        asked.cancel()
        await asyncio.wait([asked])
        assert len(a.connections) == open_before


async def test_a_server_that_does_not_tell_is_not_asked_for_long() -> None:
    servers = fake_cluster("a master")
    a = servers["a"]
    async with manager_of(servers) as manager:
        await manager.ready(1, 0)
        a.denies = {ProbeForm.FULL: "42501"}
        began = monotonic()
        assert await finder_of(manager).find(mark_on(a), began + 20) is Outcome.UNKNOWN
        assert monotonic() - began < 5


async def test_a_silent_master_holds_up_nobody_once_it_is_replaced() -> None:
    servers = fake_cluster("a master", "b replica")
    a, b = servers["a"], servers["b"]
    b.statuses[100] = "aborted"
    async with manager_of(servers, refresh_timeout=0.2) as manager:
        await manager.ready(1, 1)
        find, mark = finder_of(manager).find, mark_on(a)
        a.freeze()
        asked = [asyncio.create_task(find(mark, monotonic() + 20)) for _ in range(5)]
        await until(lambda: manager.master_pool_count == 0)
        b.promote()
        assert {*await asyncio.gather(*asked)} == {Outcome.ABORTED}


async def test_closing_ends_the_search() -> None:
    servers = fake_cluster("a master", "b replica")
    a = servers["a"]
    manager = manager_of(servers)
    await manager.ready(1, 1)
    mark = mark_on(a)
    a.kill()
    await until(lambda: manager.master_pool_count == 0)
    asked = asyncio.create_task(finder_of(manager).find(mark, monotonic() + 60))
    await asyncio.sleep(0)
    await manager.close()
    async with asyncio.timeout(5):
        assert await asked is Outcome.UNKNOWN


async def test_of_a_few_servers_the_last_mark_is_kept() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers) as manager:
        finder, mark = finder_of(manager), mark_on(servers["a"])
        for started_at in range(100):
            finder.note_mark(replace(mark, started_at=started_at))
        kept = finder._marks  # noqa: SLF001  # there is no other way to see how much it keeps
        assert [*kept] == [(mark.system_id, number, None) for number in range(92, 100)]


def asked_as_the_master_is_replaced(*, thaws: bool) -> tuple[set[Outcome], float]:
    """Let five tasks ask a frozen master for an outcome, while another master replaces it.

    Return the outcomes, and how many seconds after the new master began to serve they came.
    """
    clock = VirtualClock()

    async def play() -> tuple[set[Outcome], float]:
        a, b = two_servers(clock)
        a.statuses[100], b.statuses[100] = "committed", "aborted"
        manager = manager_of({"a": a, "b": b}, clock=clock, refresh_timeout=5, refresh_delay=0.5)
        async with manager:
            await manager.ready(1, 1)
            find, mark = finder_of(manager).find, mark_on(a)
            a.freeze()  # it has written the commit; the connection is lost
            asked = [asyncio.create_task(find(mark, clock() + 60)) for _ in range(5)]
            await asyncio.sleep(0.01)
            b.promote()
            await until(lambda: manager.metrics().nodes[1].role.value == "master")
            await until(lambda: manager.master_pool_count == 1)
            began = clock()
            if thaws:
                a.thaw()
            found = {*await asyncio.gather(*asked)}
            seconds = clock() - began
            a.thaw()
            return found, seconds

    return run(play(), clock)


def two_servers(clock: VirtualClock) -> list[FakeServer]:
    return [FakeServer(parse_host(name), master=name == "a", clock=clock) for name in "ab"]


def test_20_what_a_master_says_that_was_replaced_meanwhile_counts_no_more() -> None:
    found, _ = asked_as_the_master_is_replaced(thaws=True)
    assert found == {Outcome.ABORTED}  # the answer of b, which is the master now


def test_a_silent_master_that_was_replaced_is_asked_by_none_of_those_who_wait_their_turn() -> None:
    found, seconds = asked_as_the_master_is_replaced(thaws=False)
    assert found == {Outcome.ABORTED}
    assert seconds < 6  # one refresh_timeout


def test_20_a_unit_of_work_is_done_again_where_a_replaced_master_says_that_it_has_it() -> None:
    clock = VirtualClock()

    async def play() -> None:
        a, b = two_servers(clock)
        a.statuses[100], b.statuses[100] = "committed", "aborted"
        a.xid = 100
        begun: list[FakeServer] = []

        def lose(connection: FakeConnection) -> None:
            a.freeze()
            connection.lose()
            raise ConnectionResetError("the connection was reset")

        async def work(connection: FakeConnection) -> FakeServer:
            begun.append(connection.server)
            return connection.server

        a.script["commit"] = lose
        manager = manager_of({"a": a, "b": b}, clock=clock, refresh_timeout=5, refresh_delay=0.5)
        async with manager:
            await manager.ready(1, 1)
            unit = asyncio.create_task(manager.run(work))
            await until(lambda: a.frozen)
            await asyncio.sleep(0.01)
            b.promote()
            await until(lambda: manager.metrics().nodes[1].role.value == "master")
            await until(lambda: manager.master_pool_count == 1)
            a.thaw()
            assert await unit is b
            assert begun == [a, b]

    run(play(), clock)


def test_20_what_is_said_at_an_address_that_the_name_has_left_counts_no_more() -> None:
    clock, names = VirtualClock(), ScriptedNames(2.0)
    names.addresses["db"] = ("10.0.0.1",)

    async def play() -> None:
        old = FakeServer(parse_host("db"), master=True, clock=clock)
        new = FakeServer(parse_host("db"), master=True, timeline=2, clock=clock)
        new.recovered_to, new.was_standby = 1000, True
        new.statuses[100] = "aborted"  # on the old server it is in progress at first
        manager = manager_of(
            {"db": old}, clock=clock, names=names, refresh_timeout=5, refresh_delay=0.5
        )
        manager.driver.at = {"10.0.0.1": old, "10.0.0.2": new}
        async with manager:
            await manager.ready(1, 0)
            logins = old.logins
            asked = asyncio.create_task(finder_of(manager).find(mark_on(old), clock() + 60))
            await until(lambda: old.logins > logins)
            old.latency = 0.02  # so that a question is under way when the server freezes
            await asyncio.sleep(0.6)
            old.latency, old.statuses[100] = 0.0, "committed"
            old.freeze()
            await asyncio.sleep(0.6)
            names.addresses["db"] = ("10.0.0.2",)
            await until(lambda: any(each.on_lost for each in new.connections))
            async with manager.acquire(timeout=5) as connection:
                assert connection.server is new
            old.thaw()
            assert await asked is Outcome.ABORTED

    run(play(), clock)


@pytest.mark.parametrize("how", ["close", "terminate"])
@pytest.mark.parametrize("at", ["a question", "a login"])
def test_12_closing_ends_what_the_finder_is_at(how: str, at: str) -> None:
    clock = VirtualClock()

    async def play() -> None:
        server = FakeServer(parse_host("a"), master=True, clock=clock)
        manager = manager_of({"a": server}, clock=clock, refresh_timeout=30)
        await manager.ready(1, 0)
        logins = server.logins
        if at == "a login":
            server.freeze()
        asked = asyncio.create_task(finder_of(manager).find(mark_on(server), clock() + 60))
        await until(lambda: server.logins > logins)
        if at == "a question":
            server.latency = 0.02
            await asyncio.sleep(0.6)
            server.freeze()
            await asyncio.sleep(0.6)
        await (manager.close(0.5) if how == "close" else manager.terminate())
        began = clock()
        assert await asked is Outcome.UNKNOWN
        assert server.connections == []
        assert clock() - began < 1

    run(play(), clock)


def test_a_mark_that_another_thread_enters_ends_no_unit_of_work() -> None:
    server = fake_cluster("a master")["a"]
    mark = mark_on(server)

    class Marks(dict[object, object]):
        """Marks to which another thread adds one just after this thread has begun to iterate."""

        def __iter__(self) -> Iterator[object]:
            looking = super().__iter__()
            self["another"] = mark
            return looking

    finder = ThreadManager({"a": server})._parts.commits  # noqa: SLF001  # `run` uses it
    finder._marks = Marks(dict.fromkeys(range(8), mark))  # type: ignore[assignment]  # noqa: SLF001
    finder.note_mark(mark)
    assert finder._marks[mark.server] is mark  # noqa: SLF001
