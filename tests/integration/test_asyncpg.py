"""The asyncpg adapter and the core on real servers, from role detection to failover."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from hasql import ConfigurationError, NotAvailableError
from hasql.asyncpg import PoolManager
from hasql.cluster.dsn import Dsn
from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from asyncpg.pool import PoolConnectionProxy

    from hasql.testing import LocalCluster, LocalNode

    Connection = PoolConnectionProxy[asyncpg.Record]


@pytest.fixture
async def manager(pg_cluster: LocalCluster) -> AsyncIterator[PoolManager]:
    async with PoolManager(pg_cluster.dsn, refresh_delay=0.2) as manager:
        await manager.ready(1, 2)
        async with manager.acquire_master() as connection:
            await connection.execute("DROP TABLE IF EXISTS t; CREATE TABLE t (i int)")
        yield manager


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def port_of(connection: Connection) -> int:
    port = await connection.fetchval("SELECT inet_server_port()")
    assert isinstance(port, int)
    return port


async def fail_over(cluster: LocalCluster) -> tuple[LocalNode, LocalNode]:
    """Kill the master and promote a replica; return both."""
    old, new = cluster.master, cluster.replicas[0]
    old.kill()
    await new.promote()
    return old, new


async def test_roles_are_detected(manager: PoolManager, pg_cluster: LocalCluster) -> None:
    async with manager.acquire_master() as connection:
        assert await port_of(connection) == pg_cluster.master.port
        assert await connection.fetchval("SELECT pg_is_in_recovery()") is False
    seen = set()
    for _ in range(30):
        async with manager.acquire_replica() as connection:
            assert await connection.fetchval("SELECT pg_is_in_recovery()") is True
            seen.add(await port_of(connection))
    assert seen == {node.port for node in pg_cluster.replicas}


async def test_metrics_tell_what_the_servers_are(manager: PoolManager) -> None:
    async with manager.acquire_master() as connection:
        await connection.execute("INSERT INTO t VALUES (1)")
    await manager.wait_next_pool_check()
    metrics = manager.metrics()
    assert sorted(node.role.value for node in metrics.nodes) == ["master", "replica", "replica"]
    for node in metrics.nodes:
        assert node.fencing
        assert (node.pool_min, node.pool_max) == (10, 10)
        assert node.pool_idle == 10
        assert node.in_flight == 0
        assert node.response_time is not None
        if node.role.value == "replica":
            assert node.lag_bytes is not None
            assert node.lag_bytes >= 0


async def test_the_users_sizes_are_what_the_user_gets_and_one_connection_is_reserved(
    pg_cluster: LocalCluster,
) -> None:
    kwargs = {
        "min_size": 3,
        "max_size": 4,
        "server_settings": {"application_name": "counted"},
    }
    async with PoolManager(pg_cluster.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        leases = [await manager.acquire_master() for _ in range(4)]
        with pytest.raises(NotAvailableError, match="4 of 4 connections in use"):
            await manager.acquire_master(timeout=0.05)
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"
        assert await leases[0].fetchval(query) == 4 + 1
        for connection in leases:
            await manager.release(connection)


async def test_the_reserved_connection_is_opened_without_the_users_hooks(
    pg_cluster: LocalCluster,
) -> None:
    made: list[object] = []

    async def init(connection: object) -> None:
        made.append(connection)

    kwargs = {"min_size": 2, "max_size": 2, "init": init}
    async with PoolManager(pg_cluster.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        assert len(made) == 6


async def test_an_open_transaction_is_rolled_back(manager: PoolManager) -> None:
    with pytest.raises(KeyError):
        async with manager.acquire_master() as connection, connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1)")
            raise KeyError
    connection = await manager.acquire_master()
    await connection.execute("BEGIN; INSERT INTO t VALUES (2)")
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncpg reports the open transaction there
    await manager.release(connection)
    loop.set_exception_handler(None)
    async with manager.acquire_master() as connection:
        assert await connection.fetchval("SELECT count(*) FROM t") == 0


async def test_acquire_arguments_go_by_position_as_well(manager: PoolManager) -> None:
    async with manager.acquire(True, False, 0.0, 1) as connection:
        assert await connection.fetchval("SELECT pg_is_in_recovery()")
    connection = await manager.acquire(read_only=False)
    await manager.release(connection)


async def test_a_clean_switchover_is_followed(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    old = pg_cluster.master
    new = await pg_cluster.switchover()
    async with manager.acquire_master(timeout=10) as connection:
        assert await port_of(connection) == new.port
        await connection.execute("INSERT INTO t VALUES (1)")
    await manager.ready(1, 2, timeout=20)
    ports = set()
    for _ in range(30):
        async with manager.acquire_replica() as connection:
            ports.add(await port_of(connection))
    assert old.port in ports


async def test_writers_go_on_after_a_crash(manager: PoolManager, pg_cluster: LocalCluster) -> None:
    failures: list[BaseException] = []
    written: list[int] = []
    stop = asyncio.Event()

    async def write(writer: int) -> None:
        number = writer
        while not stop.is_set():
            try:
                async with manager.acquire_master(timeout=20) as connection:
                    await connection.execute("INSERT INTO t VALUES ($1)", number)
                written.append(number)
            except (OSError, asyncpg.PostgresError, asyncpg.InternalClientError) as error:
                failures.append(error)
            number += 100

    writers = [asyncio.ensure_future(write(writer)) for writer in range(8)]
    await until(lambda: len(written) > 100)
    old, new = await fail_over(pg_cluster)
    promoted = len(written)
    await until(lambda: len(written) > promoted + 100)
    stop.set()
    await asyncio.gather(*writers)
    assert len(failures) <= len(writers), failures
    await old.rejoin(new)
    await manager.ready(1, 2, timeout=20)
    async with manager.acquire_master() as connection:
        assert await port_of(connection) == new.port
        present = {row["i"] for row in await connection.fetch("SELECT i FROM t")}
    # What was acknowledged by the new master is there; the old one's last rows may never have
    # been shipped.
    assert set(written[promoted:]) <= present


async def test_a_frozen_master_that_was_replaced_acknowledges_nothing(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]
    held = await manager.acquire_master()
    old.freeze()
    await new.promote()
    await until(lambda: manager.metrics().fencings == 1)
    async with manager.acquire_master() as connection:
        assert await port_of(connection) == new.port
    old.thaw()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await held.execute("INSERT INTO t VALUES (1)")
    await manager.release(held)
    await manager.wait_next_pool_check()
    for _ in range(20):
        async with manager.acquire_master() as connection:
            assert await port_of(connection) == new.port
    assert [node.exclusion for node in manager.metrics().nodes if node.exclusion]


async def test_a_host_down_at_start_is_no_error_and_is_taken_in_later(
    pg_cluster: LocalCluster,
) -> None:
    down = pg_cluster.replicas[0]
    await down.stop()
    async with PoolManager(pg_cluster.dsn, refresh_delay=0.1) as manager:
        await manager.ready(1, 1)
        with pytest.raises(NotAvailableError, match=f"{down.port} down"):
            await manager.ready(timeout=0.3)
        await down.start()
        await manager.ready(1, 2)


async def test_a_host_that_comes_back_serves_from_fresh_connections(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    pids = set()
    for _ in range(30):
        async with manager.acquire_replica() as connection:
            pids.add(connection.get_server_pid())
    for node in pg_cluster.replicas:
        await node.restart()
    await manager.ready(1, 2)
    for _ in range(30):
        async with manager.acquire_replica(timeout=10) as connection:
            assert await connection.fetchval("SELECT 1") == 1
            assert connection.get_server_pid() not in pids


async def test_a_black_hole_is_left_for_others_and_returns(pg_cluster: LocalCluster) -> None:
    first, second = pg_cluster.replicas
    async with Proxy(first.host, first.port) as proxy:
        parsed = Dsn.parse(pg_cluster.dsn)
        dsn = (
            f"postgresql://{parsed.user}:{parsed.password}@127.0.0.1:{proxy.port},"
            f"127.0.0.1:{second.port}/app"
        )
        kwargs = {"min_size": 1, "max_size": 3}
        async with PoolManager(
            dsn, refresh_delay=0.1, refresh_timeout=0.5, pool_factory_kwargs=kwargs
        ) as manager:
            await manager.ready(0, 2)
            proxy.black_hole()
            await until(lambda: manager.replica_pool_count == 1)
            for _ in range(10):
                async with manager.acquire_replica() as connection:
                    assert await port_of(connection) == second.port
            proxy.forward()
            await manager.ready(0, 2)
            # A flow that is dead while new ones work costs one reconnect of the reserved
            # connection: the host stays.
            before = proxy.connections
            proxy.black_hole(new_ones_too=False)
            await manager.wait_next_pool_check()
            assert proxy.connections > before
            assert manager.replica_pool_count == 2
            proxy.drop()


async def test_a_storm_of_cancelled_acquires_leaves_every_slot_free(
    pg_cluster: LocalCluster,
) -> None:
    kwargs = {"min_size": 0, "max_size": 5}
    async with PoolManager(
        pg_cluster.dsn,
        acquire_timeout=60,
        pool_factory_kwargs=kwargs,
    ) as manager:
        await manager.ready(1, 2)
        tasks = asyncio.all_tasks()

        async def use(number: int) -> None:
            async with manager.acquire(bool(number % 2)) as connection:
                await connection.execute("SELECT 1")

        for wave in range(20):
            users = [asyncio.ensure_future(use(number)) for number in range(500)]
            for _ in range(wave):
                await asyncio.sleep(0.001)
            for user in users:
                user.cancel()
            await asyncio.gather(*users, return_exceptions=True)
        assert [node.in_flight for node in manager.metrics().nodes] == [0, 0, 0]
        for read_only in (False, True):
            count = 10 if read_only else 5
            taken = [await manager.acquire(read_only) for _ in range(count)]
            for connection in taken:
                assert await connection.fetchval("SELECT 1") == 1
                await manager.release(connection)
        await until(lambda: asyncio.all_tasks() <= tasks)


# Programs that end


PROGRAM = """
import asyncio, sys
from hasql.asyncpg import PoolManager

async def main():
    manager = PoolManager(sys.argv[1])
    await manager.ready(1, 2)
    async with manager.acquire_master() as connection:
        await connection.execute("SELECT 1")
    {end}

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("end", "code", "last_words"),
    [("return", 0, ""), ("raise KeyError('mine')", 1, "KeyError: 'mine'")],
)
def test_13_a_program_that_ends_without_close_ends_at_once(
    pg_cluster: LocalCluster, end: str, code: int, last_words: str
) -> None:
    program = textwrap.dedent(PROGRAM).format(end=end)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program, pg_cluster.dsn],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.strip().splitlines()[-1:] == [last_words] * bool(last_words)
    assert "Warning" not in done.stderr


# Bad input


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_sise": 5}, "did you mean 'max_size'"),
        ({"min_size": 5, "max_size": 2}, "min_size=5 and max_size=2 cannot work"),
        ({"max_size": 0}, "max_size >= 1 must hold"),
        ({"max_size": "many"}, "must be an int, not 'many'"),
        ({"host": "elsewhere"}, "takes no argument 'host'"),
    ],
)
def test_pool_arguments_that_cannot_work_fail_at_once(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PoolManager("postgresql://db1,db2/app", pool_factory_kwargs=kwargs)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("@", "x@"), asyncpg.InvalidPasswordError),
        ((r"/app$", "/nowhere"), asyncpg.InvalidCatalogNameError),
        ((r"$", "?connect_timeout=3"), asyncpg.UndefinedObjectError),
    ],
)
async def test_14_a_refused_login_fails_ready_at_once_with_the_servers_own_error(
    pg_cluster: LocalCluster, change: tuple[str, str], error: type[Exception]
) -> None:
    manager = PoolManager(re.sub(*change, pg_cluster.dsn))
    tasks = asyncio.all_tasks()
    with pytest.raises(error):
        await manager.ready(timeout=60)
    await manager.close()
    manager = PoolManager(re.sub(*change, pg_cluster.dsn))
    with pytest.raises(error):
        await manager.__aenter__()
    assert manager.closed
    await until(lambda: asyncio.all_tasks() <= tasks)


async def test_14_no_host_reachable_names_them_all(unused_ports: tuple[int, int]) -> None:
    hosts = ",".join(f"127.0.0.1:{port}" for port in unused_ports)
    async with asyncio.timeout(20):
        manager = PoolManager(f"postgresql://app:hidden@{hosts}/app")
        with pytest.raises(NotAvailableError) as caught:
            await manager.ready(timeout=0.3)
        await manager.close()
    for port in unused_ports:
        assert f"127.0.0.1:{port} down" in str(caught.value)
    assert "hidden" not in str(caught.value)


async def test_a_callback_that_fails_is_the_applications_own_error(
    pg_cluster: LocalCluster,
) -> None:
    async def setup(_: object) -> None:
        raise LookupError("mine")

    kwargs = {"min_size": 1, "max_size": 1, "setup": setup}
    async with PoolManager(pg_cluster.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        for _ in range(3):
            with pytest.raises(LookupError, match="mine"):
                await manager.acquire_master()
        assert manager.metrics().nodes[0].in_flight == 0


# Closing


async def test_12_closing_lets_work_commit_and_leaves_no_connection(
    pg_cluster: LocalCluster,
) -> None:
    kwargs = {"server_settings": {"application_name": "closing"}}
    manager = PoolManager(pg_cluster.dsn, pool_factory_kwargs=kwargs)
    await manager.ready(1, 2)
    async with manager.acquire_master() as connection, connection.transaction():
        await connection.execute("CREATE TABLE IF NOT EXISTS closing (i int)")
        closing = asyncio.ensure_future(manager.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        await connection.execute("INSERT INTO closing VALUES (1)")
    await closing
    master = pg_cluster.master
    assert await master.sql("SELECT count(*) > 0 FROM closing") == "t"
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'closing'"
    async with asyncio.timeout(10):
        while await master.sql(query) != "0":
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", ["close", "terminate"])
async def test_12_closing_waits_for_no_frozen_server(pg_cluster: LocalCluster, way: str) -> None:
    manager = PoolManager(pg_cluster.dsn, refresh_timeout=0.5)
    await manager.ready(1, 2)
    node = pg_cluster.replicas[0]
    async with manager.acquire_replica() as connection:
        assert await connection.fetchval("SELECT 1") == 1
        node.freeze()
    async with asyncio.timeout(8):
        await getattr(manager, way)()
    node.thaw()


async def test_10_a_returning_host_refills_its_pool_at_once_and_nobody_hears_of_tries(
    manager: PoolManager, pg_cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "asyncpg.pool")
    node = pg_cluster.replicas[0]
    await node.stop()
    await until(lambda: manager.replica_pool_count == 1)
    # Longer than asyncpg waits between its first tries.
    await manager.wait_next_pool_check()
    await asyncio.sleep(1.5)
    await node.start()
    await manager.ready(1, 2)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: all(node.pool_idle == 10 for node in manager.metrics().nodes))
    assert loop.time() - began < 2
    assert not [record for record in caplog.records if record.name == "asyncpg.pool"]


async def test_arguments_go_on_to_the_drivers_release(manager: PoolManager) -> None:
    connection = await manager.acquire_master()
    await manager.release(connection, timeout=3)
    assert manager.metrics().nodes[0].in_flight == 0


# What once went wrong


async def test_3_a_server_without_slots_costs_no_more_than_the_deadline(
    pg_cluster: LocalCluster,
) -> None:
    master = pg_cluster.master
    await master.sql("ALTER ROLE app CONNECTION LIMIT -1")
    kwargs = {"min_size": 2, "max_size": 2}
    dsn = master.dsn
    async with PoolManager(dsn, pool_factory_kwargs=kwargs, refresh_delay=0.2) as manager:
        await manager.ready(1, 0)
        held = await manager.acquire_master()
        await master.sql("ALTER ROLE app CONNECTION LIMIT 1")
        try:
            # asyncpg now wants to fill its pool and cannot: nobody may wait behind that.
            async with manager.acquire_master() as connection:
                connection.terminate()
            loop = asyncio.get_running_loop()
            for _ in range(3):
                began = loop.time()
                with pytest.raises(NotAvailableError, match="too many connections"):
                    await manager.acquire_master(timeout=0.3)
                assert loop.time() - began < 2
            assert await held.fetchval("SELECT 1") == 1
        finally:
            await master.sql("ALTER ROLE app CONNECTION LIMIT -1")
        async with manager.acquire_master(timeout=5) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        await manager.release(held)


async def test_waiting_acquires_cause_no_storm_of_logins(pg_cluster: LocalCluster) -> None:
    master = pg_cluster.master
    logins = 0

    async def connect(*args: Any, **kwargs: Any) -> Any:
        nonlocal logins
        logins += 1
        return await asyncpg.connect(*args, **kwargs)

    kwargs = {"min_size": 1, "max_size": 10, "connect": connect}
    async with PoolManager(master.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        held = await manager.acquire_master()
        await master.sql("ALTER ROLE app CONNECTION LIMIT 1")
        try:
            logins = 0
            waiters = [manager.acquire_master(timeout=1.5) for _ in range(20)]
            results = await asyncio.gather(*waiters, return_exceptions=True)
            assert all(isinstance(result, NotAvailableError) for result in results)
            assert logins < 60
        finally:
            await master.sql("ALTER ROLE app CONNECTION LIMIT -1")
        await manager.release(held)


@pytest.mark.parametrize("hook", ["init", "setup"])
async def test_12_hooks_on_a_frozen_server_outlast_neither_deadline_nor_terminate(
    pg_cluster: LocalCluster, hook: str
) -> None:
    master = pg_cluster.master
    frozen = asyncio.Event()

    async def run(connection: Any) -> None:
        if frozen.is_set():
            master.freeze()
            await connection.execute("SELECT 1")

    kwargs: dict[str, Any] = {"min_size": 1, "max_size": 3, hook: run}
    manager = PoolManager(master.dsn, pool_factory_kwargs=kwargs, refresh_timeout=30)
    await manager.ready(1, 0)
    held = await manager.acquire_master()
    frozen.set()
    async with asyncio.timeout(5):
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.3)
        await manager.terminate()
    master.thaw()
    with pytest.raises(asyncpg.InterfaceError):
        await held.fetchval("SELECT 1")


async def test_a_wrong_argument_of_acquire_or_release_leaks_nothing(manager: PoolManager) -> None:
    for _ in range(25):
        with pytest.raises(TypeError):
            await manager.acquire_master(nonsense=1)
    for _ in range(25):
        connection = await manager.acquire_master()
        with pytest.raises(TypeError):
            await manager.release(connection, nonsense=1)
    leases = [await manager.acquire_master() for _ in range(10)]
    for connection in leases:
        await manager.release(connection)


async def test_an_acquire_does_not_stick_to_a_frozen_replica(pg_cluster: LocalCluster) -> None:
    kwargs = {"min_size": 0, "max_size": 5}
    async with PoolManager(
        pg_cluster.dsn, pool_factory_kwargs=kwargs, acquire_timeout=5, refresh_delay=60
    ) as manager:
        await manager.ready(1, 2)
        frozen, sound = pg_cluster.replicas
        frozen.freeze()
        leases = await asyncio.gather(*[manager.acquire_replica() for _ in range(5)])
        assert {await port_of(connection) for connection in leases} == {sound.port}
        for connection in leases:
            await manager.release(connection)
        frozen.thaw()


async def test_9_what_a_role_may_not_ask_comes_back_with_a_grant(pg_cluster: LocalCluster) -> None:
    master = pg_cluster.master
    await master.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        async with PoolManager(pg_cluster.dsn) as manager:
            await manager.ready(1, 2)
            assert not any(node.fencing for node in manager.metrics().nodes)
            await master.sql("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
            # A new session asks for everything again; without one it takes a minute.
            await master.restart()
            await until(lambda: any(node.fencing for node in manager.metrics().nodes))
    finally:
        await master.sql("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")


async def test_taking_from_a_pool_directly_on_a_dead_host_tells_the_drivers_own_error(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    pool = await manager.get_pool(read_only=False)
    pg_cluster.master.kill()
    await until(lambda: manager.master_pool_count == 0)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await pool.acquire()


async def test_nobody_is_cancelled_by_a_pool_that_cannot_fill_itself(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    """Acquires that overlap asyncpg's own task on a server that dies see errors of servers only."""
    stop = asyncio.Event()
    seen: list[BaseException] = []

    async def use() -> None:
        while not stop.is_set():
            try:
                async with manager.acquire_master(timeout=0.2) as connection:
                    await connection.execute("SELECT 1")
            except BaseException as error:  # noqa: BLE001  # that is the question
                seen.append(error)

    users = [asyncio.ensure_future(use()) for _ in range(30)]
    master = pg_cluster.master
    for _ in range(3):
        await master.stop()
        await until(lambda: manager.master_pool_count == 0)
        await master.start()
        await until(lambda: manager.master_pool_count == 1)
    stop.set()
    await asyncio.gather(*users)
    assert not [error for error in seen if isinstance(error, asyncio.CancelledError)]


async def test_10_after_a_black_hole_no_place_is_lost(pg_cluster: LocalCluster) -> None:
    master = pg_cluster.master
    async with Proxy(master.host, master.port) as proxy:
        dsn = master.dsn.replace(str(master.port), str(proxy.port))
        kwargs = {"min_size": 2, "max_size": 2}
        async with PoolManager(
            dsn, refresh_delay=0.1, refresh_timeout=0.3, pool_factory_kwargs=kwargs
        ) as manager:
            await manager.ready(1, 0)
            proxy.black_hole()
            await until(lambda: manager.master_pool_count == 0)
            proxy.forward()
            await manager.ready(1, 0)
            for _ in range(3):
                async with manager.acquire_master() as one, manager.acquire_master() as other:
                    assert await one.fetchval("SELECT 1") == await other.fetchval("SELECT 1")
