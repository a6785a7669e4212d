"""How soon the pool manager acts, in virtual time, which a busy machine does not make longer."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health
from simulation.virtual_time import VirtualClock, run
from testbed.fake_driver import ServerError, fake_cluster, manager_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from testbed.fake_driver import FakeConnection, FakeManager, FakeServer

_ROUND_TRIP = 0.025


def stage(*roles: str) -> tuple[VirtualClock, FakeManager, dict[str, FakeServer]]:
    """Return a clock, and a manager that rarely probes, with servers that answer after a moment."""
    clock, servers = VirtualClock(), fake_cluster(*roles)
    for server in servers.values():
        server.latency = _ROUND_TRIP
    return clock, manager_of(servers, clock=clock, refresh_delay=60, refresh_timeout=30), servers


def test_6_a_promotion_that_a_reader_sees_waits_for_no_rest_after_a_probe() -> None:
    clock, manager, servers = stage("a master", "b replica")

    async def play() -> float:
        async with manager:
            await manager.ready()
            await manager.wait_next_pool_check()
            servers["b"].promote()
            began = clock.now
            async with manager.acquire_replica() as connection:
                assert connection.server is servers["b"]
                await connection.run()
            await until(lambda: manager.metrics().nodes[1].role is Role.MASTER)
            return clock.now - began

    # The read and two questions take three round trips; a rest after a probe would take ten.
    assert run(play(), clock) < 5 * _ROUND_TRIP


def test_6_a_host_whose_reserved_connection_is_lost_is_asked_though_it_has_just_been() -> None:
    clock, manager, servers = stage("a master", "b replica")

    async def play() -> float:
        async with manager:
            await manager.ready()
            await manager.wait_next_pool_check()
            began = clock.now
            servers["a"].kill()
            await until(lambda: manager.metrics().nodes[0].health is Health.DOWN)
            return clock.now - began

    assert run(play(), clock) < 5 * _ROUND_TRIP


def test_a_pool_that_cannot_be_opened_at_first_is_tried_again_soon() -> None:
    clock, manager, _ = stage("a master")
    manager.driver.open_errors = [ConnectionResetError("too early")] * 4

    async def play() -> float:
        async with manager, manager.acquire_master(timeout=5):
            return asyncio.get_running_loop().time()

    assert run(play(), clock) < 3
    assert not manager.driver.open_errors


def test_a_login_that_is_cancelled_within_leaves_its_host_a_monitor() -> None:
    """A connection class may share the look-up of a token, and another user of it may give up."""
    clock, servers = VirtualClock(), fake_cluster("a master")
    server = servers["a"]
    manager = manager_of(servers, clock=clock)

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def play() -> None:
        async with manager:
            await manager.ready()
            server.before_login = cancelled
            server.restart()
            await until(lambda: manager.metrics().nodes[0].health is Health.DOWN)
            server.before_login = None
            async with manager.acquire_master(timeout=5) as connection:
                assert connection.server is server
            server.kill()  # its monitor notices that
            await until(lambda: manager.metrics().nodes[0].health is Health.DOWN)

    run(play(), clock)


def test_1_a_name_that_has_moved_is_found_by_a_look_each_30_s_though_nothing_breaks() -> None:
    clock, servers = VirtualClock(), fake_cluster("old master", "new master")
    old, new = servers.values()
    new.timeline = 2

    async def play() -> float:
        async with manager_of({"old": old}, clock=clock) as manager:
            await manager.ready()
            manager.driver.servers[old.host] = new
            began = clock.now
            while manager.metrics().nodes[0].timeline != new.timeline:
                assert clock.now < began + 60, "nobody looks"
                await manager.wait_next_pool_check()
            async with manager.acquire_master() as connection:
                assert connection.server is new
            return clock.now - began

    # 30 s, a quarter more or less; a probe begins the look, and the next one sees its result.
    assert 0.75 * 30 < run(play(), clock) < 1.25 * 30 + 2


def test_9_a_promotion_that_a_look_has_seen_waits_for_no_probe() -> None:
    """A look uses a new connection; its answer may be news that the last probe did not bring."""
    clock, servers = VirtualClock(), fake_cluster("old master", "new replica")
    new = servers["new"]
    for server in servers.values():
        server.latency = _ROUND_TRIP
    manager = manager_of(servers, clock=clock, refresh_delay=10)

    async def play() -> float:
        async with manager:
            await manager.ready(1, 1)
            logins = new.logins
            async with asyncio.timeout(60):
                while new.logins == logins:  # nothing acquires: the login is the look's
                    await asyncio.sleep(_ROUND_TRIP / 10)
            new.promote()
            began = clock.now
            async with asyncio.timeout(60):
                while manager.metrics().nodes[1].role is not Role.MASTER:
                    await asyncio.sleep(_ROUND_TRIP / 10)
            async with manager.acquire_master() as connection:
                assert connection.server is new
            return clock.now - began

    assert run(play(), clock) < 5 * _ROUND_TRIP


def test_7_a_replaced_master_is_not_looked_at_by_all_its_clients_at_once() -> None:
    clock, servers = VirtualClock(), fake_cluster("old master", "new replica")
    old, new = servers.values()
    clients = 30

    async def play() -> tuple[int, int]:
        async with AsyncExitStack() as stack:
            managers = [manager_of(servers, clock=clock) for _ in range(clients)]
            for manager in managers:
                await stack.enter_async_context(manager)
                await manager.ready(1, 1)
            logins = old.logins
            new.promote()
            await asyncio.sleep(2)
            told = [manager.metrics().nodes[0].exclusion for manager in managers]
            assert set(told) == {Exclusion.FENCED}
            at_once = old.logins - logins
            await asyncio.sleep(10)
            return at_once, old.logins - logins

    at_once, in_all = run(play(), clock)
    assert at_once < clients / 2  # about a fifth is likely
    assert in_all >= clients  # each looks once: the name may lead elsewhere by then


def test_4_a_connect_that_fails_while_its_host_is_held_does_not_keep_what_is_idle() -> None:
    clock, servers = VirtualClock(), fake_cluster("a master")
    a, kwargs = servers["a"], {"min_size": 1, "max_size": 8}
    manager = manager_of(servers, clock=clock, pool_factory_kwargs=kwargs)

    async def play() -> float:
        async with manager:
            await manager.ready(1, 0)
            broken, others = manager.acquire_master(), [manager.acquire_master() for _ in range(3)]
            connection = await broken.__aenter__()
            lent = [await each for each in others]
            gate = asyncio.Event()
            a.login_error, a.before_login = ServerError("53300"), gate.wait
            connecting = asyncio.ensure_future(manager.acquire_master(timeout=60))
            await until(lambda: manager.metrics().nodes[0].in_flight == 5)
            for each in [connection, *(x for x in a.connections if x.on_lost is not None)]:
                each.lose()  # the server takes no other reserved connection
            error = ServerError("57P01")
            await broken.__aexit__(type(error), error, None)
            await asyncio.sleep(_ROUND_TRIP)
            gate.set()
            await until(lambda: manager.metrics().nodes[0].in_flight == 3)
            began = clock.now
            for each in lent[1:]:
                await manager.release(each)
            async with manager.acquire_master(timeout=10) as connection:
                assert connection in lent
            assert await connecting in lent
            return clock.now - began

    assert run(play(), clock) < 0.2


def test_12_what_hangs_on_a_silent_host_is_broken_in_time_though_probes_are_rare() -> None:
    clock, servers = VirtualClock(), fake_cluster("a master", "b replica")
    manager = manager_of(servers, clock=clock, refresh_delay=60, refresh_timeout=2)

    async def play() -> float:
        async with manager:
            await manager.ready()
            await manager.wait_next_pool_check()
            lost = manager.acquire_replica()
            connection = await lost.__aenter__()
            servers["b"].freeze()
            await manager.wait_next_pool_check(120)
            assert manager.metrics().nodes[1].health is Health.DOWN
            began = clock.now - 2  # when the first unanswered probe began
            with pytest.raises(ConnectionResetError) as broken:
                await connection.run()
            await lost.__aexit__(broken.type, broken.value, None)
            return clock.now - began

    assert 10 <= run(play(), clock) < 10 + 2 + 1


def test_10_a_host_is_warmed_up_again_though_a_task_may_end_as_it_is_made() -> None:
    """An eager task does, since Python 3.12; before that each task begins a turn later."""
    clock, servers = VirtualClock(), fake_cluster("a master", "b replica", "c replica")
    b, kwargs = servers["b"], {"min_size": 0, "max_size": 1}
    manager = manager_of(servers, clock=clock, pool_factory_kwargs=kwargs)
    manager.driver.open_errors = [ConnectionResetError("too early")] * 4

    async def restart() -> None:
        b.kill()
        await until(lambda: manager.metrics().nodes[1].health is Health.DOWN)
        b.restart()
        await until(lambda: manager.metrics().nodes[1].health is Health.UP)

    async def play() -> None:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
        async with manager:
            await manager.ready()  # although no pool could be opened at first
            lent = [await manager.acquire_replica() for _ in range(2)]
            await restart()  # all are lent, so nothing needs to be warmed up
            for connection in lent:
                await manager.release(connection)
            await restart()
            await asyncio.sleep(2)  # the next probe warms it up
            async with manager.acquire_replica(), manager.acquire_replica():
                pass

    run(play(), clock)


@asynccontextmanager
async def idle_on_b(
    clock: VirtualClock, servers: dict[str, FakeServer]
) -> AsyncIterator[tuple[FakeManager, FakeConnection]]:
    """Make a manager with one connection to each replica: that to `b` is idle, that to `a` lent."""
    kwargs = {"min_size": 0, "max_size": 1}
    manager = manager_of(servers, clock=clock, pool_factory_kwargs=kwargs, refresh_timeout=30)
    async with manager:
        await manager.ready()
        lent = {each.server: each for each in [await manager.acquire_replica() for _ in range(2)]}
        await manager.release(lent[servers["b"]])
        yield manager, lent[servers["a"]]


def let_nobody_in(server: FakeServer) -> None:
    """Let a server end its reserved connection and refuse logins; other connections live on."""
    server.login_error = ServerError("53300")
    next(each for each in server.connections if each.on_lost is not None).lose()


@pytest.mark.parametrize("silent", [False, True])
def test_8_a_suspect_that_lives_serves_what_is_open_where_others_have_no_room(
    *, silent: bool
) -> None:
    clock, servers = VirtualClock(), fake_cluster("m master", "a replica", "b replica")
    a, b = servers["a"], servers["b"]

    async def play() -> FakeServer:
        async with idle_on_b(clock, servers) as (manager, of_a):
            if silent:
                b.freeze()
            else:
                let_nobody_in(b)
            await until(lambda: manager.metrics().nodes[2].health is Health.SUSPECT)
            asked = asyncio.ensure_future(manager.acquire_replica(timeout=10))
            await asyncio.sleep(1)  # `a` will have room after this
            assert asked.done() is not silent
            await manager.release(of_a)
            connection = await asked
            await manager.release(connection)
            b.thaw()
            return connection.server

    assert run(play(), clock) is (a if silent else b)


def test_8_a_suspect_that_goes_silent_then_lets_nobody_in_is_used_from_then_on() -> None:
    clock, servers = VirtualClock(), fake_cluster("m master", "a replica", "b replica")
    b = servers["b"]

    async def play() -> None:
        async with idle_on_b(clock, servers) as (manager, of_a):
            b.freeze()
            await until(lambda: manager.metrics().nodes[2].health is Health.SUSPECT)
            asked = asyncio.ensure_future(manager.acquire_replica(timeout=10))
            let_nobody_in(b)
            b.thaw()
            connection = await asked
            assert connection.server is b
            for each in (of_a, connection):
                await manager.release(each)

    run(play(), clock)
