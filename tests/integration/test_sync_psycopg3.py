"""`hasql.sync.psycopg3`: an application uses the connections and pools of psycopg itself."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from time import monotonic, sleep
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import psycopg
import psycopg_pool
import pytest
from psycopg.adapt import AdaptersMap
from psycopg.rows import dict_row
from psycopg.types.string import StrDumper
from psycopg_pool.pool import WaitingClient

from hasql._adapters.psycopg.thread_connects import ThreadConnects
from hasql._adapters.psycopg.thread_slots import IdleConnections
from hasql.cluster.dsn import Dsn
from hasql.cluster.probe import Role
from hasql.driver.time_left import TimeLeft
from hasql.errors import ConfigurationError, UnknownConnectionError
from hasql.sync.psycopg3 import PoolManager
from testbed.scene import Table, in_flight
from tests.unit.test_thread_faults import interrupted_at
from tests.unit.test_thread_manager import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from psycopg.abc import PQGen

    from hasql.testing import LocalCluster


@contextmanager
def opened(cluster: LocalCluster, dsn: str | None = None, **kwargs: Any) -> Iterator[PoolManager]:
    """Open a manager of all nodes."""
    kwargs = {"min_size": 1, "max_size": 2, **kwargs}
    with PoolManager(dsn or cluster.dsn, pool_factory_kwargs=kwargs) as manager:
        manager.ready(1, 2)
        yield manager


@pytest.fixture
def pool(pg_cluster: LocalCluster) -> Iterator[PoolManager]:
    """A manager of all nodes, with two connections on each."""
    with opened(pg_cluster) as manager:
        yield manager


@pytest.fixture
def numbers(pool: PoolManager) -> Table:
    """An empty table."""
    made = Table(f"t_{uuid4().hex}")
    with pool.acquire_master() as connection:
        connection.execute(f"CREATE TABLE {made.name} (i int)")
    return made


def rows(pool: PoolManager, table: Table) -> int:
    """Count what is committed."""
    with pool.acquire_master() as connection:
        row = connection.execute(table.count).fetchone()
        assert row is not None
        count: int = row[0]
        return count


def insert(connection: psycopg.Connection[Any], table: Table) -> None:
    connection.execute(table.insert(1))


# The end of a lease


def test_a_block_commits(pool: PoolManager, numbers: Table) -> None:
    with pool.acquire_master() as connection:
        assert isinstance(connection, psycopg.Connection)
        insert(connection, numbers)
    assert rows(pool, numbers) == 1


def test_a_block_that_raises_rolls_back(pool: PoolManager, numbers: Table) -> None:
    with pytest.raises(KeyError), pool.acquire_master() as connection:
        insert(connection, numbers)
        raise KeyError
    assert rows(pool, numbers) == 0


def test_what_is_given_back_is_rolled_back(pool: PoolManager, numbers: Table) -> None:
    connection = pool.getconn()
    insert(connection, numbers)
    pool.putconn(connection)
    assert rows(pool, numbers) == 0


def test_a_connection_is_given_back_once(pool: PoolManager) -> None:
    connection = pool.getconn()
    pool.putconn(connection)
    with pytest.raises(UnknownConnectionError, match="released already"):
        pool.putconn(connection)


def test_a_thread_may_give_back_for_another(pool: PoolManager) -> None:
    connection = pool.getconn()
    thread = threading.Thread(target=pool.putconn, args=(connection,))
    thread.start()
    thread.join(10)
    assert in_flight(pool) == 0


def test_a_connection_that_was_closed_loses_no_place(pool: PoolManager) -> None:
    for _ in range(5):
        with pool.acquire_master() as connection:
            connection.close()
    leases = [pool.getconn() for _ in range(2)]
    for connection in leases:
        connection.execute("SELECT 1")
        pool.putconn(connection)


# What psycopg can do


def test_a_pipeline(pool: PoolManager) -> None:
    with pool.acquire_master() as connection:
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(5)]
        assert [cursor.fetchall() for cursor in cursors] == [[(number,)] for number in range(5)]


def test_a_server_side_cursor(pool: PoolManager) -> None:
    with pool.acquire_replica() as connection, connection.cursor("named") as cursor:
        cursor.execute("SELECT generate_series(1, 100)")
        cursor.itersize = 7
        assert [number for (number,) in cursor] == list(range(1, 101))


def test_a_copy(pool: PoolManager, numbers: Table) -> None:
    with pool.acquire_master() as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY {numbers.name} FROM STDIN") as copy:
            for number in range(100):
                copy.write_row((number,))
        with cursor.copy(f"COPY {numbers.name} TO STDOUT") as copy:
            assert len(list(copy.rows())) == 100
    assert rows(pool, numbers) == 100


def test_notifications(pg_cluster: LocalCluster) -> None:
    with opened(pg_cluster, kwargs={"autocommit": True}) as pool:
        with pool.acquire_master() as listener, pool.acquire_master() as speaker:
            listener.execute("LISTEN news")
            speaker.execute("NOTIFY news, 'all is well'")
            heard = next(listener.notifies(timeout=10))
            listener.execute("UNLISTEN news")
        assert heard.payload == "all is well"


def test_prepared_statements_outlive_a_lease(pg_cluster: LocalCluster) -> None:
    with opened(pg_cluster, max_size=1) as pool:
        for _ in range(10):
            with pool.acquire_master() as connection:
                connection.execute("SELECT %s::int + 1", (1,))
        with pool.acquire_master() as connection:
            row = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
        assert row == (1,)


# The arguments of the pool


class Shouting(StrDumper):
    def dump(self, obj: str) -> Any:
        return super().dump(obj.upper())


class _Context:
    def __init__(self) -> None:
        self.adapters = AdaptersMap(psycopg.adapters)
        self.adapters.register_dumper(str, Shouting)
        self.connection = None


def test_the_arguments_of_connections(pg_cluster: LocalCluster) -> None:
    class Mine(psycopg.Cursor[Any]):
        pass

    given = {
        "autocommit": True,
        "prepare_threshold": 3,
        "row_factory": dict_row,
        "cursor_factory": Mine,
        "context": _Context(),
        "application_name": "its own",
    }
    for kwargs in (given, lambda: given):
        with opened(pg_cluster, kwargs=kwargs) as pool, pool.acquire_master() as connection:
            assert connection.autocommit
            assert connection.prepare_threshold == 3
            cursor = connection.execute(
                "SELECT %s AS word, current_setting('application_name') AS name", ("quiet",)
            )
            assert isinstance(cursor, Mine)
            assert cursor.fetchone() == {"word": "QUIET", "name": "its own"}


class WithPassword(psycopg.Connection[Any]):
    """Adds the password to each login."""

    passwords: list[str]
    made = 0

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        WithPassword.made += 1
        return super().connect(conninfo, **{**kwargs, "password": cls.passwords[0]})


def test_a_class_of_the_applications_makes_each_connection(pg_cluster: LocalCluster) -> None:
    parsed = Dsn.parse(pg_cluster.dsn)
    assert parsed.password is not None
    WithPassword.passwords, WithPassword.made = [parsed.password], 0
    without = pg_cluster.dsn.replace(f":{parsed.password}@", "@", 1)
    with opened(pg_cluster, without, connection_class=WithPassword) as pool:
        with pool.acquire_master() as connection:
            assert isinstance(connection, WithPassword)
            connection.execute("SELECT 1")
        assert WithPassword.made >= 6  # those of the monitors, and one in each pool


def nothing() -> PQGen[None]:
    """Wait for nothing."""
    yield from ()


class Waits(psycopg.Connection[Any]):
    """Records the keyword arguments of each wait."""

    waits: list[set[str]]

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        Waits.waits.append({*kwargs})
        return super().wait(gen, *args, **kwargs)


def test_a_class_of_the_applications_waits_for_each_statement(pg_cluster: LocalCluster) -> None:
    Waits.waits = []
    with (
        opened(pg_cluster, connection_class=Waits, kwargs={"autocommit": True}) as pool,
        pool.acquire_master() as connection,
    ):
        Waits.waits.clear()
        connection.execute("SELECT 1")
        assert Waits.waits == [set()]
        connection.wait(nothing(), interval=0.1)  # as psycopg may call it
        assert Waits.waits == [set(), {"interval"}]


def test_the_hooks_run(pg_cluster: LocalCluster) -> None:
    seen: list[str] = []

    def configure(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SET statement_timeout = 1234")
        connection.commit()
        seen.append("configure")

    hooks: dict[str, Any] = {
        "configure": configure,
        "check": lambda _: seen.append("check"),
        "reset": lambda _: seen.append("reset"),
    }
    with opened(pg_cluster, **hooks) as pool:
        seen.clear()
        with pool.acquire_master() as connection:
            assert connection.execute("SHOW statement_timeout").fetchone() == ("1234ms",)
        assert seen == ["check", "reset"]


def test_a_hook_that_leaves_a_transaction_open_is_told_so(pg_cluster: LocalCluster) -> None:
    def configure(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SELECT 1")

    manager = PoolManager(pg_cluster.dsn, pool_factory_kwargs={"configure": configure})
    try:
        with pytest.raises(Exception, match="configure function left a transaction open"):
            manager.ready(1, 2, timeout=2)
    finally:
        manager.terminate()


def test_a_pool_has_psycopgs_default_size(pg_cluster: LocalCluster) -> None:
    with PoolManager(pg_cluster.dsn) as manager:
        manager.ready(1, 2)
        (pool,) = manager.get_master_pools()
        assert (pool.min_size, pool.max_size) == (4, 4)
        assert {node.pool_idle for node in manager.metrics().nodes} == {4}


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"open": True}, "when its host answers"),
        ({"conninfo": ""}, "first argument"),
        ({"reconnect_failed": print}, "hasql itself connects"),
        ({"min_sise": 1}, "min_size"),
        ({"min_size": 5, "max_size": 2}, "cannot work"),
        ({"kwargs": {"host": "db1"}}, "name the hosts in the DSN"),
        ({"kwargs": {"sslmod": "require"}}, "sslmod"),
    ],
)
def test_what_cannot_work_is_refused(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        PoolManager("postgresql://app@db1,db2/app", pool_factory_kwargs=kwargs)


def test_the_pool_closes_what_has_been_idle_for_long(pg_cluster: LocalCluster) -> None:
    with opened(pg_cluster, min_size=0, max_idle=0.2) as pool:
        with pool.acquire_master() as connection:
            connection.execute("SELECT 1")
        deadline = monotonic() + 10
        while any(node.pool_idle for node in pool.metrics().nodes):
            assert monotonic() < deadline
            sleep(0.02)
        for _ in range(2):
            with pool.acquire_master() as one, pool.acquire_master() as two:
                assert one.execute("SELECT 1").fetchone() == two.execute("SELECT 1").fetchone()


def test_connections_are_replaced_when_their_time_is_over(pg_cluster: LocalCluster) -> None:
    with opened(pg_cluster, max_size=1, max_lifetime=0.2) as pool:
        pids: set[int] = set()
        deadline = monotonic() + 10
        while len(pids) < 3:
            assert monotonic() < deadline
            with pool.acquire_master() as connection:
                pids.add(connection.info.backend_pid)
            sleep(0.02)


# psycopg's pool, used directly


def test_a_connection_of_the_pools_own_is_registered_and_given_back(pool: PoolManager) -> None:
    (own,) = pool.get_master_pools()
    assert isinstance(own, psycopg_pool.ConnectionPool)
    connection = own.getconn()
    pool.register_connection(connection, own)
    assert in_flight(pool) == 1
    pool.release_to_pool(connection, own)
    assert in_flight(pool) == 0


def test_the_pools_own_connections_are_used_beside_the_managers(pool: PoolManager) -> None:
    (own,) = pool.get_master_pools()
    with own.connection() as one, own.connection() as two:
        assert one is not two
        assert one.execute("SELECT 1").fetchone() == (1,)
        done: list[object] = []

        def work() -> None:
            with pool.acquire_master(timeout=10) as connection:
                done.append(connection.execute("SELECT 1").fetchone())

        waiting = threading.Thread(target=work)
        waiting.start()
        waiting.join(0.2)
        assert done == []  # psycopg's pool has no more connections
    waiting.join(10)
    assert done == [(1,)]


@pytest.mark.parametrize("least", [0, 1])
def test_11_an_acquire_interrupted_anywhere_claims_nothing_that_another_needs(
    pg_cluster: LocalCluster, least: int
) -> None:
    with opened(pg_cluster, min_size=least, max_size=1) as manager:
        [pool] = manager.get_master_pools()
        taken: list[Any] = []
        for point in count(1):
            interrupted = interrupted_at(point, lambda: taken.append(manager.getconn(timeout=60)))
            while taken:
                manager.putconn(taken.pop())
            assert not in_flight(manager)
            if not interrupted:
                break
        assert point > 20

        def acquire() -> None:
            with manager.acquire_master(timeout=60):
                pass

        with ThreadPoolExecutor(1) as other:
            other.submit(acquire).result()  # this may find that the last connection was broken
            requests = pool.get_stats()["requests_num"]
            other.submit(acquire).result()
        assert pool.get_stats()["requests_num"] == requests + 1  # asked once, and for itself alone


def test_no_thread_waits_in_the_pool_however_threads_take_turns(pg_cluster: LocalCluster) -> None:
    waited: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is WaitingClient.wait.__code__:
            waited.append(threading.current_thread().name)

    def acquire(manager: PoolManager) -> None:
        sys.setprofile(note)  # of this thread alone: hasql's own may wait there
        for _ in range(400):
            with manager.acquire_master(timeout=60):
                pass

    interval = sys.getswitchinterval()
    with opened(pg_cluster, min_size=0, max_size=4) as manager:
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as threads:
                for each in [threads.submit(acquire, manager) for _ in range(8)]:
                    each.result()
        finally:
            sys.setswitchinterval(interval)
        [pool] = manager.get_master_pools()
        told = pool.get_stats()
        assert waited == []
        assert 1 <= told["connections_num"] <= 4
        [master] = [node for node in manager.metrics().nodes if node.role is Role.MASTER]
        assert master.pool_idle == told["pool_available"] == told["pool_size"]


class _Idle:
    """An idle connection."""

    taken = lost = False


def test_a_claim_that_fails_for_a_moment_takes_nothing_out_of_the_pool() -> None:
    idle, another = IdleConnections(), -1  # no thread has this identifier
    takes: list[float] = []

    class FullPool:
        def has_vacancy(self) -> bool:
            idle.give_up_claim(another)  # as when that thread has got its connection
            return False

        def take(self, seconds: float) -> None:
            takes.append(seconds)
            raise AssertionError("it takes a connection out")

    opened: Any = SimpleNamespace(idle=idle)
    connects = ThreadConnects(opened)
    full: Any = FullPool()
    connects.pool = full
    connection: Any = _Idle()
    idle.note_idle(connection)
    idle.claim_next(another)
    assert connects.wait(TimeLeft(monotonic() + 60, monotonic, 0.0, lambda: None))
    assert idle.has_claim(threading.get_ident())
    until(lambda: not len(connects))
    assert takes == []


@pytest.mark.parametrize("way", ["close", "terminate"])
def test_no_thread_outlives_a_manager(pg_cluster: LocalCluster, way: str) -> None:
    before = set(threading.enumerate())
    with opened(pg_cluster) as pool:
        with pool.acquire_master() as connection:
            connection.execute("SELECT 1")
        getattr(pool, way)()
        for thread in set(threading.enumerate()) - before:
            thread.join(5)
            assert not thread.is_alive(), thread
