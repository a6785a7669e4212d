"""Answers and pools that come late: their server has gone, or another has taken its place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hasql._routing.observations import HostWarm
from hasql.cluster.discovered import Discovered
from hasql.cluster.host import parse_host
from hasql.cluster.probe import ProbeForm
from hasql.discovery.by_name import NameDiscovery
from hasql.dns import Resolver
from simulation.virtual_time import VirtualClock, run
from testbed.fake_driver import FakeConnection, FakeServer, fake_cluster, manager_of, until
from tests.unit.test_followed_names import move_once, moving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from testbed.fake_driver import FakeManager

#: A virtual address, which leads to the server that holds it.
ADDRESS = parse_host("10.0.0.9")


# A pool that is being opened


def test_10_a_host_that_is_back_does_not_wait_for_an_opening_from_before() -> None:
    clock = VirtualClock()
    old = FakeServer(ADDRESS, master=True, clock=clock)
    new = FakeServer(ADDRESS, master=True, timeline=2, clock=clock)
    manager = manager_of({"it": old}, clock=clock, refresh_delay=1.0, refresh_timeout=1.0)

    def move() -> None:
        manager.driver.servers[ADDRESS] = new

    assert seconds_to_open(manager, old, new, move, clock) < 1


def test_10_no_host_waits_for_an_opening_at_the_address_that_its_name_has_left() -> None:
    clock = VirtualClock()
    manager, old, new, names = moving(clock=clock, refresh_delay=1.0, refresh_timeout=1.0)
    # The server looks the same, so only the name's answer tells of the change.
    new.timeline, new.started_at, new.system_id = old.timeline, old.started_at, old.system_id
    assert seconds_to_open(manager, old, new, lambda: move_once(names, "10.0.0.2"), clock) < 1


def seconds_to_open(
    manager: FakeManager,
    old: FakeServer,
    new: FakeServer,
    move: Callable[[], None],
    clock: VirtualClock,
) -> float:
    """Let a server fall silent while its pool is being opened, and put another in its place.

    Return the seconds from the monitor's login to the new server until the host serves.
    """
    old.latency = 0.1

    async def play() -> float:
        ready = asyncio.ensure_future(manager.ready(1, 0, timeout=60))
        try:
            await until(lambda: old.logins == 2)  # the monitor's, and the first of the pool
            old.freeze()
            move()
            await until(lambda: any(each.on_lost is not None for each in new.connections))
            began = clock()
            await ready
            return clock() - began
        finally:
            await manager.close()

    return run(play(), clock)


def test_10_a_pool_that_was_being_opened_when_another_server_came_leads_to_that_one() -> None:
    clock = VirtualClock()
    old = FakeServer(ADDRESS, master=True, clock=clock)
    old.latency = 0.4
    sizes = {"min_size": 2, "max_size": 2}
    manager = manager_of({"it": old}, clock=clock, refresh_delay=1.0, pool_factory_kwargs=sizes)

    async def play() -> None:
        ready = asyncio.ensure_future(manager.ready(1, 0))
        try:
            await until(lambda: clock() > 1.0 and any(x.on_lost is None for x in old.connections))
            new = FakeServer(ADDRESS, master=True, timeline=2, clock=clock)
            manager.driver.servers[ADDRESS] = new
            next(each for each in old.connections if each.on_lost is not None).lose()
            await ready
            lent = [await manager.acquire_master(timeout=5) for _ in range(2)]
            assert {each.server for each in lent} == {new}
            for each in lent:
                await manager.release(each)
        finally:
            await manager.close()

    run(play(), clock)


async def test_10_a_warm_up_that_ends_while_its_host_is_down_again_is_none() -> None:
    servers = fake_cluster("a master", "b replica")
    sizes = {"min_size": 0}
    async with manager_of(servers, refresh_delay=0.05, pool_factory_kwargs=sizes) as manager:
        await manager.ready(1, 1)
        routing = manager._routing  # noqa: SLF001  # warm-ups report to it
        node = routing.nodes[servers["b"].host]
        servers["b"].kill()
        await until(lambda: node.cold)
        routing.observe(HostWarm(node.host))
        assert node.cold


# Two answers in one turn


class AnsweringServer(FakeServer):
    """A server whose answers a test can hold back, or is told of."""

    held: asyncio.Future[None] | None = None
    on_answer: Callable[[], object] = staticmethod(lambda: None)

    async def log_in(self) -> FakeConnection:
        (await super().log_in()).lose()
        return AnsweringSession(self)


class AnsweringSession(FakeConnection):
    async def fetch_row(self, sql: str) -> Sequence[str | None]:
        assert isinstance(self.server, AnsweringServer)
        if self.server.held is None or self.on_lost is None:
            row = await super().fetch_row(sql)
            self.server.on_answer()
            return row
        row = self._probed(ProbeForm(sql))
        await self.server.held
        return row


def test_1_what_the_session_before_has_said_is_not_taken_for_what_the_next_one_leads_to() -> None:
    """The silent session and the one opened beside it get their answers in one turn of the loop."""
    clock = VirtualClock()
    old = AnsweringServer(ADDRESS, master=True, clock=clock)
    new = AnsweringServer(ADDRESS, master=True, timeline=2, clock=clock)
    manager = manager_of({"it": old}, clock=clock, refresh_delay=1.0, refresh_timeout=1.0)

    async def play() -> None:
        async with manager:
            await manager.ready(1, 0)
            held = old.held = asyncio.get_running_loop().create_future()
            manager.driver.servers[ADDRESS] = new

            def answer() -> None:
                if not held.done():
                    held.set_result(None)

            new.on_answer = answer
            await until(held.done)
            await asyncio.sleep(0.1)
            async with manager.acquire_master(timeout=5) as connection:
                assert connection.server is new

    run(play(), clock)


# A source of hosts


class ByName(NameDiscovery):
    """A name that always leads to the same hosts, with a TTL of five seconds."""

    def __init__(self, *hosts: Discovered) -> None:
        super().__init__("db", Resolver(nameservers=["127.0.0.1:1"]))
        self.hosts = hosts
        self.looked = 0

    async def look_up(self) -> tuple[list[Discovered], float]:
        self.looked += 1
        await asyncio.sleep(0.01)
        return [*self.hosts], 5.0


def test_15_closing_ends_a_source_that_was_told_to_look_again_in_that_turn() -> None:
    clock, servers = VirtualClock(), fake_cluster("a master")
    source = ByName(Discovered(servers["a"].host))
    manager = manager_of(servers, clock=clock, discovery=source)

    async def play() -> None:
        before = asyncio.all_tasks()
        await manager.ready(1, 0)
        await asyncio.sleep(2)
        asyncio.get_running_loop().call_soon(source.refresh)
        await manager.close()
        looked = source.looked
        await asyncio.sleep(60)
        assert source.looked == looked
        assert asyncio.all_tasks() == before

    run(play(), clock)
