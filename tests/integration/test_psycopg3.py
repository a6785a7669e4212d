"""Features of psycopg alone: hooks, transactions that end with a block, a pool that backs off."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any, ClassVar, Self

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from hasql import ConfigurationError, NotAvailableError
from hasql._adapters.psycopg.connection import PsycopgConnection
from hasql._adapters.psycopg.session import PsycopgSession
from hasql.cluster.dsn import Dsn
from hasql.dns import Resolver
from hasql.driver import Failure, PoolSizes
from hasql.psycopg3 import PoolManager
from hasql.resilience import SessionDefaults
from testbed.nameserver import NameServer
from testbed.proxy import Proxy
from testbed.scene import (
    complaints,
    crash_within,
    end_sessions,
    endpoint_of,
    sessions,
    sockets,
    tasks_end,
    tcp_options,
    until,
)

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.scene import Table

pytestmark = pytest.mark.usefixtures("nothing_unheard")

DRIVER = PoolManager._driver  # noqa: SLF001  # the seam between the core and an adapter


def own(proxy: Proxy, dsn: str, port: int) -> str:
    return dsn.replace(str(port), str(proxy.port))


async def value(connection: psycopg.AsyncConnection[Any], query: str) -> Any:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row[0]


# Session settings


async def test_what_a_function_sets_otherwise_is_refused_when_it_connects(
    pg_cluster: LocalCluster,
) -> None:
    manager = PoolManager(
        pg_cluster.dsn,
        session=SessionDefaults(lock_timeout=1),
        pool_factory_kwargs={"kwargs": lambda: {"options": "-c lock_timeout=5s"}},
    )
    with pytest.raises(ConfigurationError, match=r"session= sets lock_timeout to '1000', and"):
        await manager.ready(1, 2)
    await manager.close()


# Arguments


@pytest.mark.parametrize(
    ("kwargs", "sizes"),
    [
        ({}, PoolSizes(4, 4)),
        ({"max_size": None}, PoolSizes(4, 4)),
        ({"min_size": 6}, PoolSizes(6, 6)),
        ({"min_size": 0, "max_size": 3}, PoolSizes(0, 3)),
        ({"max_size": 2}, PoolSizes(2, 2)),
        ({"max_size": 20}, PoolSizes(4, 20)),
    ],
)
def test_sizes_are_those_of_the_pool(kwargs: dict[str, Any], sizes: PoolSizes) -> None:
    assert DRIVER.sizes(kwargs) == sizes
    PoolManager("postgresql://db1,db2/app", pool_factory_kwargs=kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_sise": 5}, "did you mean 'max_size'"),
        ({"conninfo": "host=elsewhere"}, "takes no argument 'conninfo'"),
        ({"open": True}, "'open' cannot be given: hasql opens a pool"),
        ({"reconnect_timeout": 5}, "'reconnect_timeout' cannot be given: hasql itself connects"),
        ({"reconnect_failed": print}, "'reconnect_failed' cannot be given"),
        ({"close_returns": True}, "'close_returns' cannot be given"),
        ({"kwargs": {"host": "elsewhere"}}, "'host' must be given in the DSN"),
        ({"kwargs": {"aplication_name": "x"}}, 'invalid connection option "aplication_name"'),
    ],
)
def test_arguments_that_cannot_work_fail_at_once(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PoolManager("postgresql://db1,db2/app", pool_factory_kwargs=kwargs)


async def test_arguments_and_hooks_are_the_users_but_not_for_the_reserved_connection(
    pg_cluster: LocalCluster, application: str
) -> None:
    heard: list[str] = []

    class Mine(psycopg.AsyncConnection[Any]):
        pass

    async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
        heard.append("configure")
        await connection.execute("SET application_name = 'configured'")
        await connection.commit()

    async def check(connection: psycopg.AsyncConnection[Any]) -> None:
        heard.append("check")
        await AsyncConnectionPool.check_connection(connection)

    async def reset(connection: psycopg.AsyncConnection[Any]) -> None:
        assert await value(connection, "SELECT current_setting('application_name')") == "changed"
        await connection.execute("SET application_name = 'configured'")
        await connection.commit()
        heard.append("reset")

    kwargs = {
        "min_size": 1,
        "max_size": 1,
        "connection_class": Mine,
        "configure": configure,
        "check": check,
        "reset": reset,
        "kwargs": {"application_name": application, "prepare_threshold": 0},
    }
    master = pg_cluster.master
    async with PoolManager(master.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        for _ in range(2):
            async with manager.acquire_master() as connection:
                assert isinstance(connection, Mine)
                name = await value(connection, "SELECT current_setting('application_name')")
                assert name == "configured"
                await connection.execute("SET application_name = 'changed'")
        await until(lambda: heard.count("reset") == 2)
        assert heard == ["configure", "check", "reset", "check", "reset"]
        assert await sessions(master, application) == 1


async def test_8_the_kernel_ends_flows_that_are_lost_as_the_user_wants_it(
    pg_cluster: LocalCluster,
) -> None:
    async with PoolManager(pg_cluster.dsn) as manager, manager.acquire_replica() as connection:
        usual = {"idle": 5, "interval": 2, "count": 3, "user_timeout": 10_000}
        assert tcp_options(connection.fileno()) == usual
    dsn = f"{pg_cluster.dsn}?keepalives_idle=7&tcp_user_timeout=0"
    kwargs = {"kwargs": {"keepalives_count": 4}}
    async with (
        PoolManager(dsn, pool_factory_kwargs=kwargs) as manager,
        manager.acquire_replica() as connection,
    ):
        mine = {"idle": 7, "interval": 2, "count": 4, "user_timeout": 0}
        assert tcp_options(connection.fileno()) == mine


async def test_rows_are_made_as_the_user_wants_them(pg_cluster: LocalCluster) -> None:
    kwargs = {"min_size": 1, "kwargs": {"row_factory": dict_row}}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_master() as connection:
            row: Any = await (await connection.execute("SELECT 1 AS one")).fetchone()
            assert row == {"one": 1}


@pytest.mark.parametrize("error", [LookupError("mine"), psycopg.ProgrammingError("mine")])
async def test_a_configure_that_fails_is_the_applications_own_error(
    pg_cluster: LocalCluster, error: Exception
) -> None:
    fails = False

    async def configure(_: object) -> None:
        if fails:
            raise error

    kwargs = {"min_size": 0, "max_size": 2, "configure": configure}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        fails = True
        for _ in range(3):
            with pytest.raises(type(error), match="mine"):
                await manager.acquire_master()
        assert manager.metrics().nodes[0].in_flight == 0
        fails = False
        async with manager.acquire_master() as one, manager.acquire_master() as other:
            assert await value(one, "SELECT 1") == await value(other, "SELECT 1")


# Transactions


async def test_leaving_a_block_commits_and_its_error_is_the_applications(
    pg_cluster: LocalCluster, table: Table
) -> None:
    async with PoolManager(pg_cluster.master.dsn) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_master() as connection:
            await connection.execute(table.insert(1))
        await pg_cluster.master.sql(
            f"ALTER TABLE {table.name} ADD UNIQUE (i) DEFERRABLE INITIALLY DEFERRED"
        )
        with pytest.raises(psycopg.errors.UniqueViolation):
            async with manager.acquire_master() as connection:
                await connection.execute(table.insert(1))
        with pytest.raises(KeyError):
            async with manager.acquire_master() as connection:
                await connection.execute(table.insert(2))
                raise KeyError
        connection = await manager.acquire_master()
        await connection.execute(table.insert(3))
        await manager.release(connection)
        async with manager.acquire_master() as connection:
            assert await value(connection, table.rows) == 1


async def test_a_transaction_that_was_aborted_is_never_taken_for_committed(
    pg_cluster: LocalCluster, table: Table
) -> None:
    manager = PoolManager(pg_cluster.master.dsn)
    await manager.ready(1, 0)
    with pytest.raises(psycopg.OperationalError):
        async with manager.acquire_master() as connection:
            await connection.execute(table.insert(1))
            await manager.terminate()
    assert await pg_cluster.master.sql(table.count) == "0"


@pytest.mark.parametrize("way", ["block", "error", "release"])
async def test_12_ending_a_transaction_on_a_frozen_server_can_be_cancelled_at_once(
    pg_cluster: LocalCluster, way: str
) -> None:
    master = pg_cluster.master
    kwargs = {"min_size": 1, "max_size": 1}
    manager = PoolManager(master.dsn, refresh_timeout=30, pool_factory_kwargs=kwargs)
    await manager.ready(1, 0)
    frozen = asyncio.Event()

    async def use() -> None:
        if way == "release":
            connection = await manager.acquire_master()
            await connection.execute("SELECT 1")
            master.freeze()
            frozen.set()
            await manager.release(connection)
        async with manager.acquire_master() as connection:
            await connection.execute("SELECT 1")
            master.freeze()
            frozen.set()
            if way == "error":
                raise KeyError

    user = asyncio.ensure_future(use())
    await frozen.wait()
    done, _ = await asyncio.wait([user], timeout=0.2)
    assert not done
    user.cancel()
    async with asyncio.timeout(2):
        with pytest.raises(asyncio.CancelledError):
            await user
        assert manager.metrics().nodes[0].in_flight == 1  # another task goes on giving it back
        await manager.terminate()
    assert manager.metrics().nodes[0].in_flight == 0
    master.thaw()


# Connections that die, and pools that fill again


@pytest.mark.parametrize("check", [None, AsyncConnectionPool.check_connection])
@pytest.mark.parametrize("way", ["killed", "dropped"])
async def test_six_dead_idle_connections_cost_an_acquire_nothing(
    pg_cluster: LocalCluster, application: str, way: str, check: Any
) -> None:
    master = pg_cluster.master
    async with Proxy(master.host, master.port) as proxy:
        kwargs = {"min_size": 6, "max_size": 6, "check": check}
        dsn = f"{master.dsn}?application_name={application}"
        if way == "dropped":  # otherwise directly: then a server's last words are here at once
            dsn = own(proxy, dsn, master.port)
        async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
            await manager.ready(1, 0)
            assert manager.metrics().nodes[0].pool_idle == 6
            if way == "dropped":
                proxy.drop()
                await manager.wait_next_pool_check()  # by then all sockets are closed
            else:
                await end_sessions(master, application)
            async with asyncio.timeout(0.9), manager.acquire_master(timeout=5) as connection:
                assert await value(connection, "SELECT 1") == 1
            leases = [await manager.acquire_master() for _ in range(6)]
            for connection in leases:
                assert await value(connection, "SELECT 1") == 1
                await manager.release(connection)


async def test_10_a_returning_host_refills_its_pool_at_once_and_nobody_hears_of_tries(
    pg_cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    kwargs = {"min_size": 5, "max_size": 8}
    async with PoolManager(
        pg_cluster.dsn, refresh_delay=0.2, pool_factory_kwargs=kwargs
    ) as manager:
        await manager.ready(1, 2)
        node = pg_cluster.replicas[0]
        await node.stop()
        await until(lambda: manager.replica_pool_count == 1)
        # Longer than psycopg_pool waits before its first retry.
        await asyncio.sleep(1.5)
        await node.start()
        await manager.ready(1, 2)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await until(lambda: all(node.pool_idle == 5 for node in manager.metrics().nodes))
        assert loop.time() - began < 2
    assert not [x for x in caplog.records if x.name == "psycopg.pool"]


async def test_10_after_a_black_hole_no_place_is_lost(pg_cluster: LocalCluster) -> None:
    master = pg_cluster.master
    async with Proxy(master.host, master.port) as proxy:
        kwargs = {"min_size": 2, "max_size": 2}
        async with PoolManager(
            own(proxy, master.dsn, master.port),
            refresh_delay=0.1,
            refresh_timeout=0.3,
            pool_factory_kwargs=kwargs,
        ) as manager:
            await manager.ready(1, 0)
            held = await manager.acquire_master()
            proxy.black_hole()
            await until(lambda: manager.master_pool_count == 0)
            with pytest.raises(NotAvailableError):
                await manager.acquire_master(timeout=0.1)
            proxy.forward()
            await manager.ready(1, 0)
            await manager.release(held)
            for _ in range(3):
                async with manager.acquire_master() as one, manager.acquire_master() as other:
                    assert await value(one, "SELECT 1") == await value(other, "SELECT 1")
            await until(lambda: manager.metrics().nodes[0].pool_idle == 2)
            proxy.drop()


async def test_a_server_without_slots_is_not_stormed_and_serves_again(
    pg_cluster: LocalCluster,
) -> None:
    logins = 0

    class Counted(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Any:
            nonlocal logins
            logins += 1
            return await super().connect(*args, **kwargs)

    master = pg_cluster.master
    kwargs = {"min_size": 1, "max_size": 10, "connection_class": Counted}
    async with PoolManager(master.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        held = await manager.acquire_master()
        await master.sql("ALTER ROLE app CONNECTION LIMIT 1")
        try:
            logins = 0
            waiters = [manager.acquire_master(timeout=1.5) for _ in range(20)]
            results = await asyncio.gather(*waiters, return_exceptions=True)
            assert all(isinstance(result, NotAvailableError) for result in results)
            assert "too many connections" in str(results[0])
            assert 0 < logins < 60
        finally:
            await master.sql("ALTER ROLE app CONNECTION LIMIT -1")
        async with asyncio.timeout(10):
            leases = [await manager.acquire_master(timeout=5) for _ in range(9)]
        for connection in (held, *leases):
            assert await value(connection, "SELECT 1") == 1
            await manager.release(connection)


async def test_a_pool_that_cannot_open_tells_why_and_leaves_nothing(
    pg_cluster: LocalCluster,
) -> None:
    master = pg_cluster.master
    tasks, before = asyncio.all_tasks(), sockets()

    async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute("SELECT nonsense")

    kwargs = {"min_size": 3, "max_size": 3, "configure": configure}
    async with asyncio.timeout(5):
        with pytest.raises(psycopg.errors.UndefinedColumn):
            await DRIVER.open(endpoint_of(master.dsn), kwargs, lambda *_: None)
    await tasks_end(tasks)
    await until(lambda: sockets() <= before)


@pytest.mark.parametrize("hook", ["configure", "check", "reset"])
async def test_12_hooks_on_a_frozen_server_outlast_neither_deadline_nor_terminate(
    pg_cluster: LocalCluster, hook: str
) -> None:
    master = pg_cluster.master
    armed, frozen = asyncio.Event(), asyncio.Event()

    async def run(connection: psycopg.AsyncConnection[Any]) -> None:
        if armed.is_set():
            master.freeze()
            frozen.set()
            await connection.execute("SELECT 1")

    kwargs: dict[str, Any] = {"min_size": 1, "max_size": 2, hook: run}
    manager = PoolManager(master.dsn, pool_factory_kwargs=kwargs, refresh_timeout=30)
    await manager.ready(1, 0)
    held = await manager.acquire_master()
    if hook == "check":
        await manager.release(held)
    armed.set()
    releases = []
    async with asyncio.timeout(5):
        if hook == "reset":
            releases = [asyncio.ensure_future(manager.release(held))]
            await frozen.wait()
        with pytest.raises(NotAvailableError):
            await manager.acquire_master(timeout=0.3)
        await manager.terminate()
        await asyncio.gather(*releases)
    master.thaw()


async def test_12_a_connect_to_a_frozen_server_is_cancelled_without_a_trace(
    pg_cluster: LocalCluster,
) -> None:
    master = pg_cluster.master
    master.freeze()
    before = sockets()
    connecting = asyncio.ensure_future(DRIVER.connect(endpoint_of(master.dsn), {}, lambda: None))
    await until(lambda: sockets() > before)
    connecting.cancel()
    async with asyncio.timeout(2):
        with pytest.raises(asyncio.CancelledError):
            await connecting
    del connecting
    await until(lambda: sockets() <= before)
    master.thaw()


@pytest.mark.parametrize("lost", [False, True])
async def test_12_a_cancellation_that_the_pool_loses_ends_an_acquire(
    pg_cluster: LocalCluster, lost: bool
) -> None:
    kwargs = {"min_size": 1, "max_size": 1}
    pool = await DRIVER.open(endpoint_of(pg_cluster.master.dsn), kwargs, lambda *_: None)
    try:
        lent = await pool.acquire()
        acquire = asyncio.ensure_future(pool.acquire())
        await asyncio.sleep(0)  # let it take its first step
        await pool.release(lent)  # hands it to the waiting acquire
        if lost:
            pool.abort(lent)
        acquire.cancel()  # in the same turn of the loop as the connection
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await acquire
        async with asyncio.timeout(5):
            again = await pool.acquire()
        assert (again is lent) is not lost
        assert await value(again, "SELECT 1") == 1
        await pool.release(again)
    finally:
        pool.terminate()


# The reserved connection


async def test_a_reserved_connection_tells_of_its_loss_once_and_of_nothing_else(
    pg_cluster: LocalCluster,
) -> None:
    master, lost = pg_cluster.master, asyncio.Event()
    calls = 0

    def on_lost() -> None:
        nonlocal calls
        calls += 1
        lost.set()

    session = await DRIVER.connect(endpoint_of(master.dsn), {}, on_lost)
    row = await session.fetch_row("SELECT pg_backend_pid(), pg_is_in_recovery()")
    assert row == (str(session.login_pid), "f")
    assert session.in_hot_standby is False
    # When a parameter changes, the server reports it without being asked.
    await master.sql("ALTER SYSTEM SET timezone = 'Asia/Tokyo'")
    try:
        await master.sql("SELECT pg_reload_conf()")
        async with asyncio.timeout(10):
            while await session.fetch_row("SHOW timezone") != ("Asia/Tokyo",):
                await asyncio.sleep(0.01)
    finally:
        await master.sql("ALTER SYSTEM RESET timezone")
        await master.sql("SELECT pg_reload_conf()")
    assert (calls, session.closed) == (0, False)
    await master.sql(f"SELECT pg_terminate_backend({row[0]})")
    async with asyncio.timeout(5):
        await lost.wait()
    assert session.closed
    with pytest.raises(psycopg.OperationalError):
        await session.fetch_row("SELECT 1")
    session.kill()
    assert calls == 1


@pytest.mark.parametrize("busy", [False, True])
async def test_a_reserved_connection_that_is_killed_is_silent_and_leaves_no_socket(
    pg_cluster: LocalCluster, busy: bool
) -> None:
    calls: list[None] = []
    before = sockets()
    session = await DRIVER.connect(
        endpoint_of(pg_cluster.master.dsn), {}, lambda: calls.append(None)
    )
    asking = asyncio.ensure_future(session.fetch_row("SELECT pg_sleep(60)")) if busy else None
    await asyncio.sleep(0.05)
    session.kill()
    assert session.closed
    async with asyncio.timeout(2):
        if asking is not None:
            with pytest.raises(psycopg.OperationalError):
                await asking
        await until(lambda: sockets() <= before)
    assert calls == []


class Overtaken(psycopg.AsyncCursor[Any]):
    """Opens a file as soon as libpq closes its socket, as another thread might."""

    descriptors: ClassVar[tuple[int, int] | None] = None

    async def execute(self, *args: Any, **kwargs: Any) -> Self:
        try:
            return await super().execute(*args, **kwargs)
        except psycopg.OperationalError:
            Overtaken.descriptors = os.pipe()
            raise


async def test_a_reserved_connection_leaves_the_number_of_its_lost_socket_to_others(
    pg_cluster: LocalCluster,
) -> None:
    """uvloop would make the file nonblocking; if a `subprocess.Popen` owned it, that would fail."""
    master, lost = pg_cluster.master, asyncio.Event()
    connection = await PsycopgConnection.connect(master.dsn, cursor_factory=Overtaken)
    number = connection.fileno()
    session = PsycopgSession(connection, lost.set)
    asking = asyncio.ensure_future(session.fetch_row("SELECT pg_sleep(60)"))
    await master.sql(f"SELECT pg_terminate_backend({session.login_pid}, 5000)")
    with pytest.raises(psycopg.OperationalError):
        await asking
    assert Overtaken.descriptors is not None
    reading, writing = Overtaken.descriptors
    try:
        assert reading == number
        assert os.get_blocking(reading)
        assert not asyncio.get_running_loop().remove_reader(reading)
        assert (session.closed, lost.is_set()) == (True, True)
    finally:
        session.kill()
        os.close(reading)
        os.close(writing)


async def test_what_a_server_warns_of_as_it_crashes_is_heard_before_it_closes_the_connection(
    pg_cluster: LocalCluster,
) -> None:
    master = pg_cluster.master
    async with Proxy(master.host, master.port) as proxy:
        dsn = own(proxy, master.dsn, master.port)
        connection = await PsycopgConnection.connect(dsn)
        try:
            assert connection.is_alive()
            proxy.hold_ends()
            await crash_within(master)
            await until(lambda: proxy.held == 1)
            assert not connection.is_alive()
        finally:
            await connection.close()


async def test_a_warning_of_the_applications_own_ends_no_connection(
    pg_cluster: LocalCluster,
) -> None:
    connection = await PsycopgConnection.connect(pg_cluster.master.dsn, autocommit=True)
    async with connection:
        await connection.execute("DO $$ BEGIN RAISE WARNING USING ERRCODE = '57P02'; END $$")
        assert not connection.lost
        assert connection.is_alive()


async def test_a_class_whose_connect_brings_the_password_logs_in_and_does_no_more(
    pg_cluster: LocalCluster, application: str
) -> None:
    password = Dsn.parse(pg_cluster.dsn).password
    made: list[object] = []

    class Token(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            kwargs["password"] = password
            connection = await super().connect(conninfo, **kwargs)
            made.append(connection)
            # Without autocommit this leaves a transaction open.
            await connection.execute("SET statement_timeout = '1h'")
            return connection

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            if "row_factory" in kwargs:
                raise AssertionError("not for hasql")
            return super().cursor(*args, **kwargs)

    dsn = pg_cluster.dsn.replace("@", "wrong@", 1) + f"?application_name={application}"
    kwargs: dict[str, Any] = {"min_size": 1, "max_size": 2, "connection_class": Token}
    kwargs["kwargs"] = {"autocommit": True}
    async with PoolManager(dsn, refresh_delay=0.1, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        await manager.wait_next_pool_check()
        roles = [(node.role.value, node.fencing) for node in manager.metrics().nodes]
        assert sorted(roles) == [("master", True), ("replica", True), ("replica", True)]
        assert len(made) == 6  # three pools, three reserved connections that stay
        assert await sessions(pg_cluster.master, application) == 2
        query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'"
        async with asyncio.timeout(20):  # a probe may be inside its own transaction
            while await pg_cluster.master.sql(query) != "0":
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_arguments_that_are_made_anew_each_time_are_for_the_reserved_login_too(
    pg_cluster: LocalCluster, asynchronous: bool
) -> None:
    arguments = {"password": Dsn.parse(pg_cluster.dsn).password, "autocommit": True}

    async def later() -> dict[str, Any]:
        return arguments

    dsn = pg_cluster.dsn.replace("@", "wrong@", 1)
    kwargs = {"min_size": 1, "kwargs": later if asynchronous else lambda: arguments}
    async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)


# Errors


async def test_errors_tell_what_they_are_and_no_password(
    pg_cluster: LocalCluster, unused_ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dsn = pg_cluster.master.dsn
    unreachable = dsn.replace(str(pg_cluster.master.port), str(unused_ports[0]))
    cases = [
        (dsn.replace("@", "hidden@"), Failure.REFUSED),
        (dsn.replace("/app", "/nowhere"), Failure.REFUSED),
        (f"{dsn}?nonsense=1", Failure.MISCONFIGURED),
        (unreachable.replace("@", "hidden@"), Failure.BROKEN),
    ]
    for wrong, failure in cases:
        with pytest.raises(psycopg.Error) as caught:
            await DRIVER.connect(endpoint_of(wrong), {}, lambda: None)
        assert DRIVER.failure(caught.value) is failure
        assert "hidden" not in f"{caught.value!r} {caught.value}"
    assert "hidden" not in caplog.text


# Programs that end


PROGRAM = """
import asyncio, sys
from hasql.psycopg3 import PoolManager

async def main():
    manager = PoolManager(sys.argv[1], refresh_delay=0.1, refresh_timeout=0.3)
    await manager.ready(1, 0)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    while manager.master_pool_count:
        await asyncio.sleep(0.01)

{run}(main())
"""


@pytest.mark.parametrize("run", ["asyncio.run", "__import__('uvloop').run"])
@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_13_a_program_ends_at_once_though_its_pool_waits_for_a_host(
    pg_cluster: LocalCluster, run: str, fault: str
) -> None:
    program = textwrap.dedent(PROGRAM).format(run=run)
    master = pg_cluster.master
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program, master.dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        getattr(master, fault)()
        _, said = process.communicate("\n", timeout=20)
    if fault == "freeze":
        master.thaw()
    assert process.returncode == 0
    assert [line for line in complaints(said).splitlines() if " is down" not in line] == []


@pytest.mark.parametrize("kept", [False, True], ids=["all", "but the name"])
async def test_a_class_that_goes_another_way_is_let_go_there(
    pg_cluster: LocalCluster, kept: bool
) -> None:
    """Through a tunnel, for example, whose address was never one of the host's name."""
    node = pg_cluster.master
    connects = 0

    class Tunnelled(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            nonlocal connects
            connects += 1
            host = {} if kept else {"host": node.host}
            way = make_conninfo(conninfo, hostaddr=node.host, port=node.port, **host)
            return await super().connect(way, **kwargs)

    with NameServer() as nameserver:
        nameserver.set("db.test", "127.0.0.99")
        resolver = Resolver(nameservers=[nameserver.address], fallback=False)
        dsn = node.dsn.replace(f"127.0.0.1:{node.port}", "db.test:1")
        kwargs = {"connection_class": Tunnelled, "min_size": 1}
        async with PoolManager(
            dsn,
            resolver=resolver,
            refresh_timeout=30,  # a late answer must not count as a loss and cause a new connect
            pool_factory_kwargs=kwargs,
        ) as manager:
            await manager.ready(1, 0)
            asked = nameserver.count("db.test")
            await until(lambda: nameserver.count("db.test") > asked + 1)  # it is looked up again
            async with manager.acquire_master() as connection:
                assert await value(connection, "SELECT 1") == 1
            assert connects == 2  # the monitor's and the pool's
