"""Settings of one lease, and read-only mode: what each costs, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from hasql.errors import ConfigurationError, NotAvailableError
from hasql.resilience import SessionDefaults
from testbed.fake_driver import FakeConnection, fake_cluster, manager_of
from testbed.fake_threads import ThreadManager

if TYPE_CHECKING:
    from testbed.fake_driver import FakeServer

GUARDED = SessionDefaults(enforce_read_only=True)
OTHER = SessionDefaults(statement_timeout=7, application_name="other")
CANCELS = 1_200


def balance(connection: FakeConnection) -> int:
    """Return how many settings on a connection have not been undone."""
    kept = sum(
        "'hasql.before_statement_timeout', pg_catalog.concat" in s for s in connection.settings
    )
    restored = sum("pg_catalog.substr" in s for s in connection.settings)
    return kept - restored


def pooled(server: FakeServer) -> list[FakeConnection]:
    return [each for each in server.connections if each.on_lost is None]


def mistake() -> NoReturn:
    raise LookupError


async def test_2_the_guard_costs_a_round_trip_only_where_it_changes() -> None:
    servers = fake_cluster("a master")
    sizes = {"min_size": 1, "max_size": 1}
    async with manager_of(
        servers, session=GUARDED, fallback_master=True, pool_factory_kwargs=sizes
    ) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_replica() as connection:
            assert connection.read_only
        for _ in range(5):
            async with manager.acquire_replica() as again:
                assert again is connection
        assert len(connection.settings) == 1
        for _ in range(5):
            async with manager.acquire_master():
                assert not connection.read_only
        assert len(connection.settings) == 2
        connection.read_only = False  # as if the application had reset it
        async with manager.acquire_replica() as connection:
            assert connection.read_only
        connection.read_only = False
        async with manager.acquire_master():
            assert len(connection.settings) == 3  # the server reports that the guard is off
        connection.read_only = True  # as if the application had set it
        async with manager.acquire_master():
            assert connection.read_only


async def test_2_on_a_replica_the_guard_asks_nothing() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(servers, session=GUARDED) as manager:
        await manager.ready(1, 1)
        for _ in range(5):
            async with manager.acquire_replica() as connection:
                assert connection.settings == []


async def test_a_replica_that_is_promoted_is_guarded_from_the_next_lease_on() -> None:
    servers = fake_cluster("a master", "b replica")
    async with manager_of(
        servers, session=GUARDED, fallback_master=True, refresh_delay=0.02
    ) as manager:
        await manager.ready(1, 1)
        async with manager.acquire_replica() as connection:
            assert not connection.read_only
        servers["a"].kill()
        servers["b"].promote()
        async with asyncio.timeout(10):
            while manager.master_pool_count != 1 or manager.replica_pool_count:
                await asyncio.sleep(0.005)
        async with manager.acquire_replica(timeout=5) as connection:
            assert connection.server is servers["b"]
            assert connection.read_only


async def test_a_pooler_is_told_nothing() -> None:
    servers = fake_cluster("a master")
    servers["a"].pooler = True
    async with manager_of(servers, session=GUARDED, fallback_master=True) as manager:
        await manager.ready(1, 0)
        with pytest.raises(ConfigurationError, match="behind a pooler"):
            await manager.acquire_replica()
        with pytest.raises(ConfigurationError, match="behind a pooler"):
            await manager.acquire_master(session=OTHER)
        async with manager.acquire_master() as connection:
            assert connection.settings == []
        assert manager.metrics().nodes[0].in_flight == 0


async def test_11_a_storm_of_cancellations_leaves_no_setting_and_no_place_behind() -> None:
    servers = fake_cluster("a master", "b replica")
    chance = Random(13)  # noqa: S311  # no secret
    for server in servers.values():
        server.latency = 0.0003
    async with manager_of(
        servers,
        session=GUARDED,
        master_as_replica_weight=0.5,
        pool_factory_kwargs={"min_size": 0, "max_size": 4},
        acquire_timeout=5,
    ) as manager:
        await manager.ready(1, 1)
        seen: list[int] = []

        async def use(number: int) -> None:
            session = OTHER if number % 3 else None
            try:
                if number % 2:
                    async with manager.acquire(number % 4 == 1, session=session) as connection:
                        seen.append(balance(connection) - (session is not None))
                        await connection.run()
                        if number % 5 == 0:
                            mistake()
                else:
                    connection = await manager.acquire(number % 4 == 2, session=session)
                    try:
                        seen.append(balance(connection) - (session is not None))
                        await connection.run()
                    finally:
                        await manager.release(connection)
            except (LookupError, ConnectionError, NotAvailableError):
                pass

        async def one(number: int) -> None:
            task = asyncio.ensure_future(use(number))
            await asyncio.sleep(chance.random() * 0.004)
            task.cancel()
            await asyncio.wait([task])

        for first in range(0, CANCELS, 16):
            await asyncio.gather(*(one(number) for number in range(first, first + 16)))
        assert {*seen} == {0}
        async with asyncio.timeout(10):
            while sum(node.in_flight for node in manager.metrics().nodes):
                await asyncio.sleep(0.001)
        for server in servers.values():
            assert {balance(connection) for connection in pooled(server)} <= {0}


def test_a_thread_that_cannot_undo_a_setting_gives_back_no_connection() -> None:
    servers = fake_cluster("a master")
    with ThreadManager(servers, pool_factory_kwargs={"min_size": 0, "max_size": 1}) as manager:
        manager.ready(1, 0)
        pool = manager.pool_of("a")
        refused: Any = ConnectionResetError("as the server would")
        roll_back = pool.roll_back

        def fail(connection: object) -> None:
            del connection
            raise refused

        with manager.acquire_master(session=OTHER) as first:
            assert balance(first) == 1
        assert balance(first) == 0
        pool.roll_back = fail  # type: ignore[method-assign]  # on this pool alone
        with manager.acquire_master(session=OTHER) as connection:
            assert connection is first
        assert connection.closed
        pool.roll_back = roll_back  # type: ignore[method-assign]  # on this pool alone
        with manager.acquire_master() as connection:
            assert connection is not first
            assert balance(connection) == 0
        assert manager.metrics().nodes[0].in_flight == 0
