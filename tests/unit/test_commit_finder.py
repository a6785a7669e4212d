"""The commit finder on a scriptable cluster (20): whom it asks, how long, and what it leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from hasql.cluster.probe import ProbeForm
from hasql.resilience import CommitMark, Outcome
from testbed.fake_driver import fake_cluster, manager_of, until

if TYPE_CHECKING:
    from hasql._manager.commit_finder import CommitFinder
    from testbed.fake_driver import FakeConnection, FakeManager, FakePool, FakeServer


def finder_of(manager: FakeManager) -> CommitFinder[FakePool, FakeConnection]:
    return manager._parts.commits  # noqa: SLF001  # which `run` asks


def mark_on(server: FakeServer) -> CommitMark:
    """Return the mark of a transaction 100 on a fake server."""
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
        finder.saw(replace(mark, xid=101, position=700, flushed=600))
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
            finder.saw(replace(mark, started_at=started_at))
        kept = finder._marks  # noqa: SLF001  # how much it keeps is not to be seen otherwise
        assert [*kept] == [(mark.system_id, number, None) for number in range(92, 100)]
