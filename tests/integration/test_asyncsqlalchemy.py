"""The SQLAlchemy adapter over both of its drivers: how it differs from other adapters."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import psycopg
import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError, ResourceClosedError

from hasql import ConfigurationError, NotAvailableError
from hasql.asyncsqlalchemy import PoolManager
from hasql.cluster.dsn import Dsn
from testbed.proxy import Proxy
from testbed.scene import end_those, end_through, sessions, until, until_sessions
from tests.quiet_servers import play_to_one_that_answers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from hasql.testing import LocalCluster, LocalNode

pytestmark = [pytest.mark.usefixtures("nothing_unheard"), pytest.mark.loops_in_turn]

PID = text("SELECT pg_backend_pid()")
RAW = {"asyncpg": asyncpg.Connection, "psycopg": psycopg.AsyncConnection}


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def over(driver: str, dsn: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


@asynccontextmanager
async def behind_proxy(
    node: LocalNode, driver: str, size: int
) -> AsyncIterator[tuple[PoolManager, Proxy]]:
    """Yield a manager that reaches one server through a proxy and sends no probes meanwhile."""
    async with Proxy(node.host, node.port) as proxy:
        dsn = over(driver, node.dsn).replace(f":{node.port}", f":{proxy.port}")
        kwargs = {"pool_size": size, "max_overflow": 0}
        async with PoolManager(
            dsn, acquire_timeout=60, refresh_delay=30, pool_factory_kwargs=kwargs
        ) as manager:
            await manager.ready(1, 0)
            yield manager, proxy


@pytest.fixture
async def manager(pg_cluster: LocalCluster, driver: str) -> AsyncIterator[PoolManager]:
    dsn = over(driver, pg_cluster.dsn)
    kwargs = {"pool_size": 2, "max_overflow": 0}
    async with PoolManager(dsn, refresh_delay=0.2, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        yield manager


async def pid_of(connection: AsyncConnection) -> int:
    pid = await connection.scalar(PID)
    assert isinstance(pid, int)
    return pid


async def terminate(node: LocalNode, *pids: int) -> None:
    """End server processes, and wait until they are gone and the event loop has noticed."""
    for pid in pids:
        await end_those(node, f"pid = {pid}")


# The choice of the driver


async def test_the_dsn_says_what_is_used_beneath(pg_cluster: LocalCluster) -> None:
    for scheme, name in (
        ("postgresql", "asyncpg"),
        ("postgres", "asyncpg"),
        ("postgresql+asyncpg", "asyncpg"),
        ("postgresql+psycopg", "psycopg"),
    ):
        dsn = pg_cluster.dsn.replace("postgresql", scheme, 1)
        async with PoolManager(dsn) as manager, manager.acquire_master() as connection:
            assert connection.dialect.driver == name
            raw = await connection.get_raw_connection()
            assert isinstance(raw.driver_connection, RAW[name])


@pytest.mark.parametrize("driver", ["psycopg2", "pg8000", "psycopg_async"])
def test_another_driver_is_refused_by_the_names_of_those_there_are(driver: str) -> None:
    words = r"postgresql\+asyncpg:// or postgresql\+psycopg://"
    with pytest.raises(ConfigurationError, match=words):
        PoolManager(f"postgresql+{driver}://db1,db2/app")


# Arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pool_sise": 5}, "did you mean 'pool_size'"),
        ({"isolation_leval": "AUTOCOMMIT"}, "did you mean 'isolation_level'"),
        ({"pool_size": -1}, "'pool_size'] must be an int, 0 or more, not -1"),
        ({"max_overflow": -2}, "'max_overflow'] must be an int, -1 or more, not -2"),
        ({"max_overflow": True}, "must be an int"),
        ({"poolclass": object}, "'poolclass' cannot be given: hasql makes"),
        ({"async_creator": object}, "'async_creator' cannot be given: hasql makes"),
        ({"url": "postgresql://elsewhere/app"}, "'url' cannot be given: hasql makes"),
        ({"pool_reset_on_return": "nonsense"}, "nonsense"),
        ({"connect_args": 5}, "connect_args must be a dict, not int"),
        ({"connect_args": {"host": "elsewhere"}}, "connect_args.* 'host'"),
        ({"connect_args": {"nonsense": 1}}, "nonsense"),
        ({"connect_args": {"async_creator_fn": object}}, "async_creator_fn"),
    ],
)
def test_arguments_that_cannot_work_fail_at_once(
    driver: str, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PoolManager(f"postgresql+{driver}://db1,db2/app", pool_factory_kwargs=kwargs)


@pytest.mark.parametrize(
    ("kwargs", "most"),
    [
        ({}, 15),
        ({"pool_size": 2}, 12),
        ({"pool_size": 2, "max_overflow": 3}, 5),
        ({"pool_size": 0}, 262_143),
        ({"max_overflow": -1}, 262_143),
    ],
)
async def test_the_sizes_are_those_of_create_async_engine(
    pg_cluster: LocalCluster, driver: str, kwargs: dict[str, Any], most: int
) -> None:
    dsn = over(driver, pg_cluster.master.dsn)
    async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        (node,) = manager.metrics().nodes
        assert (node.pool_min, node.pool_max) == (0, most)
        leases = [await manager.acquire_master() for _ in range(min(most, 16))]
        for connection in leases:
            assert await connection.scalar(text("SELECT 1")) == 1
        for connection in leases:
            await manager.release(connection)


async def test_connect_args_reach_the_pools_connections_and_the_reserved_one(
    pg_cluster: LocalCluster, driver: str, application: str
) -> None:
    connect_args: dict[str, Any] = (
        {"server_settings": {"application_name": application}, "prepared_statement_cache_size": 0}
        if driver == "asyncpg"
        else {"application_name": application, "prepare_threshold": None}
    )
    dsn = over(driver, pg_cluster.master.dsn)
    async with (
        PoolManager(dsn, pool_factory_kwargs={"connect_args": connect_args}) as manager,
        manager.acquire_master(),
        manager.acquire_master(),
    ):
        assert await sessions(pg_cluster.master, application) == 2 + 1
    await until_sessions(pg_cluster.master, application, 0)


async def test_options_of_the_engine_are_at_work(pg_cluster: LocalCluster, driver: str) -> None:
    kwargs = {
        "isolation_level": "SERIALIZABLE",
        "json_deserializer": lambda _: "mine",
        "pool_pre_ping": True,
        "pool_use_lifo": True,
    }
    dsn = over(driver, pg_cluster.master.dsn)
    async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        for _ in range(2):
            async with manager.acquire_master() as connection:
                level = await connection.scalar(text("SHOW transaction_isolation"))
                assert level == "serializable"
                json = text("SELECT '{}'::json, '{}'::jsonb")
                assert (await connection.execute(json)).one() == ("mine", "mine")


async def test_the_engine_shows_its_host_and_no_password(manager: PoolManager) -> None:
    for pool in manager.pools:
        assert f"127.0.0.1:{pool.url.port}" == manager.host(pool)
        assert pool.url.database == "app"
        assert pool.url.password is None


async def test_a_password_that_has_to_be_encoded_and_a_directory_of_sockets(
    pg_cluster: LocalCluster, driver: str, application: str
) -> None:
    master = pg_cluster.master
    await master.sql("CREATE ROLE \"it's\" LOGIN PASSWORD 's:/?#[]@ %\u00e9'")
    loaded = await master.sql("SELECT pg_conf_load_time()")
    await master.sql(
        "DO $$ BEGIN EXECUTE format($c$COPY (SELECT 'local app all scram-sha-256') "
        "TO PROGRAM %L$c$, 'cat >> ' || current_setting('hba_file')); END $$"
    )
    await master.sql("SELECT pg_reload_conf()")
    async with asyncio.timeout(20):
        while await master.sql("SELECT pg_conf_load_time()") == loaded:
            await asyncio.sleep(0.01)
    directory = quote(await master.sql("SHOW unix_socket_directories"), safe="")
    user = "it%27s:s%3A%2F%3F%23%5B%5D%40%20%25%C3%A9"
    try:
        for place in (
            f"{user}@127.0.0.1:{master.port}/app?application_name={application}%20%26",
            f"{user}@/app?host={directory}&port={master.port}&application_name={application}%20%26",
        ):
            dsn = f"postgresql+{driver}://{place}"
            async with PoolManager(dsn) as manager, manager.acquire_master() as connection:
                row = await connection.execute(
                    text(
                        "SELECT current_user, current_setting('application_name'), "
                        "inet_server_addr() IS NULL"
                    )
                )
                assert row.one() == ("it's", f"{application} &", "host=" in place)
    finally:
        await master.sql('DROP ROLE "it\'s"')


# Dead connections


async def test_an_idle_connection_is_taken_without_a_pause(manager: PoolManager) -> None:
    async with manager.acquire_master():
        pass
    steps = manager.acquire_master().__await__()
    with pytest.raises(StopIteration) as taken:
        next(steps)
    await manager.release(taken.value.value)


@pytest.mark.parametrize("end", ["terminated", "dropped"])
async def test_connections_that_died_idle_cost_nobody_a_delay(
    pg_cluster: LocalCluster, driver: str, end: str
) -> None:
    async with behind_proxy(pg_cluster.master, driver, size=10) as (manager, proxy):
        leases = [await manager.acquire_master() for _ in range(10)]
        pids = [await pid_of(connection) for connection in leases]
        for connection in leases:
            await manager.release(connection)
        if end == "dropped":
            before = proxy.connections
            proxy.drop()
            # The reserved connection is lost with the others and is reopened at once.
            await until(lambda: proxy.connections > before)
        else:
            await end_through(proxy, pg_cluster.master, pids, left=1)
        for _ in range(20):
            async with asyncio.timeout(2), manager.acquire_master() as connection:
                assert await pid_of(connection) not in pids
        await until(lambda: manager.metrics().nodes[0].in_flight == 0)


async def test_one_lost_connection_leaves_the_others_of_its_pool_alone(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    async with manager.acquire_master() as lost, manager.acquire_master() as other:
        survivor = await pid_of(other)
        await terminate(pg_cluster.master, await pid_of(lost))
        with pytest.raises(DBAPIError) as caught:
            await lost.execute(PID)
        assert caught.value.connection_invalidated
    await manager.ready(1, 2)
    async with manager.acquire_master() as one, manager.acquire_master() as other:
        assert survivor in {await pid_of(one), await pid_of(other)}


async def test_a_place_without_a_connection_is_passed_over_for_an_idle_one(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    async with manager.acquire_master() as lost, manager.acquire_master() as other:
        sound = await pid_of(other)
        await terminate(pg_cluster.master, await pid_of(lost))
        with pytest.raises(DBAPIError):
            await lost.execute(PID)
    await manager.ready(1, 2)
    for _ in range(3):
        connection = await manager.acquire_master()
        assert await pid_of(connection) == sound
        await manager.release(connection)


async def test_a_connection_that_is_lost_as_soon_as_it_was_opened_is_no_error(
    pg_cluster: LocalCluster,
) -> None:
    lost = 0

    class Lost(asyncpg.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            nonlocal lost
            super().__init__(*args, **kwargs)
            if lost < 2:
                lost += 1
                asyncio.get_running_loop().call_soon(self.terminate)

    await acquire_with(Lost, pg_cluster)
    assert lost == 2


async def test_a_connection_that_is_lost_while_sqlalchemy_asks_who_serves_is_no_error(
    pg_cluster: LocalCluster,
) -> None:
    lost = 0

    class Lost(asyncpg.Connection):
        async def prepare(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal lost
            statement = await super().prepare(*args, **kwargs)
            if lost < 2:
                lost += 1
                self.terminate()
            return statement

    await acquire_with(Lost, pg_cluster)
    assert lost == 2


async def acquire_with(
    connection_class: type[asyncpg.Connection[asyncpg.Record]], pg_cluster: LocalCluster
) -> None:
    """Acquire a connection of this class from a pool of its own, and use it."""
    connect_args = {"connection_class": connection_class}
    kwargs = {"pool_size": 2, "max_overflow": 0, "connect_args": connect_args}
    dsn = over("asyncpg", pg_cluster.master.dsn)
    async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        async with manager.acquire_master(timeout=10) as connection:
            assert await connection.scalar(text("SELECT 1")) == 1


async def test_what_is_given_back_goes_to_who_has_one_opened_and_what_is_opened_to_the_next(
    pg_cluster: LocalCluster, driver: str
) -> None:
    await play_to_one_that_answers(
        lambda: behind_proxy(pg_cluster.master, driver, size=3), _hand_on
    )


async def _hand_on(manager: PoolManager, proxy: Proxy) -> None:
    first = await manager.acquire_master()
    pid = await pid_of(first)
    proxy.delay = 1.0
    before = proxy.connections
    waiting = asyncio.ensure_future(_acquire(manager))
    await until(lambda: proxy.connections == before + 1)
    await manager.release(first)
    second = await waiting
    assert await pid_of(second) == pid
    assert manager.metrics().nodes[0].pool_idle == 0
    # The connection that is still being opened has not got through the proxy yet.
    third = await manager.acquire_master()
    assert await pid_of(third) != pid
    assert proxy.connections == before + 1
    await manager.release(second)
    await manager.release(third)
    assert manager.metrics().nodes[0].pool_idle == 2
    # A connection is not forgotten either if its waiter has given up before it is open.
    leases = [await manager.acquire_master() for _ in range(2)]
    unneeded = asyncio.ensure_future(_acquire(manager))
    await until(lambda: proxy.connections == before + 2)
    unneeded.cancel()
    await asyncio.wait([unneeded])
    await until(lambda: manager.metrics().nodes[0].pool_idle == 1)
    leases.append(await manager.acquire_master())
    assert proxy.connections == before + 2
    for connection in leases:
        await manager.release(connection)


async def test_two_are_opened_at_a_time_but_those_that_are_stuck_hold_nobody_up(
    pg_cluster: LocalCluster, driver: str
) -> None:
    async with behind_proxy(pg_cluster.master, driver, size=6) as (manager, proxy):
        proxy.delay = 30
        before = proxy.connections
        acquires = [asyncio.ensure_future(_acquire(manager)) for _ in range(6)]
        await until(lambda: proxy.connections >= before + 2)
        assert proxy.connections == before + 2
        await until(lambda: proxy.connections == before + 6)
        assert not any(acquire.done() for acquire in acquires)
        for acquire in acquires:
            acquire.cancel()
        await asyncio.wait(acquires)


async def _acquire(manager: PoolManager) -> AsyncConnection:
    return await manager.acquire_master()


async def test_a_lease_does_not_go_on_with_another_connection(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    async with manager.acquire_master() as connection:
        await terminate(pg_cluster.master, await pid_of(connection))
        for _ in range(3):
            with pytest.raises(DBAPIError) as caught:
                await connection.execute(PID)
            assert caught.value.connection_invalidated
            assert manager.is_connection_closed(connection)
            await connection.rollback()
        with pytest.raises(DBAPIError, match="the connection was lost; acquire another one"):
            _ = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql("SELECT 1")
    await manager.ready(1, 2)
    async with manager.acquire_master() as one, manager.acquire_master() as other:
        assert await pid_of(one) != await pid_of(other)


async def test_what_the_engine_lends_directly_does_go_on(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    engine = await manager.get_pool(read_only=False)
    async with engine.connect() as connection:
        await terminate(pg_cluster.master, await pid_of(connection))
        with pytest.raises(DBAPIError):
            await connection.execute(PID)
        await connection.rollback()
        assert await connection.scalar(text("SELECT 1")) == 1


# Statement errors


async def test_a_read_only_error_evicts_though_the_application_catches_it(
    manager: PoolManager, pg_cluster: LocalCluster
) -> None:
    # The cause is not the application itself, but a default that may have been changed since.
    await pg_cluster.master.sql("ALTER ROLE app SET default_transaction_read_only = on")
    try:
        async with manager.acquire_master() as connection:
            pid = await pid_of(connection)
            with pytest.raises(DBAPIError) as caught:
                await connection.execute(text("CREATE TABLE never (i int)"))
            assert not caught.value.connection_invalidated
            await connection.rollback()
            assert await pid_of(connection) == pid
    finally:
        await pg_cluster.master.sql("ALTER ROLE app RESET default_transaction_read_only")
    async with manager.acquire_master() as one, manager.acquire_master() as other:
        assert pid not in {await pid_of(one), await pid_of(other)}


async def test_the_applications_own_errors_evict_nothing(manager: PoolManager) -> None:
    async with manager.acquire_master() as connection:
        pid = await pid_of(connection)
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT 1/0"))
    async with manager.acquire_replica() as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(text("CREATE TABLE never (i int)"))
        await connection.rollback()
        replica = await pid_of(connection)
    async with manager.acquire_master() as connection:
        assert await pid_of(connection) == pid
    pids = set()
    for _ in range(20):
        async with manager.acquire_replica() as connection:
            pids.add(await pid_of(connection))
    assert replica in pids


# What the application does with its connection


@pytest.mark.parametrize("way", ["close", "invalidate", "detach"])
async def test_a_connection_that_was_ended_within_its_lease_hurts_nobody_else(
    manager: PoolManager, way: str
) -> None:
    ended = await manager.acquire_master()
    pid = await pid_of(ended)
    if way == "close":
        await ended.close()
    elif way == "invalidate":
        await ended.invalidate()
    else:
        (await ended.get_raw_connection()).detach()
        assert await pid_of(ended) == pid
        await ended.commit()
    async with manager.acquire_master() as other:
        stranger = await pid_of(other)
        assert (stranger == pid) is (way == "close")
        assert manager.is_connection_closed(ended) is (way != "detach")
        await manager.release(ended)
        assert await pid_of(other) == stranger
        if way == "close":
            with pytest.raises(ResourceClosedError):
                await ended.execute(PID)
    async with manager.acquire_master() as one, manager.acquire_master() as other:
        assert await pid_of(one) != await pid_of(other)


async def test_an_abort_breaks_what_the_lease_holds_and_no_strangers_connection(
    manager: PoolManager,
) -> None:
    engine = await manager.get_pool(read_only=False)
    closed = await manager.acquire_master()
    pid = await pid_of(closed)
    await closed.close()
    stranger = await manager.acquire_master()
    assert await pid_of(stranger) == pid
    direct = await engine.connect()
    await manager.terminate()
    with pytest.raises(DBAPIError):
        await stranger.execute(PID)
    with pytest.raises(DBAPIError):
        await direct.execute(PID)
    await manager.release(closed)
    await manager.release(stranger)
    await direct.close()


async def test_a_listener_of_the_applications_own_that_fails_leaks_nothing(
    manager: PoolManager,
) -> None:
    engine = await manager.get_pool(read_only=False)

    def fail(*_: object) -> None:
        raise LookupError("mine")

    event.listen(engine.sync_engine, "checkout", fail)
    for _ in range(5):
        with pytest.raises(LookupError, match="mine"):
            _ = await manager.acquire_master()
    event.remove(engine.sync_engine, "checkout", fail)
    async with manager.acquire_master() as one, manager.acquire_master() as other:
        assert await pid_of(one) != await pid_of(other)


async def test_a_statement_of_another_task_does_not_go_back_with_its_connection(
    pg_cluster: LocalCluster, driver: str
) -> None:
    kwargs = {"isolation_level": "AUTOCOMMIT", "pool_size": 1, "max_overflow": 0}
    async with PoolManager(
        over(driver, pg_cluster.master.dsn), pool_factory_kwargs=kwargs
    ) as manager:
        async with manager.acquire_master() as connection:
            pid = await pid_of(connection)
            other = asyncio.ensure_future(connection.execute(text("SELECT pg_sleep(60)")))
            await until_active(pg_cluster.master, pid)
        async with asyncio.timeout(2):
            with pytest.raises(DBAPIError):
                await other
        async with manager.acquire_master(timeout=5) as connection:
            assert await pid_of(connection) != pid
        await terminate(pg_cluster.master, pid)


async def until_active(node: LocalNode, pid: int) -> None:
    async with asyncio.timeout(5):
        state = f"SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}"  # noqa: S608  # a number
        while await node.sql(state) != "PgSleep":
            await asyncio.sleep(0.01)


async def test_a_statement_that_hangs_on_a_frozen_host_is_broken_off(
    pg_cluster: LocalCluster, driver: str
) -> None:
    master = pg_cluster.master
    async with PoolManager(
        over(driver, master.dsn), refresh_delay=0.1, refresh_timeout=0.3, lease_abort_after=0.5
    ) as manager:
        connection = await manager.acquire_master()
        await connection.scalar(PID)
        master.freeze()
        async with asyncio.timeout(10):
            with pytest.raises(DBAPIError):
                await connection.execute(PID)
            await manager.release(connection)
        master.thaw()
        await manager.ready(1, 0)
        async with manager.acquire_master() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1


async def test_an_acquire_that_pings_a_frozen_host_ends_at_its_deadline(
    pg_cluster: LocalCluster, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    master = pg_cluster.master
    kwargs = {"pool_size": 1, "max_overflow": 0, "pool_pre_ping": True}
    async with PoolManager(
        over(driver, master.dsn), refresh_delay=30, refresh_timeout=30, pool_factory_kwargs=kwargs
    ) as manager:
        async with manager.acquire_master() as connection:
            await connection.scalar(PID)
        master.freeze()
        began = monotonic()
        with pytest.raises(NotAvailableError):
            _ = await manager.acquire_master(timeout=0.05)
        assert monotonic() - began < 5  # a probe would wait for 30 s
        master.thaw()
        async with asyncio.timeout(5), manager.acquire_master(timeout=5) as connection:
            await connection.scalar(PID)
    assert [x.getMessage() for x in caplog.records if x.name != "hasql"] == []


# What is not installed


@pytest.mark.parametrize(
    ("absent", "dsn", "words"),
    [
        ("greenlet", None, "pip install 'hasql[sqlalchemy]'"),
        ("asyncpg", "postgresql://db1/app", "asyncpg: pip install 'hasql[sqlalchemy,asyncpg]'"),
        (
            "psycopg",
            "postgresql+psycopg://db1/app",
            "psycopg: pip install 'hasql[sqlalchemy,psycopg]'",
        ),
    ],
)
def test_what_is_missing_is_named_before_anything_connects(
    absent: str, dsn: str | None, words: str
) -> None:
    program = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from hasql.errors import MissingExtraError
try:
    from hasql.asyncsqlalchemy import PoolManager
    PoolManager("postgresql+psycopg://db1/app" if {absent!r} == "asyncpg" else "postgresql://db1")
    PoolManager({dsn!r})
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert words in done.stdout, done.stderr


# The reserved connection


@pytest.mark.parametrize("makes", [False, True], ids=["arguments", "connections"])
async def test_a_listener_to_do_connect_brings_the_password_of_all_logins(
    pg_cluster: LocalCluster, driver: str, application: str, makes: bool
) -> None:
    password = Dsn.parse(pg_cluster.dsn).password

    def bring(dialect: Any, _: object, positional: list[Any], arguments: dict[str, Any]) -> Any:
        arguments["password"] = password
        return dialect.connect(*positional, **arguments) if makes else None

    dsn = over(driver, pg_cluster.dsn).replace("@", "wrong@", 1)
    dsn += f"?application_name={application}"
    event.listen(Engine, "do_connect", bring)
    try:
        async with PoolManager(dsn, refresh_delay=0.1) as manager:
            await manager.ready(1, 2)
            roles = [(node.role.value, node.fencing) for node in manager.metrics().nodes]
            assert sorted(roles) == [("master", True), ("replica", True), ("replica", True)]
            async with manager.acquire_master(timeout=5) as connection:
                assert await connection.scalar(text("SELECT 1")) == 1
            await manager.wait_next_pool_check()
            assert await sessions(pg_cluster.master, application) == 2
    finally:
        event.remove(Engine, "do_connect", bring)
