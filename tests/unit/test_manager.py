"""The pool manager on a scriptable cluster: invariants 1 and 3 to 15 in every corner.

Each test bears the number of the invariant it stands for, where it stands for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.host import HostSpec, parse_host
from hasql.cluster.probe import ProbeForm
from hasql.discovery import Discovered, Discovery
from hasql.driver.failure import SessionLimitError
from hasql.errors import (
    HasqlError,
    NotAvailableError,
    PoolManagerClosedError,
    UnknownConnectionError,
    WrongEventLoopError,
)
from simulation.virtual_time import VirtualClock, new_loop, run
from testbed.fake_driver import (
    DriverError,
    FakeConnection,
    FakeManager,
    FakeServer,
    ServerError,
    fake_cluster,
    manager_of,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from hasql.driver import Endpoint

#: For tests in which the clock decides what comes first, not how busy the machine is.
in_virtual_time = pytest.mark.parametrize(
    "anyio_backend",
    [pytest.param(("asyncio", {"loop_factory": partial(new_loop, VirtualClock())}), id="virtual")],
)


def host_of(connection: object) -> str:
    server = connection.server  # type: ignore[attr-defined]
    assert isinstance(server, FakeServer)
    return server.host.host


# 13. Constructing does nothing


def test_13_constructing_needs_no_loop_and_opens_nothing() -> None:
    servers = fake_cluster("a master", "b replica")
    manager = manager_of(servers)
    assert servers["a"].logins == 0
    assert not manager.closing
    assert manager.available_pool_count == 0
    assert "secret" not in repr(manager)


def test_13_another_event_loop_is_refused() -> None:
    manager = manager_of(fake_cluster("a master"))

    async def use() -> None:
        async with manager.acquire_master():
            pass

    asyncio.run(use())
    with pytest.raises(WrongEventLoopError, match="another event loop"):
        asyncio.run(use())


async def test_13_nothing_is_given_back_or_closed_from_another_thread_or_loop() -> None:
    manager = manager_of(fake_cluster("a master"))
    lease = manager.acquire_master()
    async with manager:
        connection = await lease
        [pool] = await manager.get_master_pools()
        uses: list[Callable[[], Any]] = [
            lambda: manager.release(connection),
            lambda: manager.release_to_pool(connection, pool),
            lambda: lease.__aexit__(None, None, None),
            lambda: manager.register_connection(connection, pool),
            manager.accept_timeline,
            manager.close,
            manager.terminate,
            manager.ready,
        ]

        async def use(one: Callable[[], Any]) -> None:
            with pytest.raises(WrongEventLoopError, match="another event loop"):
                await one()

        for one in uses:
            await asyncio.to_thread(asyncio.run, use(one))
        assert manager.metrics().nodes[0].in_flight == 1
        assert await asyncio.to_thread(lambda: manager.metrics().nodes[0].in_flight) == 1
        await manager.release(connection)
    await asyncio.to_thread(asyncio.run, manager.terminate())  # there is nothing left to do


def test_13_a_loop_may_go_on_in_another_thread() -> None:
    manager = manager_of(fake_cluster("a master"))
    loop = asyncio.new_event_loop()

    async def use() -> None:
        async with manager.acquire_master() as connection:
            pass
        await manager.release(await manager.acquire_master())
        assert not connection.closed

    for _ in range(2):
        loop.run_until_complete(use())
        thread = threading.Thread(target=lambda: loop.run_until_complete(use()))
        thread.start()
        thread.join()
    loop.run_until_complete(manager.close())
    loop.close()


def test_13_the_first_acquire_starts_it() -> None:
    async def main() -> None:
        manager = manager_of(fake_cluster("a master", "b replica"))
        async with manager.acquire_replica() as connection:
            assert host_of(connection) == "b"
        await manager.close()

    asyncio.run(main())


async def test_13_entering_undoes_everything_when_nobody_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hasql._manager.state_waits._START_TIMEOUT", 0.05)
    servers = fake_cluster("a master")
    servers["a"].alive = False
    manager = manager_of(servers)
    tasks = asyncio.all_tasks()
    with pytest.raises(NotAvailableError):
        await manager.__aenter__()
    assert manager.closed
    assert asyncio.all_tasks() == tasks


async def test_entering_is_no_error_with_one_host_of_three_dead() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    servers["a"].alive = False
    async with manager_of(servers) as manager:
        assert manager.replica_pool_count == 2


# Each request, with each set of roles that are there


@pytest.mark.parametrize(
    ("roles", "read_only", "fallback", "weight", "expected"),
    [
        (("a master", "b replica"), False, False, 0.0, {"a"}),
        (("a master", "b replica"), False, False, 1.0, {"a"}),
        (("a master", "b replica"), True, False, 0.0, {"b"}),
        (("a master", "b replica"), True, True, 0.0, {"b"}),
        (("a master", "b replica"), True, False, 1.0, {"a"}),
        (("a master",), True, True, 0.0, {"a"}),
        (("a master",), True, False, 1.0, {"a"}),
        (("a master",), True, False, 0.0, set()),
        (("b replica",), True, False, 1.0, {"b"}),
        (("b replica",), False, True, 1.0, set()),
        (("a master", "b replica", "c replica"), True, False, 0.0, {"b", "c"}),
    ],
)
async def test_an_acquire_gets_what_it_asked_for(
    roles: tuple[str, ...],
    read_only: bool,
    fallback: bool,
    weight: float,
    expected: set[str],
) -> None:
    async with manager_of(fake_cluster(*roles)) as manager:
        seen = set()
        with contextlib.suppress(NotAvailableError):
            for _ in range(20):
                async with manager.acquire(read_only, fallback, weight, 0.05) as connection:
                    seen.add(host_of(connection))
        assert seen == expected


async def test_exhausted_replicas_are_not_absent_ones() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, fallback_master=True) as manager:
        await manager.ready()
        async with manager.acquire_replica(), manager.acquire_replica():
            with pytest.raises(NotAvailableError, match="2 of 2 connections in use"):
                await manager.acquire_replica(timeout=0.02)


# 3. One deadline


async def test_3_waiting_ends_at_the_deadline() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(NotAvailableError, match=r"no connection to a replica within 0\.05 s"):
            await manager.acquire_replica(timeout=0.05)
        assert loop.time() - began >= 0.049  # uvloop's clock has a resolution of 1 ms


async def test_3_a_host_that_hangs_on_login_costs_no_more_than_the_deadline() -> None:
    servers = fake_cluster("a master")
    kwargs = {"min_size": 0, "max_size": 2}
    async with manager_of(servers, pool_factory_kwargs=kwargs, refresh_timeout=5) as manager:
        servers["a"].freeze()
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.05)
        assert manager.metrics().nodes[0].in_flight == 0
        servers["a"].thaw()
        async with manager.acquire_master() as connection:
            assert not connection.closed


async def test_3_giving_back_is_bounded_and_no_error() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, release_timeout=0.05, refresh_timeout=5) as manager:
        async with manager.acquire_master() as connection:
            servers["a"].freeze()
        assert connection.closed
        assert manager.metrics().nodes[0].in_flight == 0
        servers["a"].thaw()


# 4. No avoidable error


async def test_4_a_refused_connect_is_tried_elsewhere() -> None:
    servers = fake_cluster("a replica", "b replica")
    kwargs = {"min_size": 0, "max_size": 5}
    async with manager_of(servers, pool_factory_kwargs=kwargs) as manager:
        await manager.ready()
        servers["a"].login_error = ServerError("53300")
        for _ in range(10):
            async with manager.acquire_replica() as connection:
                assert host_of(connection) == "b"


async def test_4_a_server_without_slots_keeps_serving_from_idle_connections() -> None:
    servers = fake_cluster("a master")
    kwargs = {"min_size": 1, "max_size": 2}
    async with manager_of(servers, pool_factory_kwargs=kwargs, refresh_delay=0.05) as manager:
        await manager.ready(1, 0)
        servers["a"].login_error = ServerError("53300")
        async with manager.acquire_master():
            with pytest.raises(NotAvailableError):
                await manager.acquire_master(timeout=0.05)
        async with manager.acquire_master() as connection:
            assert not connection.closed
        servers["a"].login_error = None
        async with manager.acquire_master(), manager.acquire_master():
            pass


def test_4_a_server_that_has_room_again_is_used_soon_however_seldom_it_is_probed() -> None:
    """No acquire may connect before a probe is answered, and nothing else asks for a probe."""
    clock = VirtualClock()
    servers = fake_cluster("a master")
    sizes = {"min_size": 0, "max_size": 2}
    manager = manager_of(servers, clock=clock, refresh_delay=60.0, pool_factory_kwargs=sizes)

    async def play() -> None:
        async with manager:
            await manager.ready(1, 0)
            servers["a"].login_error = ServerError("53300")
            waiting = asyncio.ensure_future(manager.acquire_master(timeout=1000))
            await asyncio.sleep(200)  # by then signals of the failures rarely begin a burst
            logins, probes = servers["a"].logins, len(servers["a"].probes)
            await asyncio.sleep(20)
            assert servers["a"].logins - logins <= 30  # one a second, and those that a burst adds
            assert len(servers["a"].probes) - probes <= 100
            servers["a"].login_error = None
            async with asyncio.timeout(2):
                await manager.release(await waiting)

    run(play(), clock)


async def test_4_an_exhausted_pool_is_left_for_another_candidate() -> None:
    servers = fake_cluster("a replica", "b replica")
    async with manager_of(servers) as manager:
        await manager.ready()
        taken = [await manager.acquire_replica() for _ in range(4)]
        assert {host_of(connection) for connection in taken} == {"a", "b"}
        waiting = asyncio.ensure_future(manager.acquire_replica())
        await asyncio.sleep(0)
        await manager.release(taken[0])
        assert host_of(await waiting) == host_of(taken[0])
        await manager.terminate()


async def test_4_an_acquire_waits_for_the_promotion() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers) as manager:
        await manager.ready()
        servers["a"].kill()
        waiting = asyncio.ensure_future(manager.acquire_master(timeout=5))
        await until(lambda: manager.master_pool_count == 0)
        servers["b"].promote()
        assert host_of(await waiting) == "b"
        await manager.terminate()


async def test_4_those_who_wait_are_served_in_the_order_of_asking() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        await manager.ready(1, 0)
        first, second = await manager.acquire_master(), await manager.acquire_master()
        order: list[int] = []

        async def ask(number: int) -> None:
            async with manager.acquire_master():
                order.append(number)

        asked = [asyncio.ensure_future(ask(number)) for number in range(5)]
        await asyncio.sleep(0)
        await manager.release(first)
        await manager.release(second)
        await asyncio.gather(*asked)
        assert order == sorted(order)


async def test_4_what_the_application_gets_wrong_is_not_retried() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        with pytest.raises(AssertionError):  # the fake pool takes no arguments at all
            await manager.acquire_master(nonsense=1)
        assert manager.metrics().nodes[0].in_flight == 0


# 5. Flags


async def test_5_a_replica_that_says_it_was_promoted_is_never_handed_out() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready()
        async with manager.acquire_replica(), manager.acquire_replica():
            pass
        servers["a"].kill()
        servers["b"].promote()
        for _ in range(20):
            async with manager.acquire_replica() as connection:
                # The connection learns of the promotion with its first answer.
                assert connection.in_hot_standby is True
                await connection.run()


async def test_5_a_stale_on_does_not_hide_a_new_master() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers) as manager:
        await manager.ready()
        servers["a"].kill()
        servers["b"].promote()
        async with manager.acquire_master(timeout=5) as connection:
            assert host_of(connection) == "b"
        # The connection was idle since before the promotion, and said `on` until it was asked once.
        assert servers["b"].questions == 1
        async with manager.acquire_master():
            pass
        assert servers["b"].questions == 1


async def test_5_a_flag_that_contradicts_sql_is_ignored() -> None:
    servers = fake_cluster("a master", "b replica")
    servers["b"].lie = False
    async with manager_of(servers) as manager:
        await manager.ready()
        for _ in range(3):
            async with manager.acquire_replica(timeout=0.5) as connection:
                assert host_of(connection) == "b"
                await connection.run()


# 6. Passive before active


async def test_6_a_broken_lease_is_reported_at_once() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready()
        probes = len(servers["b"].probes)
        with pytest.raises(ConnectionResetError):
            async with manager.acquire_master() as connection:
                connection.lose()
                await connection.run()
        await until(lambda: len(servers["b"].probes) > probes)


async def test_6_a_reader_makes_a_promotion_known() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready()
        servers["b"].promote()  # the old master lives on, so nothing else tells of it
        async with manager.acquire_replica() as connection:
            await connection.run()
        await until(lambda: manager.metrics().fencings == 1)
        async with manager.acquire_master() as connection:
            assert host_of(connection) == "b"


@pytest.mark.parametrize(
    ("sqlstate", "read_only", "flag", "signals"),
    [
        ("25006", False, False, False),
        ("25006", False, True, True),
        ("25006", False, None, True),
        ("25006", True, True, False),
        ("57P01", True, True, True),
        ("57P05", False, False, False),
        ("25P03", False, False, False),
        ("57014", False, False, False),
        ("23505", False, False, False),
        ("42601", False, False, False),
        ("08006", False, False, True),
    ],
)
async def test_6_what_hints_at_a_change_and_what_does_not(
    sqlstate: str, read_only: bool, flag: bool | None, signals: bool
) -> None:
    servers = fake_cluster("a master", "b replica")
    servers["a"].reports_flag = flag is not None
    async with manager_of(servers, refresh_delay=60) as manager:
        servers["a"].lie_to_pool = flag or None
        await manager.ready()
        await manager.wait_next_pool_check()  # a host is probed once more when its pool has opened
        probes = len(servers["a"].probes)
        with pytest.raises(ServerError):
            async with manager.acquire(read_only):
                raise ServerError(sqlstate)
        if signals:
            await until(lambda: len(servers["a"].probes) > probes)
        else:
            await asyncio.sleep(0.02)
            assert len(servers["a"].probes) == probes
        assert manager.master_pool_count == 1, "a hint is no verdict"


@pytest.mark.parametrize("error", [DriverError("it is closed"), ZeroDivisionError(), None])
async def test_6_a_limit_that_a_driver_reports_is_all_that_a_lost_lease_tells(
    error: Exception | None,
) -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready()
        await manager.wait_next_pool_check()  # a host is probed once more when its pool has opened
        probes = len(servers["a"].probes)
        with contextlib.suppress(DriverError, ZeroDivisionError):
            async with manager.acquire_master() as connection:
                manager.driver.pools[0].report(connection, SessionLimitError())
                connection.lose()
                if error is not None:
                    raise error
        await asyncio.sleep(0.02)
        assert len(servers["a"].probes) == probes


async def test_6_what_a_driver_reports_counts_also_if_the_application_catches_it() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready()
        probes = len(servers["a"].probes)
        async with manager.acquire_master() as connection:
            manager.driver.pools[0].report(connection, ServerError("08006"))
            await until(lambda: len(servers["a"].probes) > probes)


@pytest.mark.parametrize(
    ("read_only", "flag", "stays"),
    [(False, True, False), (False, None, False), (False, False, True), (True, True, True)],
)
async def test_6_a_connection_whose_server_does_not_write_serves_no_writer_again(
    read_only: bool, flag: bool | None, stays: bool
) -> None:
    servers = fake_cluster("a master", "b replica")
    servers["a"].reports_flag = flag is not None
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready()
        servers["a"].lie_to_pool = flag or None
        connection = await manager.acquire(read_only)
        await manager.release(connection)
        with pytest.raises(ServerError):
            async with manager.acquire(read_only) as again:
                assert again is connection
                raise ServerError("25006")
        assert connection.closed is not stays


async def test_the_end_of_a_block_is_the_drivers_to_shape() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers) as manager:
        await manager.ready()
        seen: list[BaseException | None] = []

        async def leave_block(connection: FakeConnection, error: BaseException | None) -> None:
            assert connection in manager.driver.pools[0].lent
            seen.append(error)
            if error is None:
                raise ServerError("40001")

        manager.driver.pools[0].leave_block = leave_block
        with pytest.raises(ServerError, match="40001"):  # a commit that fails must raise
            async with manager.acquire_master():
                pass
        with pytest.raises(KeyError):
            async with manager.acquire_master():
                raise KeyError
        connection = await manager.acquire_master()
        await manager.release(connection)
        assert [type(error) for error in seen] == [type(None), KeyError]
        assert manager.metrics().nodes[0].in_flight == 0


@in_virtual_time
async def test_the_end_of_a_block_has_its_time_but_for_a_host_that_is_silent() -> None:
    servers = fake_cluster("a master")
    async with manager_of(
        servers,
        clock=asyncio.get_running_loop().time,
        release_timeout=0.05,
        refresh_timeout=0.1,
        refresh_delay=0.05,
        lease_abort_after=0.2,
    ) as manager:
        await manager.ready()

        async def commit(connection: FakeConnection, error: BaseException | None) -> None:
            assert error is None
            await asyncio.sleep(0.2)
            await connection.run()

        manager.driver.pools[0].leave_block = commit
        async with manager.acquire_master():
            pass
        with pytest.raises(ConnectionResetError):
            async with manager.acquire_master():
                servers["a"].freeze()
        assert manager.metrics().nodes[0].in_flight == 0


async def test_7_a_burst_confirms_roles_with_the_short_probe() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready()
        servers["a"].kill()
        await until(lambda: len(servers["b"].probes) > 4)
        assert servers["b"].probes[-1] is ProbeForm.BARE
        servers["b"].probes.clear()
        servers["b"].promote()
        await until(lambda: manager.master_pool_count == 1)
        # Values that cannot change while a server runs are known already.
        assert ProbeForm.CHANGES in servers["b"].probes
        assert ProbeForm.FULL not in servers["b"].probes
        assert manager.metrics().nodes[1].timeline == 2


@pytest.mark.parametrize("why", ["a pooler", "a form denied", "a history hidden"])
async def test_7_the_whole_is_asked_for_where_it_may_be_another_server_or_tells_less(
    why: str,
) -> None:
    servers = fake_cluster("a master", "b replica")
    servers["b"].pooler = why == "a pooler"
    if why == "a form denied":
        servers["b"].denies = {ProbeForm.CHANGES: "42501"}
    if why == "a history hidden":
        servers["b"].denies = {ProbeForm.FULL: "42501"}
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready()
        servers["a"].kill()
        servers["b"].probes.clear()
        servers["b"].promote()
        await until(lambda: manager.metrics().nodes[1].role.value == "master")
        asked = ProbeForm.CORE if why == "a history hidden" else ProbeForm.FULL
        assert asked in servers["b"].probes
        assert (ProbeForm.CHANGES in servers["b"].probes) == (why == "a form denied")
        assert manager.metrics().nodes[1].timeline == 2


async def test_7_while_no_master_is_found_the_whole_is_asked_for_now_and_then() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=0.05) as manager:
        await manager.ready()
        servers["a"].kill()
        await until(lambda: manager.master_pool_count == 0)
        servers["b"].probes.clear()
        servers["b"].position = 7000
        await until(lambda: servers["b"].probes.count(ProbeForm.FULL) > 2)
        assert ProbeForm.CHANGES in servers["b"].probes
        assert servers["b"].probes.count(ProbeForm.FULL) < len(servers["b"].probes) / 2


# 8. Silence


async def test_8_a_silent_replica_is_avoided_before_it_is_given_up() -> None:
    servers = fake_cluster("a replica", "b replica")
    async with manager_of(servers, refresh_delay=0.02, refresh_timeout=30) as manager:
        await manager.ready()
        servers["a"].freeze()
        await until(lambda: manager.metrics().nodes[0].health.value == "suspect")
        for _ in range(10):
            async with manager.acquire_replica() as connection:
                assert host_of(connection) == "b"
        servers["a"].thaw()
        await until(lambda: manager.metrics().nodes[0].health.value == "up")


async def test_8_a_masters_share_of_reads_avoids_one_that_is_silent() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=0.02, refresh_timeout=30) as manager:
        await manager.ready()
        servers["a"].freeze()
        await until(lambda: manager.metrics().nodes[0].health.value == "suspect")
        for _ in range(4):
            async with manager.acquire_replica(master_as_replica_weight=1) as connection:
                assert host_of(connection) == "b"
        servers["a"].thaw()
        await until(lambda: manager.metrics().nodes[0].health.value == "up")
        async with manager.acquire_replica(master_as_replica_weight=1) as connection:
            assert host_of(connection) == "a"


async def test_8_a_deaf_connection_to_a_new_master_costs_no_acquire() -> None:
    servers = fake_cluster("a replica", "b replica")
    async with manager_of(servers, refresh_delay=0.02) as manager:
        await manager.ready()
        idle = next(c for c in servers["a"].connections if c.on_lost is None)
        servers["a"].promote()
        await until(lambda: manager.master_pool_count == 1)
        # The idle connection said `on` when it was last used. So it is asked, and does not answer.
        deaf = FakeServer(idle.server.host, master=True)
        deaf.freeze()
        servers["a"].connections.remove(idle)
        deaf.connections.append(idle)
        idle.server = deaf
        async with manager.acquire_master(timeout=10) as connection:
            assert connection is not idle
        assert idle.closed


async def test_8_a_silent_host_leaves_routing_within_refresh_timeout() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=0.02, refresh_timeout=0.2) as manager:
        await manager.ready()
        servers["a"].freeze()
        await until(lambda: manager.master_pool_count == 0)
        assert "no answer within 0.2 s" in (manager.metrics().nodes[0].last_error or "")


async def test_8_an_old_flow_that_is_dead_costs_one_reconnect() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, refresh_delay=0.02, refresh_timeout=30) as manager:
        await manager.ready(1, 0)
        # Only the reserved connection gets no answers any more; new connections work.
        session = next(c for c in servers["a"].connections if c.on_lost is not None)
        deaf = FakeServer(servers["a"].host, master=True)
        deaf.freeze()
        session.server = deaf
        deaf.connections.append(session)
        await until(lambda: session.closed)
        await manager.wait_next_pool_check()
        assert manager.master_pool_count == 1


# 9. Fencing, on a whole manager


async def _health(manager: FakeManager, health: str) -> None:
    await until(lambda: manager.metrics().nodes[0].health.value == health)


async def test_8_behind_a_pooler_a_host_is_not_dead_while_a_lease_taken_before_is_at_work() -> None:
    servers = fake_cluster("a master")
    servers["a"].pooler = True
    limits: dict[str, Any] = {"refresh_timeout": 0.1, "lease_abort_after": 0.1}
    async with manager_of(servers, refresh_delay=0.05, **limits) as manager:
        await manager.ready()
        held = await manager.acquire_master()
        servers["a"].freeze()  # it looks the same if all of the pooler's connections are taken
        await _health(manager, "suspect")
        logins = servers["a"].logins
        await until(lambda: servers["a"].logins > logins + 3)
        assert manager.metrics().nodes[0].health.value == "suspect"
        assert not held.closed
        servers["a"].thaw()
        await _health(manager, "up")
        await held.run()
        await manager.release(held)


async def test_8_behind_a_pooler_a_silent_host_is_down_if_nothing_is_at_work_there() -> None:
    servers = fake_cluster("a master")
    servers["a"].pooler = True
    async with manager_of(servers, refresh_delay=0.05, refresh_timeout=0.1) as manager:
        await manager.ready()
        servers["a"].freeze()
        await _health(manager, "down")
        servers["a"].thaw()
        await _health(manager, "up")


async def test_8_leases_behind_a_pooler_are_aborted_when_the_pooler_lets_nobody_in() -> None:
    servers = fake_cluster("a master")
    servers["a"].pooler = True
    limits: dict[str, Any] = {"refresh_timeout": 0.1, "lease_abort_after": 0.1}
    async with manager_of(servers, refresh_delay=0.05, **limits) as manager:
        await manager.ready()
        held = await manager.acquire_master()
        servers["a"].freeze()
        await _health(manager, "suspect")
        assert not held.closed
        servers["a"].login_error = ConnectionRefusedError("nobody listens")
        await until(lambda: held.closed)
        await manager.release(held)


async def test_1_a_pooler_that_goes_on_saying_on_costs_each_lease_of_the_master_a_question() -> (
    None
):
    servers = fake_cluster("a replica")
    servers["a"].pooler = True
    async with manager_of(servers, refresh_delay=0.05) as manager:
        await manager.ready(0, 1)
        servers["a"].lie = servers["a"].lie_to_pool = True
        servers["a"].promote()
        await manager.ready(1, 0)
        for asked in range(1, 6):
            async with manager.acquire_master() as connection:
                await connection.run()
            assert servers["a"].questions == asked
        # The pooler was told to reconnect, and says `off` to clients that log in from now on.
        servers["a"].lie = servers["a"].lie_to_pool = None
        servers["a"].drop_pooled()
        for _ in range(5):
            async with manager.acquire_master() as connection:
                await connection.run()
        assert servers["a"].questions == 5


async def test_9_a_fenced_master_loses_its_leases_and_serves_nobody() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=0.02) as manager:
        await manager.ready()
        held = await manager.acquire_master()
        servers["b"].promote()
        await until(lambda: held.closed)
        with pytest.raises(ConnectionResetError):
            await held.run()
        await manager.release(held)
        for _ in range(5):
            async with manager.acquire_master() as connection:
                assert host_of(connection) == "b"


@pytest.mark.parametrize("becomes", ["fenced", "a replica"])
async def test_9_a_writer_is_given_no_login_that_has_outlasted_its_hosts_time_as_the_master(
    becomes: str,
) -> None:
    servers = fake_cluster("a master", "b replica")
    a, b = servers["a"], servers["b"]
    asked, may_log_in = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        asked.set()
        await may_log_in.wait()

    kwargs = {"min_size": 0, "max_size": 2}
    async with manager_of(servers, refresh_delay=0.02, pool_factory_kwargs=kwargs) as manager:
        await manager.ready()
        held = await manager.acquire_master()  # so that the next acquire has to log in
        a.before_login = hold
        acquiring = asyncio.ensure_future(manager.acquire_master(timeout=10).__aenter__())
        await asked.wait()
        a.master = becomes == "fenced"  # if fenced, it is alive and still a master
        b.promote()
        of_a, of_b = sorted(manager, key=lambda pool: pool.server.host)
        await until(lambda: manager.pool_is_master(of_b) and not manager.pool_is_master(of_a))
        assert not acquiring.done()
        a.before_login = None
        may_log_in.set()
        connection = await acquiring
        assert host_of(connection) == "b"
        assert manager.metrics().retries == 1
        await manager.release(connection)
        await manager.release(held)
        assert [node.in_flight for node in manager.metrics().nodes] == [0, 0]


async def test_9_a_split_is_named_in_the_error() -> None:
    async with manager_of(fake_cluster("a master", "b master", "c replica")) as manager:
        with pytest.raises(NotAvailableError) as caught:
            await manager.acquire_master(timeout=0.05)
        assert str(caught.value).count("another master writes the same timeline") == 2


# 10. A node that comes back is clean


async def test_10_nothing_from_before_serves_again() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, refresh_delay=0.02) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_master(), manager.acquire_master():
            pass
        before = set(servers["a"].connections)
        held = await manager.acquire_master()
        servers["a"].freeze()
        await until(lambda: manager.master_pool_count == 0)
        servers["a"].restart()
        servers["a"].thaw()
        await manager.release(held)
        async with manager.acquire_master(timeout=5) as one, manager.acquire_master() as two:
            assert not before & {one, two}


async def test_10_a_host_that_is_back_connects_before_it_serves_beside_others() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    kwargs = {"min_size": 0, "max_size": 3}
    async with manager_of(servers, refresh_delay=0.02, pool_factory_kwargs=kwargs) as manager:
        await manager.ready()
        servers["c"].kill()
        await until(lambda: manager.replica_pool_count == 1)
        servers["c"].restart()
        await until(lambda: manager.replica_pool_count == 2)
        assert manager.metrics().nodes[2].pool_idle == 1
        assert manager.metrics().acquires == 0
        servers["b"].kill()
        servers["c"].kill()
        await until(lambda: manager.replica_pool_count == 0)
        servers["c"].restart()
        await until(lambda: manager.replica_pool_count == 1)
        assert manager.metrics().nodes[2].pool_idle == 0  # no other host could serve meanwhile


async def test_10_a_host_that_opens_its_pool_as_another_goes_down_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = fake_cluster("a master", "b replica")
    manager = manager_of(servers, refresh_delay=60)
    opening, opened = manager.driver.open, asyncio.Event()

    async def open_late(endpoint: Endpoint, *args: Any) -> Any:
        if endpoint.host.host == "b":
            await opened.wait()
        return await opening(endpoint, *args)

    monkeypatch.setattr(manager.driver, "open", open_late)
    async with manager:
        servers["a"].kill()
        await until(lambda: manager.master_pool_count == 0)
        assert manager.replica_pool_count == 0
        opened.set()
        await until(lambda: manager.replica_pool_count == 1)


async def test_10_a_host_whose_connections_are_all_lent_comes_back_all_the_same() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    kwargs = {"min_size": 0, "max_size": 1}
    async with manager_of(servers, refresh_delay=0.02, pool_factory_kwargs=kwargs) as manager:
        await manager.ready()
        leases = [await manager.acquire_replica(), await manager.acquire_replica()]
        servers["c"].kill()
        await until(lambda: manager.replica_pool_count == 1)
        servers["c"].restart()
        await until(lambda: manager.replica_pool_count == 2)
        for lease in leases:
            await manager.release(lease)
        async with manager.acquire_replica(), manager.acquire_replica():
            pass


# 11. Cancellation


async def test_11_a_storm_of_cancelled_acquires_leaves_every_place_free() -> None:
    servers = fake_cluster("a master", "b replica")
    kwargs = {"min_size": 0, "max_size": 5}
    async with manager_of(servers, pool_factory_kwargs=kwargs, acquire_timeout=60) as manager:
        await manager.ready()
        tasks = asyncio.all_tasks()

        async def use(number: int) -> None:
            async with manager.acquire(bool(number % 2)) as connection:
                await connection.run()

        for wave in range(10):
            users = [asyncio.ensure_future(use(number)) for number in range(1000)]
            for _ in range(wave):
                await asyncio.sleep(0)
            for user in users:
                user.cancel()
            await asyncio.gather(*users, return_exceptions=True)
        metrics = manager.metrics()
        assert [node.in_flight for node in metrics.nodes] == [0, 0]
        assert metrics.waiting == 0
        await until(lambda: asyncio.all_tasks() <= tasks)
        async with asyncio.timeout(5):
            taken = [await manager.acquire_master() for _ in range(5)]
        for connection in taken:
            await manager.release(connection)


async def test_11_a_place_handed_over_to_one_who_was_cancelled_is_passed_on() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        await manager.ready(1, 0)
        first, second = await manager.acquire_master(), await manager.acquire_master()
        loser = asyncio.ensure_future(manager.acquire_master())
        winner = asyncio.ensure_future(manager.acquire_master())
        await asyncio.sleep(0)
        await manager.release(first)
        loser.cancel()
        assert not (await winner).closed
        with pytest.raises(asyncio.CancelledError):
            await loser
        await manager.release(winner.result())
        await manager.release(second)


async def test_11_a_cancelled_release_keeps_its_place_until_it_has_ended() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, refresh_timeout=30) as manager:
        tasks = asyncio.all_tasks()
        connection = await manager.acquire_master()
        servers["a"].freeze()
        release = asyncio.ensure_future(manager.release(connection))
        await asyncio.sleep(0.01)
        release.cancel()
        with pytest.raises(asyncio.CancelledError):
            await release
        assert not connection.closed
        assert manager.metrics().nodes[0].in_flight == 1
        with pytest.raises(UnknownConnectionError):
            await manager.release(connection)
        servers["a"].thaw()
        await until(lambda: manager.metrics().nodes[0].in_flight == 0)
        assert (connection.closed, connection.resets) == (False, 1)
        assert asyncio.all_tasks() == tasks
        assert await manager.acquire_master() is connection
        await manager.release(connection)


async def test_11_a_cancelled_release_is_broken_after_release_timeout() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, refresh_timeout=30, release_timeout=0.2) as manager:
        connection = await manager.acquire_master()
        servers["a"].freeze()
        release = asyncio.ensure_future(manager.release(connection))
        await asyncio.sleep(0.01)
        release.cancel()
        began = monotonic()
        await until(lambda: manager.metrics().nodes[0].in_flight == 0)
        assert 0.1 < monotonic() - began < 5
        assert connection.closed
        servers["a"].thaw()


@pytest.mark.parametrize("way", ["close", "terminate"])
async def test_11_closing_waits_for_a_cancelled_release_and_terminate_breaks_it(way: str) -> None:
    servers = fake_cluster("a master")
    tasks = asyncio.all_tasks()
    manager = manager_of(servers, refresh_timeout=30, release_timeout=30)
    connection = await manager.acquire_master()
    servers["a"].freeze()
    release = asyncio.ensure_future(manager.release(connection))
    await asyncio.sleep(0.01)
    release.cancel()
    await asyncio.wait([release])
    end = asyncio.ensure_future(getattr(manager, way)())
    if way == "close":
        await until(lambda: manager.closing)
        assert manager.metrics().nodes[0].in_flight == 1
        servers["a"].thaw()
    async with asyncio.timeout(5):
        await end
    assert connection.resets == (way == "close")
    assert manager.metrics().nodes[0].in_flight == 0
    await until(lambda: asyncio.all_tasks() == tasks)
    servers["a"].thaw()


async def test_12_who_waits_for_hosts_is_told_at_once_that_the_manager_closes() -> None:
    servers = fake_cluster("a master")
    async with asyncio.timeout(10), manager_of(servers) as manager:
        waiting = [
            asyncio.ensure_future(manager.ready(1, 1, timeout=60)),
            asyncio.ensure_future(manager.wait_replicas_ready(1)),
        ]
        await asyncio.sleep(0.01)
        await manager.close()
        for waiter in waiting:
            with pytest.raises(PoolManagerClosedError):
                await waiter


async def test_11_a_release_that_is_not_cancelled_needs_no_task() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers) as manager:
        pool = manager.driver.pools[0]
        tasks: list[set[asyncio.Task[Any]]] = []
        proceed = asyncio.Event()

        async def end_block(*_: object) -> None:
            tasks.append(asyncio.all_tasks())
            await proceed.wait()
            tasks.append(asyncio.all_tasks())

        pool.leave_block = end_block

        async def use() -> None:
            async with manager.acquire_master():
                pass

        user = asyncio.ensure_future(use())
        await until(lambda: len(tasks) == 1)
        proceed.set()
        await user
        assert tasks[0] == tasks[1]


async def test_11_a_commit_that_is_cancelled_goes_on_and_then_gives_back() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers) as manager:
        pool = manager.driver.pools[0]
        proceed, ended = asyncio.Event(), []

        async def end_block(*_: object) -> None:
            await proceed.wait()
            ended.append("committed")

        pool.leave_block = end_block
        connection = None

        async def use() -> None:
            nonlocal connection
            async with manager.acquire_master() as connection:
                pass

        user = asyncio.ensure_future(use())
        await until(lambda: connection is not None)
        await asyncio.sleep(0)
        for _ in range(3):
            user.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await user
        assert manager.metrics().nodes[0].in_flight == 1
        proceed.set()
        await until(lambda: manager.metrics().nodes[0].in_flight == 0)
        assert ended == ["committed"]
        assert connection is not None
        assert not connection.closed


@pytest.mark.parametrize("sqlstate", [42, None, ["25006"]])
async def test_11_an_exception_that_cannot_be_judged_costs_no_place(
    sqlstate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be the application's own: derived from the driver's, with attributes of any kind."""
    async with manager_of(fake_cluster("a master")) as manager:
        connection = await manager.acquire_master()
        await manager.release(connection)
        for _ in range(2):
            with pytest.raises(ServerError):
                async with manager.acquire_master() as again:
                    assert again is connection
                    raise ServerError(sqlstate)
        assert manager.metrics().nodes[0].in_flight == 0
        assert (connection.closed, connection.resets) == (False, 3)
    assert "could not judge what a ServerError says" in caplog.text


# Ownership


async def test_a_connection_is_released_once_and_to_its_own_manager() -> None:
    async with (
        manager_of(fake_cluster("a master")) as manager,
        manager_of(fake_cluster("a master")) as other,
    ):
        connection = await manager.acquire_master()
        with pytest.raises(UnknownConnectionError):
            await other.release(connection)
        await manager.release(connection)
        with pytest.raises(ValueError, match="released already"):
            await manager.release(connection)


async def test_release_within_the_block_is_enough() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        async with manager.acquire_master() as connection:
            await manager.release(connection)
        assert manager.metrics().nodes[0].in_flight == 0


async def test_an_acquire_is_for_one_use() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        lease = manager.acquire_master()
        async with lease:
            pass
        with pytest.raises(HasqlError, match="used already"):
            await lease


async def test_a_connection_that_is_lent_again_before_its_release_has_returned() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        await manager.ready(1, 0)
        pool, handed_on = manager.driver.pools[0], asyncio.Event()
        release = pool.release

        async def release_and_linger(connection: FakeConnection, **_: object) -> None:
            await release(connection)
            await handed_on.wait()

        first = await manager.acquire_master()
        pool.release = release_and_linger  # type: ignore[method-assign]  # as a driver may
        releasing = asyncio.ensure_future(manager.release(first))
        await until(lambda: first in pool.free)
        pool.release = release  # type: ignore[method-assign]
        second = await manager.acquire_master()
        assert second is first
        handed_on.set()
        await releasing
        await manager.release(second)  # the manager still knows it
        assert manager.metrics().nodes[0].in_flight == 0


# 12. Closing


async def test_12_close_lets_leases_end_and_waiters_go() -> None:
    manager = manager_of(fake_cluster("a master"))
    held = [await manager.acquire_master(), await manager.acquire_master()]
    waiter = asyncio.ensure_future(manager.acquire_master(timeout=60))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(manager.close())
    with pytest.raises(PoolManagerClosedError):
        await waiter
    with pytest.raises(PoolManagerClosedError):
        await manager.acquire_master()
    assert manager.closing
    assert not manager.closed
    for connection in held:
        await connection.run()
        await manager.release(connection)
    await closing
    assert manager.closed
    assert all(connection.resets == 1 for connection in held)


async def test_12_close_breaks_what_does_not_end_in_time() -> None:
    manager = manager_of(fake_cluster("a master"))
    held = await manager.acquire_master()
    await manager.close(timeout=0.02)
    assert manager.closed
    assert held.closed


async def test_12_closing_waits_for_no_frozen_host() -> None:
    servers = fake_cluster("a master", "b replica")
    for close in ("close", "terminate"):
        manager = manager_of(servers, refresh_timeout=0.2)
        await manager.ready()
        servers["b"].freeze()
        async with asyncio.timeout(5):
            await getattr(manager, close)()
        servers["b"].thaw()
        assert not servers["b"].connections
        assert not servers["a"].connections


async def test_12_a_second_close_waits_for_the_first() -> None:
    manager = manager_of(fake_cluster("a master"))
    held = await manager.acquire_master()
    closes = [asyncio.ensure_future(manager.close()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not any(close.done() for close in closes)
    await manager.release(held)
    await asyncio.gather(*closes)
    await manager.close()


async def test_12_terminate_ends_a_close_that_waits() -> None:
    manager = manager_of(fake_cluster("a master"))
    held = await manager.acquire_master()
    closing = asyncio.ensure_future(manager.close(timeout=60))
    await asyncio.sleep(0.01)
    terminating = asyncio.ensure_future(manager.terminate())
    await until(lambda: held.closed)
    await manager.release(held)
    await asyncio.gather(closing, terminating)


async def test_12_what_is_given_back_after_the_end_sets_no_timer() -> None:
    loop = asyncio.get_running_loop()
    manager = manager_of(fake_cluster("a master"), release_timeout=60)
    await manager.ready()
    connection = await manager.acquire_master()
    await manager.terminate()
    timers: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(loop, "_scheduled"):  # uvloop's methods cannot be replaced
            patch.setattr(loop, "call_later", lambda delay, *_: timers.append(delay))
        await manager.release(connection)
    assert not timers


async def test_12_a_cancelled_close_leaves_nothing() -> None:
    servers = fake_cluster("a master")
    tasks = asyncio.all_tasks()
    manager = manager_of(servers)
    held = await manager.acquire_master()
    closing = asyncio.ensure_future(manager.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert held.closed
    assert manager.closed
    assert not servers["a"].connections
    await until(lambda: asyncio.all_tasks() == tasks)


@pytest.mark.parametrize("step", ["connect", "open", "fetch_row"])
async def test_12_a_program_ends_though_its_driver_loses_the_cancellation(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = fake_cluster("a master")
    manager = manager_of(servers)
    owner = FakeConnection if step == "fetch_row" else manager.driver
    work, begun = getattr(owner, step), asyncio.Event()

    async def deaf(*args: object) -> object:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await work(*args)

    monkeypatch.setattr(owner, step, deaf)
    others = asyncio.all_tasks()
    using = asyncio.ensure_future(manager.ready())
    await begun.wait()
    tasks = asyncio.all_tasks() - others
    assert using in tasks
    for task in tasks:
        task.cancel()
    _, left = await asyncio.wait(tasks, timeout=5)
    assert not left
    assert not servers["a"].connections
    await manager.terminate()


async def test_closing_a_manager_that_was_never_used_is_nothing() -> None:
    manager = manager_of(fake_cluster("a master"))
    await manager.close()
    assert manager.closed
    with pytest.raises(PoolManagerClosedError):
        await manager.ready()


# 14. Errors explain themselves


async def test_14_a_timeout_names_every_host_and_no_password() -> None:
    servers = fake_cluster("a replica", "b replica")
    servers["b"].alive = False
    async with manager_of(servers) as manager:
        with pytest.raises(asyncio.TimeoutError) as caught:
            await manager.acquire_master(timeout=0.1)
        text = str(caught.value)
        assert "a:5432 up replica for 0." in text
        assert "b:5432 down for 0." in text
        assert "ConnectionRefusedError: connection refused by b:5432" in text
        assert "secret" not in text


async def test_14_refused_by_all_fails_ready_at_once_with_the_servers_error() -> None:
    servers = fake_cluster("a master", "b replica")
    for server in servers.values():
        server.login_error = ServerError("28P01")
    manager = manager_of(servers)
    with pytest.raises(ServerError):
        await manager.ready(timeout=60)
    await manager.close()


async def test_ready_wants_both_counts_or_none() -> None:
    manager = manager_of(fake_cluster("a master"))
    for counts in ({"masters_count": 1}, {"replicas_count": 1}):
        with pytest.raises(ValueError, match="both"):
            await manager.ready(**counts)
    with pytest.raises(ValueError, match="at least 0"):
        await manager.ready(-1, 0)
    with pytest.raises(NotAvailableError, match="2 masters and 0 replicas"):
        await manager.ready(2, 0, timeout=0.05)
    await manager.close()


# 15. Idle costs nothing


async def test_15_acquires_leave_nothing_behind() -> None:
    async with manager_of(fake_cluster("a master", "b replica"), refresh_delay=60) as manager:
        await manager.ready()

        async def use(times: int) -> None:
            for number in range(times):
                async with manager.acquire(bool(number % 2)):
                    pass

        await use(100)
        gc.collect()
        before = len(gc.get_objects())
        await use(5000)
        gc.collect()
        # The interpreter and the loop keep a few more objects; a leak would keep one per acquire.
        assert len(gc.get_objects()) - before < 500


# Probing


@pytest.mark.parametrize("sqlstate", ["25P04", "08P01"])
async def test_a_limit_of_the_role_that_ends_a_session_is_met_once(sqlstate: str) -> None:
    servers = fake_cluster("a master", "b replica")
    servers["a"].limits = sqlstate
    async with manager_of(servers, refresh_delay=0.02) as manager:
        await manager.ready(1, 1)  # the same probe logs in a second time, without the limit
        assert servers["a"].logins - servers["b"].logins == 1
        servers["b"].limits = sqlstate  # as after an ALTER ROLE by somebody else
        for _ in range(5):
            await manager.wait_next_pool_check()
            assert manager.metrics().nodes[1].last_error is None
        logins = servers["a"].logins, servers["b"].logins
        for _ in range(5):
            await manager.wait_next_pool_check()
        assert (servers["a"].logins, servers["b"].logins) == logins


async def test_a_server_that_denies_functions_is_asked_for_less() -> None:
    servers = fake_cluster("a master", "b replica")
    servers["a"].denies = {ProbeForm.FULL: "42501", ProbeForm.PLAIN: "42883"}
    async with manager_of(servers) as manager:
        await manager.ready(1, 1)
        node = manager.metrics().nodes[0]
        assert (node.role.value, node.fencing) == ("master", False)


async def test_a_server_that_hides_its_history_is_fenced_as_any() -> None:
    servers = fake_cluster("a master", "b replica")
    servers["a"].denies = {ProbeForm.FULL: "42501"}
    async with manager_of(servers) as manager:
        await manager.ready(1, 1)
        node = manager.metrics().nodes[0]
        assert (node.role.value, node.fencing) == ("master", True)
        assert ProbeForm.PLAIN not in servers["a"].probes


async def test_a_server_in_trouble_is_not_asked_for_less() -> None:
    servers = fake_cluster("a master", "b replica")
    servers["a"].denies = {ProbeForm.FULL: "53200"}
    async with manager_of(servers) as manager:
        await manager.wait_next_pool_check()
        assert manager.metrics().nodes[0].health.value == "down"
        assert ProbeForm.PLAIN not in servers["a"].probes


@pytest.mark.parametrize(
    ("garble", "expected"),
    [
        pytest.param(lambda _: (), "0 columns instead of 12", id="no row"),
        pytest.param(lambda row: row[:1], "1 columns instead of 12", id="one column"),
        pytest.param(lambda row: (None, *row[1:]), "without a role", id="no role"),
        pytest.param(lambda row: ("0", *row[1:]), "'0' as the role", id="another's boolean"),
        pytest.param(lambda row: (*row[:5], "", *row[6:]), "'' as the WAL file", id="no timeline"),
    ],
)
async def test_an_answer_that_cannot_be_read_makes_no_master_and_no_replica(
    garble: Callable[[Sequence[str | None]], Sequence[str | None]], expected: str
) -> None:
    servers = fake_cluster("a master", "b replica", "c master")
    servers["c"].timeline = 2
    for name in "bc":
        servers[name].garble = garble
    async with manager_of(servers) as manager:
        await manager.wait_next_pool_check()
        _, *others = manager.metrics().nodes
        for node in others:
            assert (node.role.value, node.health.value) == ("unknown", "down")
            assert expected in str(node.last_error)
            assert ProbeForm.PLAIN not in servers[node.host.host].probes
        assert (manager.master_pool_count, manager.replica_pool_count) == (1, 0)
        servers["c"].garble = tuple
        await until(lambda: manager.metrics().nodes[2].role.value == "master")
        async with manager.acquire_master(timeout=5) as connection:
            assert connection.server is servers["c"]


async def test_the_next_check_is_one_begun_after_the_call() -> None:
    servers = fake_cluster("a master", "b replica")
    servers["b"].alive = False
    async with manager_of(servers, refresh_delay=60) as manager:
        probes = len(servers["a"].probes)
        await manager.wait_next_pool_check()
        assert len(servers["a"].probes) > probes


# Pools


async def test_the_pools_are_the_drivers_own() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    async with manager_of(servers) as manager:
        await manager.ready()
        assert [pool.server.host.host for pool in manager] == ["a", "b", "c"]
        assert list(manager.pools) == [*await manager.get_master_pools(), *list(manager)[1:]]
        master = await manager.get_pool(read_only=False)
        replica = await manager.get_pool(read_only=True)
        assert manager.pool_is_master(master)
        assert not manager.pool_is_replica(master)
        assert manager.pool_is_replica(replica)
        assert manager.host(master) == "a:5432"
        assert manager.get_pool_freesize(master) == 2
        assert (manager.get_last_response_time(master) or 0) > 0
        assert len(await manager.get_replica_pools()) == 2
        async with manager.acquire_from_pool(replica) as connection:
            assert connection.server is replica.server
            assert manager.get_pool_freesize(replica) == 1
            assert not manager.is_connection_closed(connection)


async def test_a_lent_connection_fits_until_its_host_has_another_role() -> None:
    servers = fake_cluster("a master", "b replica", "c replica")
    async with manager_of(servers, refresh_delay=0.01) as manager:
        await manager.ready()
        write = await manager.acquire_master()
        read, other = await manager.acquire_replica(), await manager.acquire_replica()
        assert {host_of(read), host_of(other)} == {"b", "c"}
        assert all(map(manager.still_fits, (write, read, other)))
        promoted = read if host_of(read) == "b" else other
        servers["a"].kill()
        servers["b"].promote()
        # With its next answer the connection itself tells of the promotion, before any probe does.
        await promoted.run()
        assert not manager.still_fits(promoted)
        assert not manager.still_fits(write)
        await until(lambda: manager.replica_pool_count == manager.master_pool_count == 1)
        assert [manager.still_fits(each) for each in (read, other)].count(True) == 1
        for each in (write, read, other):
            await manager.release(each)
        with pytest.raises(UnknownConnectionError):
            manager.still_fits(write)


async def test_a_lent_connection_fits_no_more_when_what_it_stands_in_for_is_back() -> None:
    servers = fake_cluster("a master", "b replica")
    servers["b"].kill()
    async with manager_of(servers, refresh_delay=0.01) as manager:
        await manager.ready(1, 0)
        read = await manager.acquire_replica(fallback_master=True)
        shared = await manager.acquire_replica(master_as_replica_weight=1.0)
        assert manager.still_fits(read)
        servers["b"].restart()
        await until(lambda: manager.replica_pool_count == 1)
        assert not manager.still_fits(read)
        assert manager.still_fits(shared)
        for each in (read, shared):
            await manager.release(each)


async def test_a_connection_of_one_pool_fits_while_it_is_open() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=0.01) as manager:
        await manager.ready()
        [pool] = await manager.get_replica_pools()
        connection = await manager.acquire_from_pool(pool)
        servers["b"].promote()
        await connection.run()
        assert manager.still_fits(connection)
        connection.lose()
        assert not manager.still_fits(connection)
        await manager.release(connection)


async def test_connections_taken_directly_can_be_given_back() -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        [pool] = await manager.get_master_pools()
        connection = await pool.acquire()
        manager.register_connection(connection, pool)
        manager.register_connection(connection, pool)  # the manager knows it already
        assert manager.metrics().nodes[0].in_flight == 1
        await manager.release(connection)
        connection = await pool.acquire()
        with pytest.raises(UnknownConnectionError, match="acquired elsewhere"):
            await manager.release_to_pool(connection, pool)
        manager.register_connection(connection, pool)
        await manager.release_to_pool(connection, pool)
        with pytest.raises(UnknownConnectionError, match="released already"):
            await manager.release_to_pool(connection, pool)
        await manager.release_to_pool(await manager.acquire_master(), pool)
        assert pool.idle() > 0
        assert not pool.lent
        with pytest.raises(UnknownConnectionError):
            manager.host(object())  # type: ignore[arg-type]


async def test_what_a_pool_has_lent_is_registered_for_that_pool_alone() -> None:
    async with manager_of(fake_cluster("a master", "b replica")) as manager:
        await manager.ready()
        [pool], [other] = await manager.get_master_pools(), await manager.get_replica_pools()
        connection = await manager.acquire_from_pool(pool)
        manager.register_connection(connection, pool)
        with pytest.raises(UnknownConnectionError, match="lent by a:5432, not b:5432"):
            manager.register_connection(connection, other)
        await manager.release(connection)
        async with manager.acquire_from_pool(pool) as connection:
            manager.register_connection(connection, pool)
        assert [node.in_flight for node in manager.metrics().nodes] == [0, 0]


async def test_asking_for_a_pool_heeds_the_share_of_the_masters() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, master_as_replica_weight=0.3) as manager:
        await manager.ready()
        asked = [await manager.get_pool(read_only=True) for _ in range(1000)]
        assert 230 <= sum(pool.server is servers["a"] for pool in asked) <= 370
        assert (await manager.get_pool(read_only=False)).server is servers["a"]


async def test_a_pool_that_can_never_be_opened_is_tried_ever_less_often() -> None:
    servers = fake_cluster("a master", "b replica")
    manager = manager_of(servers, refresh_delay=0.4)
    manager.driver.open_errors = [ConnectionResetError("no")] * 1000
    with pytest.raises(NotAvailableError, match="ConnectionResetError: no"):
        async with manager.acquire_master(timeout=1.5):
            pass
    tries = 1000 - len(manager.driver.open_errors)
    await manager.terminate()
    assert 8 <= tries <= 2 * 8


# Failures of the past


async def test_9_an_answer_counts_before_the_pool_behind_it_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = fake_cluster("a master", "b master")
    servers["a"].timeline = 2
    manager = manager_of(servers)
    driver = manager.driver
    open_pool = driver.open
    allowed = asyncio.Event()

    async def slowly(endpoint: Endpoint, kwargs: dict[str, object], report: Any) -> object:
        if endpoint.host.host == "a":
            await allowed.wait()
        return await open_pool(endpoint, kwargs, report)

    monkeypatch.setattr(driver, "open", slowly)
    with pytest.raises(NotAvailableError, match="no pool"):
        await manager.acquire_master(timeout=0.3)
    allowed.set()
    async with manager.acquire_master(timeout=5) as connection:
        assert host_of(connection) == "a"
    await manager.close()


async def test_a_share_for_masters_is_kept_while_waiting() -> None:
    servers = fake_cluster("a master")
    manager = manager_of(servers)
    async with manager.acquire_replica(master_as_replica_weight=1.0, timeout=5) as connection:
        assert host_of(connection) == "a"
    await manager.close()


async def test_12_terminate_does_not_wait_for_a_lease_that_close_waits_for() -> None:
    manager = manager_of(fake_cluster("a master"))
    held = await manager.acquire_master()
    closing = asyncio.ensure_future(manager.close(timeout=60))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        await manager.terminate()
    await closing
    assert held.closed


async def test_entering_undoes_only_what_it_has_started() -> None:
    manager = manager_of(fake_cluster("a master"))
    held = await manager.acquire_master()
    entering = asyncio.ensure_future(manager.__aenter__())
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert not held.closed
    await manager.release(held)
    await manager.close()


async def test_5_a_pooler_that_answers_from_memory_is_found_out() -> None:
    servers = fake_cluster("a replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready(0, 1)
        servers["a"].lie = False
        async with manager.acquire_replica() as connection:
            await connection.run()
        assert connection.in_hot_standby is False
        # Its connections fit no acquire until probes have seen that flag and SQL disagree.
        async with manager.acquire_replica(timeout=5) as connection:
            assert host_of(connection) == "a"


async def test_7_signals_close_together_are_one() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready()
        servers["a"].probes.clear()
        for _ in range(200):
            with contextlib.suppress(ServerError):
                async with manager.acquire_master():
                    raise ServerError("25006")
            await asyncio.sleep(0.001)
        assert len(servers["a"].probes) < 60


async def test_7_one_slow_answer_does_not_blind_the_monitor() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=0.05, refresh_timeout=30) as manager:
        await manager.ready()
        servers["a"].freeze()
        await asyncio.sleep(0.6)
        servers["a"].thaw()
        await until(lambda: manager.metrics().nodes[0].health.value == "up")
        servers["a"].probes.clear()
        async with asyncio.timeout(2):
            await until(lambda: len(servers["a"].probes) > 2)


async def test_8_a_host_that_lets_nobody_in_keeps_serving_those_inside() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, refresh_delay=0.02, lease_abort_after=0.1) as manager:
        await manager.ready(1, 0)
        held = await manager.acquire_master()
        servers["a"].login_error = ServerError("53300")
        next(c for c in servers["a"].connections if c.on_lost is not None).lose()
        await until(lambda: manager.metrics().nodes[0].last_error is not None)
        await asyncio.sleep(0.3)
        assert manager.master_pool_count == 1
        await held.run()
        await manager.release(held)
        async with manager.acquire_master() as connection:
            assert connection is held


async def test_4_a_host_that_lets_in_again_offers_all_of_its_pool() -> None:
    servers = fake_cluster("a master")
    kwargs = {"min_size": 1, "max_size": 5}
    async with manager_of(servers, pool_factory_kwargs=kwargs, refresh_delay=0.02) as manager:
        await manager.ready(1, 0)
        held = await manager.acquire_master()
        servers["a"].login_error = ServerError("53300")
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.1)
        servers["a"].login_error = None
        more = [await manager.acquire_master(timeout=5) for _ in range(4)]
        for connection in (held, *more):
            await manager.release(connection)
            connection.lose()  # like idle connections that expire one after the other
        await manager.wait_next_pool_check()
        [pool] = manager.pools
        assert manager.get_pool_freesize(pool) == 5


async def test_3_connections_that_never_fit_cost_no_more_than_the_deadline() -> None:
    servers = fake_cluster("a replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready(0, 1)
        servers["a"].lie_to_pool = False
        async with asyncio.timeout(5):
            with pytest.raises(NotAvailableError):
                await manager.acquire_replica(timeout=0.25)


async def test_3_a_pool_that_fails_without_waiting_costs_no_more_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with manager_of(fake_cluster("a replica"), refresh_delay=60) as manager:
        await manager.ready(0, 1)
        [pool] = manager.pools

        async def fail() -> object:
            raise ConnectionResetError("always")

        monkeypatch.setattr(pool, "acquire", fail)
        async with asyncio.timeout(5):
            with pytest.raises(NotAvailableError, match="always"):
                await manager.acquire_replica(timeout=0.25)


async def test_a_lease_that_did_not_fit_at_first_is_given_back_like_any() -> None:
    servers = fake_cluster("a replica")
    async with manager_of(servers, refresh_delay=60) as manager:
        await manager.ready(0, 1)
        servers["a"].lie_to_pool = False
        lease = manager.acquire_replica(timeout=10)
        taking = asyncio.ensure_future(lease.__aenter__())
        await until(lambda: manager.metrics().retries > 0)
        servers["a"].lie_to_pool = None
        assert not (await taking).closed
        await lease.__aexit__(None, None, None)
        assert manager.metrics().nodes[0].in_flight == 0


async def test_10_what_was_lent_during_an_outage_is_not_used_again() -> None:
    servers = fake_cluster("a master")
    async with manager_of(servers, refresh_delay=0.02, refresh_timeout=0.1) as manager:
        await manager.ready(1, 0)
        held = await manager.acquire_master()
        servers["a"].freeze()
        await until(lambda: manager.master_pool_count == 0)
        servers["a"].thaw()
        await until(lambda: manager.master_pool_count == 1)
        await held.run()
        await manager.release(held)
        assert held.closed


async def test_8_giving_back_does_not_outlast_the_host() -> None:
    servers = fake_cluster("a master")
    async with manager_of(
        servers, refresh_delay=0.02, refresh_timeout=0.2, release_timeout=60
    ) as manager:
        await manager.ready(1, 0)
        async with asyncio.timeout(10):
            async with manager.acquire_master():
                servers["a"].freeze()
        servers["a"].thaw()


async def test_a_monitor_that_fails_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, refresh_delay=0.02) as manager:
        await manager.ready()
        failure = manager.driver.failure

        def fail_once(error: BaseException) -> object:
            monkeypatch.setattr(manager.driver, "failure", failure)
            raise LookupError("a defect") from error

        monkeypatch.setattr(manager.driver, "failure", fail_once)
        servers["b"].kill()
        await until(lambda: manager.replica_pool_count == 0)
        servers["b"].restart()
        await until(lambda: manager.replica_pool_count == 1)
        async with manager.acquire_replica() as connection:
            assert host_of(connection) == "b"


# Hosts that come and go


class Wandering(FakeManager):
    """A manager whose hosts come from a queue."""

    def __init__(self, servers: dict[HostSpec, FakeServer], **kwargs: Any) -> None:
        queue = self.queue = asyncio.Queue[tuple[HostSpec, ...]]()

        class FromQueue(Discovery):
            async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
                while True:
                    yield tuple(Discovered(host) for host in await queue.get())

        super().__init__(servers, refresh_delay=0.02, discovery=FromQueue(), **kwargs)


async def test_hosts_are_added_and_removed_while_running() -> None:
    a, b, c = (parse_host(name) for name in "abc")
    servers = {host: FakeServer(host, master=host is a) for host in (a, b, c)}
    async with Wandering(servers) as manager:
        await manager.queue.put((a, b))
        await until(lambda: manager.replica_pool_count == 1)
        held = await manager.acquire_replica()
        assert host_of(held) == "b"
        await manager.queue.put((a, c))
        await until(lambda: [pool.server.host for pool in manager] == [a, c])
        # A connection that is lent on a host that has gone can still be used and given back.
        await held.run()
        async with manager.acquire_replica() as connection:
            assert host_of(connection) == "c"
        await manager.release(held)
        await until(lambda: not servers[b].connections)


async def test_a_host_that_leaves_and_returns_at_once_is_watched_again() -> None:
    a, b = (parse_host(name) for name in "ab")
    servers = {host: FakeServer(host, master=host is a) for host in (a, b)}
    async with Wandering(servers) as manager:
        for hosts in ((a, b), (a,), (a, b), (a,), (a, b)):
            await manager.queue.put(hosts)
        await until(lambda: manager.queue.empty() and manager.replica_pool_count == 1)
        async with manager.acquire_replica() as connection:
            assert host_of(connection) == "b"


async def test_a_lease_on_a_silent_host_that_has_left_is_broken_in_the_end() -> None:
    a, b = (parse_host(name) for name in "ab")
    servers = {host: FakeServer(host, master=host is a) for host in (a, b)}
    async with Wandering(servers, lease_abort_after=0.2) as manager:
        await until(lambda: manager.replica_pool_count == 1)
        held = await manager.acquire_replica()
        servers[b].freeze()
        await manager.queue.put((a,))
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                await held.run()
        await manager.release(held)
        servers[b].thaw()


async def test_a_lease_outlives_the_return_of_its_host() -> None:
    a, b = (parse_host(name) for name in "ab")
    servers = {host: FakeServer(host, master=host is a) for host in (a, b)}
    async with Wandering(servers) as manager:
        await until(lambda: manager.replica_pool_count == 1)
        held = await manager.acquire_replica()
        await manager.queue.put((a,))
        await manager.queue.put((a, b))
        await until(lambda: manager.queue.empty() and manager.replica_pool_count == 1)
        await manager.wait_next_pool_check()
        await held.run()
        await manager.release(held)


# 4. Until user code has run, every failure is ours to handle


@pytest.mark.parametrize("role", ["master", "replica"])
async def test_4_a_connection_that_is_purged_behind_its_own_answer_is_not_lent(role: str) -> None:
    """Its host goes on serving; the purge comes before the acquire that asked gets the answer."""
    async with manager_of(fake_cluster(f"a {role}"), refresh_delay=60) as manager:
        acquire = manager.acquire_master if role == "master" else manager.acquire_replica
        async with acquire(timeout=5) as first:
            pass
        [pool] = manager.pools
        ask = pool.count_rows

        async def count_rows(connection: FakeConnection, sql: str) -> int:
            rows = await ask(connection, sql)
            connection.cannot_be_asked = True
            connection.lose()
            return rows

        pool.count_rows = count_rows  # type: ignore[method-assign]
        pool.destinations.note_all_maybe_dead()
        async with acquire(timeout=5) as connection:
            assert first.closed
            assert connection is not first
            await connection.run()
        await until(lambda: manager.metrics().nodes[0].in_flight == 0)
        assert not manager.leases()
