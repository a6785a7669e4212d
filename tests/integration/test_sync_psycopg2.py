"""What is particular to psycopg2 in SQLAlchemy's queue pool."""

from __future__ import annotations

import asyncio
import logging
import select
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import extensions
from sqlalchemy import event
from sqlalchemy.pool import QueuePool

from hasql import ConfigurationError, NotAvailableError
from hasql.cluster.dsn import Dsn
from hasql.sync.psycopg2 import PoolManager
from hasql.testing import LocalCluster
from testbed.proxy import Proxy
from testbed.scene import (
    Table,
    end_through,
    fail_over,
    sessions,
    until,
    until_asleep,
    until_sessions,
)
from tests.quiet_servers import play_to_one_that_answers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from hasql.testing import LocalNode

DSN = "postgresql://db1,db2/app"

in_thread = asyncio.to_thread


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: the managers have one of their own."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
def manager(pg_cluster: LocalCluster, application: str) -> Iterator[PoolManager]:
    with PoolManager(
        f"{pg_cluster.dsn}?application_name={application}",
        refresh_delay=0.2,
        refresh_timeout=0.5,
        pool_factory_kwargs={"pool_size": 1, "max_overflow": 1},
    ) as manager:
        manager.ready(1, 2)
        yield manager


@pytest.fixture
def table(pg_cluster: LocalCluster) -> Table:
    name = f"t_{uuid4().hex}"
    asyncio.run(pg_cluster.master.sql(f"CREATE TABLE {name} (i int); GRANT ALL ON {name} TO app"))
    return Table(name)


@asynccontextmanager
async def behind_proxy(
    node: LocalNode, most: int, **kwargs: Any
) -> AsyncIterator[tuple[PoolManager, Proxy]]:
    """Yield a manager that reaches one server through a proxy, and the proxy; probes are rare."""
    async with Proxy(node.host, node.port) as proxy:
        kwargs |= {"pool_size": most, "max_overflow": 0}
        manager = PoolManager(
            node.dsn.replace(f":{node.port}", f":{proxy.port}"),
            acquire_timeout=60,
            refresh_delay=30,
            refresh_timeout=30,
            pool_factory_kwargs=kwargs,
        )
        try:
            await in_thread(manager.ready, 1, 0)
            yield manager, proxy
        finally:
            proxy.forward()
            await in_thread(manager.terminate)


def value(connection: extensions.connection, query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
        assert row is not None
        return row[0]


def check(connection: extensions.connection) -> None:
    """Use a connection and end the transaction, so that giving it back waits for nothing."""
    assert value(connection, "SELECT 1") == 1
    connection.rollback()


def pid_of(connection: extensions.connection) -> int:
    return connection.get_backend_pid()


def master(manager: PoolManager, timeout: float | None = None) -> extensions.connection:
    return manager.getconn(timeout=timeout)


# What is handed out


def test_the_connection_is_psycopg2s_own(manager: PoolManager) -> None:
    with manager.acquire_master() as connection:
        assert isinstance(connection, extensions.connection)
        assert isinstance(manager.get_pool(read_only=False), QueuePool)
        assert value(connection, "SELECT 1") == 1


def test_a_class_and_cursors_of_the_applications_own(pg_cluster: LocalCluster) -> None:
    class Mine(extensions.connection):
        pass

    def make(dsn: str, *args: Any, **kwargs: Any) -> Mine:
        return Mine(dsn, *args, **kwargs)

    for kwargs, of_class in (
        ({"connection_factory": Mine}, Mine),
        ({"connection_factory": make}, Mine),
        ({"cursor_factory": psycopg2.extras.RealDictCursor}, extensions.connection),
        ({"connection_factory": psycopg2.extras.DictConnection}, psycopg2.extras.DictConnection),
    ):
        with (
            PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager,
            manager.acquire_master() as connection,
        ):
            assert isinstance(connection, of_class)
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 AS one")
                row: Any = cursor.fetchone()
                if "cursor_factory" in kwargs:
                    assert row == {"one": 1}
                else:
                    assert row[0] == 1


def test_a_connection_that_logs_serves_a_master_that_was_a_replica(
    pg_cluster: LocalCluster,
) -> None:
    # hasql asks such a connection where it leads, at a time when its class cannot make a cursor.
    kwargs = {"connection_factory": psycopg2.extras.LoggingConnection, "pool_size": 1}
    with PoolManager(
        pg_cluster.dsn, acquire_timeout=10, refresh_delay=0.1, pool_factory_kwargs=kwargs
    ) as manager:
        manager.ready(1, 2)
        for _ in range(10):
            with manager.acquire_replica():
                pass  # each replica gets a connection while it is a replica
        _, new = asyncio.run(fail_over(pg_cluster))
        with manager.acquire_master() as connection:
            assert isinstance(connection, psycopg2.extras.LoggingConnection)
            connection.initialize(logging.getLogger("test"))
            assert value(connection, "SELECT inet_server_port()") == new.port


def test_extras_work_on_a_lease(manager: PoolManager) -> None:
    with manager.acquire_master() as connection:
        psycopg2.extras.register_json(connection, loads=lambda _: "mine")
        assert value(connection, "SELECT '{}'::json") == "mine"
        with connection.cursor("named") as cursor:
            cursor.itersize = 10
            cursor.execute("SELECT generate_series(1, 100)")
            assert [row[0] for row in cursor] == list(range(1, 101))
        connection.commit()
        with connection.cursor() as cursor:
            psycopg2.extras.execute_values(
                cursor, "CREATE TEMP TABLE pairs AS VALUES %s", [(1, 2), (3, 4)]
            )
            cursor.execute("SELECT count(*) FROM pairs")
            assert cursor.fetchone() == (2,)


def test_notifications_are_heard(manager: PoolManager) -> None:
    with manager.acquire_master() as connection, manager.acquire_master() as other:
        connection.autocommit = other.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("LISTEN bell")
        with other.cursor() as cursor:
            cursor.execute("NOTIFY bell, 'ding'")
        assert select.select([connection], [], [], 10) == ([connection], [], [])
        connection.poll()
        assert [notify.payload for notify in connection.notifies] == ["ding"]


# What is left open


def test_what_was_not_committed_is_rolled_back(
    manager: PoolManager, pg_cluster: LocalCluster, table: Table
) -> None:
    with manager.acquire_master() as connection:
        pid = pid_of(connection)
        connection.cursor().execute(table.insert(1))
    with manager.acquire_master() as connection:
        assert pid_of(connection) == pid
        assert connection.status == extensions.STATUS_READY
        connection.cursor().execute(table.insert(2))
        connection.commit()
    assert asyncio.run(pg_cluster.master.sql(table.rows)) == "2"


def test_a_transaction_that_was_begun_by_hand_is_rolled_back(
    manager: PoolManager, pg_cluster: LocalCluster, table: Table
) -> None:
    with manager.acquire_master() as connection:
        pid = pid_of(connection)
        connection.autocommit = True
        connection.cursor().execute(f"BEGIN; {table.insert(1)}")
    with manager.acquire_master() as connection:
        assert pid_of(connection) == pid
        # The session is otherwise as it was left.
        assert connection.autocommit
        assert connection.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
    assert asyncio.run(pg_cluster.master.sql(table.count)) == "0"


@pytest.mark.parametrize("way", [None, "commit"])
def test_a_pool_that_does_not_roll_back_lends_no_open_transaction(
    pg_cluster: LocalCluster, table: Table, way: str | None
) -> None:
    kwargs = {"pool_size": 1, "max_overflow": 0, "reset_on_return": way}
    with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        with manager.acquire_master() as connection:
            connection.cursor().execute(table.insert(1))
        with manager.acquire_master() as connection:
            assert connection.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
    committed = asyncio.run(pg_cluster.master.sql(table.count))
    assert committed == ("1" if way == "commit" else "0")


def test_a_prepared_transaction_is_left_to_who_commits_it() -> None:
    with (
        LocalCluster(replicas=0, settings={"max_prepared_transactions": "4"}) as cluster,
        PoolManager(cluster.dsn, pool_factory_kwargs={"pool_size": 1}) as manager,
    ):
        for prepared in (True, False):
            with manager.acquire_master() as connection:
                pid = pid_of(connection)
                xid = connection.xid(1, "hasql", str(prepared))
                connection.tpc_begin(xid)
                connection.cursor().execute(f"CREATE TABLE two_{prepared} (i int)")
                if prepared:
                    connection.tpc_prepare()
            with manager.acquire_master() as connection:
                assert pid_of(connection) != pid
                assert [each.bqual for each in connection.tpc_recover()] == ["True"]
                connection.rollback()
        with manager.acquire_master() as connection:
            (xid,) = connection.tpc_recover()
            connection.rollback()
            connection.tpc_commit(xid)
        with manager.acquire_master() as connection:
            assert value(connection, "SELECT count(*) FROM two_true") == 0


def test_a_statement_of_another_thread_does_not_go_back_with_its_connection(
    manager: PoolManager, pg_cluster: LocalCluster, application: str
) -> None:
    with ThreadPoolExecutor(1) as threads:
        with manager.acquire_master() as connection:
            pid = pid_of(connection)
            other = threads.submit(value, connection, "SELECT pg_sleep(60)")
            asyncio.run(until_asleep(pg_cluster.master, application, 1))
        with pytest.raises(psycopg2.Error):
            other.result(5)
    with manager.acquire_master(timeout=5) as one, manager.acquire_master(timeout=5) as two:
        assert pid not in {pid_of(one), pid_of(two)}
    asyncio.run(pg_cluster.master.sql(f"SELECT pg_terminate_backend({pid}, 5000)"))


@pytest.mark.parametrize("way", ["close", "cancel"])
def test_what_the_application_ends_costs_no_place(manager: PoolManager, way: str) -> None:
    for _ in range(3):
        with manager.acquire_master(timeout=5) as connection:
            if way == "close":
                connection.close()
            else:
                connection.cancel()
    with manager.acquire_master(timeout=5) as one, manager.acquire_master(timeout=5) as two:
        assert pid_of(one) != pid_of(two)


# Arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pool_sise": 5}, "did you mean 'pool_size'"),
        ({"pasword": "x"}, "did you mean 'password'"),
        ({"pool_size": -1}, "'pool_size'] must be an int, 0 or more, not -1"),
        ({"max_overflow": -2}, "'max_overflow'] must be an int, -1 or more, not -2"),
        ({"timeout": 5}, "'timeout': an acquire waits for acquire_timeout"),
        ({"creator": object}, "'creator': hasql opens the connections"),
        ({"host": "db3"}, "'host': name the hosts in the DSN"),
        ({"dsn": "host=db3"}, "'dsn': the DSN is the pool manager's first argument"),
        ({"async_": True}, "'async_': its connections are for threads"),
        ({"reset_on_return": "nonsense"}, "nonsense"),
        ({"events": [(print, "nonsense")]}, "nonsense"),
        ({"cursor_factory": "RealDictCursor"}, "'cursor_factory'] must be a class"),
        ({"recycle": "1h"}, "'recycle'] must be a number"),
    ],
)
def test_arguments_that_cannot_work_fail_at_once(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PoolManager(DSN, pool_factory_kwargs=kwargs)


@pytest.mark.parametrize(
    ("kwargs", "most"),
    [({}, 15), ({"pool_size": 2, "max_overflow": 3}, 5), ({"pool_size": 0}, 262_143)],
)
def test_the_sizes_are_the_queue_pools(
    pg_cluster: LocalCluster, kwargs: dict[str, Any], most: int
) -> None:
    with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        manager.ready(1, 0)
        (node,) = manager.metrics().nodes
        assert (node.pool_min, node.pool_max) == (0, most)
        leases = [master(manager) for _ in range(min(most, 16))]
        for connection in leases:
            manager.putconn(connection)


def test_what_is_for_the_login_reaches_the_probes_as_well(
    pg_cluster: LocalCluster, application: str
) -> None:
    parsed = Dsn.parse(pg_cluster.master.dsn)
    dsn = pg_cluster.master.dsn.replace(f"{parsed.user}:{parsed.password}@", "nobody@", 1)
    dsn = dsn.replace("/app", "/nowhere", 1)
    kwargs = {
        "user": parsed.user,
        "password": parsed.password,
        "database": parsed.dbname,
        "application_name": application,
        "pool_size": 2,
        "echo": False,
        "logging_name": "mine",
    }
    with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        with manager.acquire_master():
            assert asyncio.run(sessions(pg_cluster.master, application)) == 1 + 1
        assert parsed.password
        assert parsed.password not in f"{manager!r} {manager.metrics()} {manager.pools}"
    asyncio.run(until_sessions(pg_cluster.master, application, 0))


def test_libpq_is_given_what_ends_a_connection_that_hangs(manager: PoolManager) -> None:
    with manager.acquire_master() as connection:
        given = connection.get_dsn_parameters()
        assert (given["tcp_user_timeout"], given["keepalives_idle"]) == ("10000", "5")
        assert given["connect_timeout"] == "10"


def test_a_wait_callback_of_the_applications_own_goes_on_working(pg_cluster: LocalCluster) -> None:
    program = f"""
import psycopg2.extensions, psycopg2.extras
from hasql.sync.psycopg2 import PoolManager

waits = []
def wait(connection):
    waits.append(connection)
    psycopg2.extras.wait_select(connection)

psycopg2.extensions.set_wait_callback(wait)
with PoolManager({pg_cluster.dsn!r}) as manager:
    for _ in range(3):
        with manager.acquire_master() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
print(len(set(map(id, waits))))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


# Connections that are dead, or not there yet


@pytest.mark.parametrize("pre_ping", [False, True])
async def test_a_connection_that_died_idle_costs_nobody_a_delay(
    pg_cluster: LocalCluster, pre_ping: bool
) -> None:
    async with behind_proxy(pg_cluster.master, 5, pre_ping=pre_ping) as (manager, proxy):
        leases = [await in_thread(master, manager) for _ in range(5)]
        pids = [pid_of(connection) for connection in leases]
        for connection in leases:
            manager.putconn(connection)
        await end_through(proxy, pg_cluster.master, [pids[1]], left=5)
        before = proxy.connections
        again = [await in_thread(master, manager, 5) for _ in range(4)]
        if not pre_ping:  # after a failed ping SQLAlchemy replaces all older ones
            assert {pid_of(connection) for connection in again} == {*pids} - {pids[1]}
            assert proxy.connections == before
        again.append(await in_thread(master, manager, 5))
        assert len({*map(pid_of, again)}) == 5
        assert proxy.connections == before + (4 if pre_ping else 1)
        for connection in again:
            manager.putconn(connection)
        await end_through(proxy, pg_cluster.master, map(pid_of, again), left=1)
        for _ in range(6):
            connection = await in_thread(master, manager, 5)
            await in_thread(check, connection)
            manager.putconn(connection)


async def test_what_is_given_back_goes_to_who_has_one_opened_and_what_is_opened_to_the_next(
    pg_cluster: LocalCluster,
) -> None:
    await play_to_one_that_answers(lambda: behind_proxy(pg_cluster.master, 3), _hand_on)


async def _hand_on(manager: PoolManager, proxy: Proxy) -> None:
    first = await in_thread(master, manager)
    pid = pid_of(first)
    proxy.delay = 1.0
    before = proxy.connections
    waiting = asyncio.ensure_future(in_thread(master, manager))
    await until(lambda: proxy.connections == before + 1)
    manager.putconn(first)
    second = await asyncio.wait_for(waiting, 0.9)
    assert pid_of(second) == pid
    # The connect that is under way is not forgotten, although another acquire begins one, too.
    third = await in_thread(master, manager)
    assert pid_of(third) != pid
    await until(lambda: manager.metrics().nodes[0].pool_idle == 1)
    opened = proxy.connections
    fourth = await in_thread(master, manager)
    assert proxy.connections == opened
    assert len({pid_of(connection) for connection in (second, third, fourth)}) == 3
    for connection in (second, third, fourth):
        manager.putconn(connection)


def test_what_is_given_back_to_be_closed_is_closed_as_by_psycopg2s_own_pools(
    pg_cluster: LocalCluster,
) -> None:
    kwargs = {"pool_size": 1, "max_overflow": 0}
    with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        manager.ready(1, 0)
        pids = []
        for close in (False, True, True, False):
            connection = manager.getconn(timeout=5)
            pids.append(pid_of(connection))
            manager.putconn(connection, close=close)
            assert bool(connection.closed) is close
        assert pids[0] == pids[1]
        assert len(set(pids)) == 3
        with manager.acquire_master(timeout=5) as connection:
            manager.putconn(connection, close=True)  # within its own block


async def test_an_acquire_ends_at_its_deadline_while_its_connect_hangs(
    pg_cluster: LocalCluster,
) -> None:
    async with behind_proxy(pg_cluster.master, 2) as (manager, proxy):
        proxy.black_hole()
        began = monotonic()
        with pytest.raises(NotAvailableError):
            await in_thread(master, manager, 0.2)
        assert monotonic() - began < 5, "a connect has no limit"
        # The next acquire gets the connection that this one has begun to open.
        waiting = asyncio.ensure_future(in_thread(master, manager, 10))
        await asyncio.sleep(0)
        proxy.forward()
        connection = await waiting
        await in_thread(check, connection)
        manager.putconn(connection)


async def test_a_purge_ends_the_waits_and_what_connects_then_is_not_kept(
    pg_cluster: LocalCluster, application: str
) -> None:
    async with behind_proxy(pg_cluster.master, 2, application_name=application) as (
        manager,
        proxy,
    ):
        proxy.delay = 0.5
        before = proxy.connections
        waiting = asyncio.ensure_future(in_thread(master, manager, 10))
        await until(lambda: proxy.connections == before + 1)
        await in_thread(manager.terminate)
        with pytest.raises(Exception, match=r"closed|no connection"):
            await asyncio.wait_for(waiting, 0.4)
        await until(lambda: not any(x.name == "hasql connect" for x in threading.enumerate()))
        await until_sessions(pg_cluster.master, application, 0)


def test_a_connect_that_hangs_does_not_keep_the_program_alive(pg_cluster: LocalCluster) -> None:
    node = pg_cluster.master
    program = f"""
import asyncio, sys
from hasql import NotAvailableError
from hasql.sync.psycopg2 import PoolManager

manager = PoolManager({node.dsn!r}, refresh_delay=30, refresh_timeout=30)
manager.ready(1, 0)
print(1, flush=True)
sys.stdin.readline()
try:
    manager.getconn(timeout=0.2)
except NotAvailableError:
    print(2, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "1\n"
            node.freeze()
            began = monotonic()
            out, error = child.communicate("\n", timeout=20)
            assert (out, error, child.returncode) == ("2\n", "", 0)
            assert monotonic() - began < 5
        finally:
            child.kill()
            node.thaw()


# Listeners


def of_pool(**kwargs: Any) -> dict[str, Any]:
    return {"pool_size": 1, "max_overflow": 0, **kwargs}


def test_an_acquire_that_pings_a_frozen_host_ends_at_its_deadline(
    pg_cluster: LocalCluster,
) -> None:
    node = pg_cluster.master
    with PoolManager(
        node.dsn, refresh_delay=30, refresh_timeout=30, pool_factory_kwargs=of_pool(pre_ping=True)
    ) as manager:
        with manager.acquire_master():
            pass
        node.freeze()
        try:
            began = monotonic()
            with pytest.raises(NotAvailableError):
                master(manager, 0.1)
            assert monotonic() - began < 5, "a ping has no limit"
        finally:
            node.thaw()
        with manager.acquire_master(timeout=5) as connection:
            assert value(connection, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["connect", "checkout"])
def test_a_listener_that_waits_for_the_server_is_broken_off_at_the_deadline(
    pg_cluster: LocalCluster, name: str
) -> None:
    sleeps = threading.Event()

    def sleep(raw: extensions.connection, *_: object) -> None:
        if sleeps.is_set():
            raw.cursor().execute("SELECT pg_sleep(60)")

    kwargs = of_pool(events=[(sleep, name)])
    with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        manager.ready(1, 0)
        if name == "checkout":
            with manager.acquire_master():
                pass
        sleeps.set()
        began = monotonic()
        with pytest.raises(NotAvailableError):
            master(manager, 0.3)
        assert monotonic() - began < 5, "it sleeps for a minute"
        sleeps.clear()
        with manager.acquire_master(timeout=5) as connection:
            assert value(connection, "SELECT 1") == 1


def test_a_listener_that_fails_leaks_nothing(manager: PoolManager) -> None:
    pool = manager.get_pool(read_only=False)

    def fail(*_: object) -> None:
        raise LookupError("mine")

    for name in ("connect", "checkout"):
        event.listen(pool, name, fail)
        for _ in range(3):
            with pytest.raises(LookupError, match="mine"):
                master(manager)
        event.remove(pool, name, fail)
    with manager.acquire_master(timeout=5) as one, manager.acquire_master(timeout=5) as two:
        assert pid_of(one) != pid_of(two)


def test_a_listener_runs_in_the_thread_that_acquires(pg_cluster: LocalCluster) -> None:
    ran: list[tuple[str, int]] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.append((name, threading.get_ident()))

    kwargs = of_pool(events=[(note(name), name) for name in ("connect", "checkout", "checkin")])
    with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        manager.ready(1, 0)
        ran.clear()
        with manager.acquire_master():
            pass
        me = threading.get_ident()
        assert [each for each in ran if each[1] == me][-2:] == [("checkout", me), ("checkin", me)]


# The pool itself


def test_the_pool_can_be_used_directly(manager: PoolManager) -> None:
    pool = manager.get_pool(read_only=False)
    direct = pool.connect()
    raw = direct.driver_connection
    assert isinstance(raw, extensions.connection)
    assert value(raw, "SELECT 1") == 1
    with manager.acquire_master() as connection:
        assert pid_of(connection) != pid_of(raw)
        with pytest.raises(NotAvailableError):
            master(manager, 0.2)  # both are taken
    manager.register_connection(raw, pool)
    manager.putconn(raw)
    assert raw.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
    direct.close()
    with manager.acquire_from_pool(pool) as one, manager.acquire_from_pool(pool) as two:
        assert pid_of(one) != pid_of(two)


def test_a_connection_that_is_too_old_is_replaced(pg_cluster: LocalCluster) -> None:
    kwargs = of_pool(recycle=0.2)
    with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        with manager.acquire_master() as connection:
            pid = pid_of(connection)
        began = monotonic()
        while monotonic() - began < 10:
            with manager.acquire_master(timeout=5) as connection:
                if pid_of(connection) != pid:
                    break
        assert 0.1 < monotonic() - began < 5
        (node,) = manager.metrics().nodes
        assert node.pool_idle == 1
