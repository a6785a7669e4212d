"""Each adapter for threads keeps the promises of `ThreadPool`, on which the core relies.

There is no pool manager here; test_drivers_contract.py is the counterpart for tasks. The tests
watch from the event loop, and use pools in the threads of its executor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from hasql import ConfigurationError
from hasql.cluster.dsn import Dsn
from hasql.driver import Driver, Endpoint, Failure, ThreadPool
from hasql.driver.deadline import OutOfTimeError
from hasql.driver.transactions import TransactionModes, TransactionState
from testbed.black_hole import black_hole
from testbed.middlemen.addresses import Place
from testbed.middlemen.forwarder import Forwarder
from testbed.proxy import Proxy
from testbed.scene import Table, crash_within, endpoint_of, until, until_asleep, until_sessions
from testbed.sync_kits import time_left
from tests.unit.test_driver_threads import no_more_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from hasql.testing import LocalCluster, LocalNode
    from testbed.sync_kits import SyncKit

_T = TypeVar("_T")

#: A name that no resolver knows.
NAME = "db.invalid"


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop: in a manager for threads it is hasql's own."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(autouse=True)
def threads_before() -> Iterator[set[threading.Thread]]:
    """Fail if a thread of a pool outlives the test for long."""
    before = set(threading.enumerate())
    yield before
    for each in of_pools(before):
        each.join(5)
        assert not each.is_alive(), each


def of_pools(before: set[threading.Thread]) -> list[threading.Thread]:
    """Return the threads that pools have started since."""
    new = [each for each in threading.enumerate() if each not in before]
    # The tests' own, and that of a look-up, which ends by itself and may be starting only now.
    others = ("asyncio_", "hasql-dns-system")
    return [each for each in new if not each.name.startswith(others)]


async def in_thread(work: Callable[..., _T], *args: Any) -> _T:
    """Do some work in a thread, and wait for it longer than any sound acquire takes."""
    async with asyncio.timeout(15):
        return await asyncio.to_thread(work, *args)


class Threads:
    """A pool whose connections are used in threads."""

    def __init__(self, pool: ThreadPool[Any, Any]) -> None:
        self.pool = pool

    async def acquire(self, seconds: float = 10.0) -> Any:
        return await in_thread(self.pool.acquire, time_left(seconds))

    async def release(self, connection: Any) -> None:
        await in_thread(self.pool.release, connection)


@asynccontextmanager
async def opened(
    kit: SyncKit, to: str | Endpoint, least: int = 1, most: int = 2, **kwargs: Any
) -> AsyncIterator[Threads]:
    """Open a pool, as the core does, and terminate it at the end."""
    endpoint = endpoint_of(to) if isinstance(to, str) else to
    driver = kit.driver(endpoint.dsn)
    pool = await driver.open(endpoint, kit.sizes(least, most) | kwargs, lambda *_: None)
    try:
        yield Threads(cast("ThreadPool[Any, Any]", pool))
    finally:
        pool.terminate()


@asynccontextmanager
async def silent(node: LocalNode) -> AsyncIterator[tuple[Proxy, str]]:
    """Yield a proxy before a server, and its DSN; the proxy takes bytes and passes none on."""
    async with Proxy(node.host, node.port) as proxy:
        proxy.black_hole()
        yield proxy, through(proxy, node)


@asynccontextmanager
async def one_of_two(kit: SyncKit, node: LocalNode) -> AsyncIterator[tuple[Proxy, Threads, Any]]:
    """Open a pool for two connections and take the first; the login of a second one would hang."""
    async with silent(node) as (proxy, dsn):
        proxy.forward()
        async with opened(kit, dsn, least=0, most=2) as threads:
            first = await threads.acquire()
            assert proxy.connections == 1
            proxy.delay = 30.0
            yield proxy, threads, first


def through(proxy: Proxy, node: LocalNode) -> str:
    """Return a server's DSN with the proxy in its place."""
    return node.dsn.replace(f":{node.port}/", f":{proxy.port}/", 1)


async def every_place_works(kit: SyncKit, threads: Threads) -> None:
    """Take all connections that there can be at once, use each and give it back."""
    leases = [await threads.acquire() for _ in range(threads.pool.sizes.maximum)]
    assert len({id(connection) for connection in leases}) == len(leases)
    for connection in leases:
        assert await in_thread(kit.value, connection, "SELECT 1") == 1
        await threads.release(connection)


async def lose(cluster: LocalCluster, pid: int) -> None:
    """End a session of the master, as an administrator may."""
    await cluster.master.sql(f"SELECT pg_terminate_backend({pid}, 5000)")


# The driver


def test_an_adapter_is_made_from_the_contract(sync_kit: SyncKit, pg_cluster: LocalCluster) -> None:
    assert Driver in type(sync_kit.driver(pg_cluster.dsn)).__mro__


def test_sizes_are_those_that_were_asked_for(sync_kit: SyncKit, pg_cluster: LocalCluster) -> None:
    sizes = sync_kit.driver(pg_cluster.dsn).sizes(sync_kit.sizes(1, 3))
    assert (sizes.minimum, sizes.maximum) == (0 if sync_kit.min_keyword is None else 1, 3)


def test_an_unknown_argument_is_refused(sync_kit: SyncKit, pg_cluster: LocalCluster) -> None:
    with pytest.raises(ConfigurationError, match="no_such"):
        sync_kit.driver(pg_cluster.dsn).sizes({"no_such": 1})


async def test_an_exception_tells_what_is_wrong(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    dsn = pg_cluster.master.dsn
    driver = sync_kit.driver(dsn)
    assert driver.failure(TimeoutError()) is Failure.BROKEN
    assert driver.failure(ConnectionError()) is Failure.BROKEN
    assert driver.failure(ValueError()) is Failure.OTHER
    wrong = dsn.replace(f":{Dsn.parse(dsn).password}@", ":wrong@")
    async with opened(sync_kit, wrong, least=0) as threads:
        with pytest.raises(Exception) as refused:  # noqa: PT011  # each driver has its own
            await threads.acquire()
    assert driver.failure(refused.value) is Failure.REFUSED
    async with opened(sync_kit, dsn) as threads:
        connection = await threads.acquire()
        with pytest.raises(sync_kit.refused_statement) as failed:
            await in_thread(sync_kit.value, connection, "SELECT no_such")
        assert driver.failure(failed.value) is Failure.STATEMENT
        await threads.release(connection)


# The pool


async def test_a_pool_has_what_it_was_opened_with(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn) as threads:
        pool = threads.pool
        assert ThreadPool in type(pool).__mro__
        assert isinstance(pool.pool, sync_kit.pool_type)
        assert pool.size == pool.idle() == pool.sizes.minimum
        assert pool.sizes.maximum == 2
        assert not pool.destinations.maybe_standby


async def test_open_idle_and_leased_connections_are_counted(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn) as threads:
        leases = [await threads.acquire() for _ in range(2)]
        assert all(isinstance(connection, sync_kit.connection_type) for connection in leases)
        for connection, idle in zip(leases, (0, 1), strict=True):
            assert (threads.pool.size, threads.pool.idle()) == (2, idle)
            await threads.release(connection)
        assert (threads.pool.size, threads.pool.idle()) == (2, 2)


async def test_an_idle_connection_is_there_at_once(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, most=1) as threads:
        await threads.release(await threads.acquire())
        await threads.release(await threads.acquire(seconds=0))


async def test_a_key_stays_the_same_from_lease_to_lease(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, most=1) as threads:
        keys = []
        for _ in range(2):
            connection = await threads.acquire()
            keys.append(threads.pool.key(connection))
            await threads.release(connection)
        assert keys[0] is not None
        assert keys[0] == keys[1]
        connection = await threads.acquire()
        threads.pool.abort(connection)
        assert threads.pool.key(connection) is None
        await threads.release(connection)


async def test_counting_rows_leaves_no_transaction_open(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, most=1) as threads:
        connection = await threads.acquire()
        pid = await in_thread(sync_kit.pid, connection)
        three, none = "SELECT 1 FROM generate_series(1, 3)", "SELECT 1 WHERE false"
        assert await in_thread(threads.pool.count_rows, connection, three) == 3
        assert await in_thread(threads.pool.count_rows, connection, none) == 0
        state = f"SELECT state FROM pg_stat_activity WHERE pid = {pid}"  # noqa: S608  # a number
        assert await pg_cluster.master.sql(state) == "idle"
        await threads.release(connection)


async def test_a_transaction_is_begun_as_asked_and_the_next_lease_knows_nothing_of_it(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    shown = "SELECT concat_ws(' ', {}('transaction_isolation'), {}('transaction_read_only'))"
    shown = shown.replace("{}", "current_setting")
    asked, plain = TransactionModes("repeatable read", read_only=True), TransactionModes()

    def use(
        pool: ThreadPool[Any, Any], connection: Any, modes: TransactionModes, *, commits: bool
    ) -> Any:
        transaction = pool.transaction(connection, modes)
        transaction.begin()
        level = sync_kit.value(connection, shown)
        assert transaction.state is TransactionState.OPEN
        row = transaction.fetch_row("SELECT 'a'::text, NULL::text, '1'::text")
        assert tuple(row) == ("a", None, "1")
        if commits:
            assert transaction.commit() is True
        else:
            transaction.roll_back()
        return level

    async with opened(sync_kit, pg_cluster.master.dsn, most=1) as threads:
        for commits in (True, False):
            for modes, level in ((asked, "repeatable read on"), (plain, "read committed off")):
                connection = await threads.acquire()
                work = partial(use, threads.pool, connection, modes, commits=commits)
                assert await in_thread(work) == level
                await threads.release(connection)


async def test_a_transaction_tells_what_has_become_of_it(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    def use(pool: ThreadPool[Any, Any], connection: Any) -> None:
        transaction = pool.transaction(connection, TransactionModes())
        transaction.begin()
        with pytest.raises(sync_kit.refused_statement):
            sync_kit.value(connection, "SELECT 1 / 0")
        assert transaction.state is TransactionState.FAILED
        with pytest.raises(Exception, match="aborted"):
            transaction.fetch_row("SELECT 1")
        transaction.roll_back()
        transaction = pool.transaction(connection, TransactionModes())
        transaction.begin()
        assert sync_kit.value(connection, "SELECT 1") == 1
        sync_kit.begin(connection, "ROLLBACK")
        assert transaction.state is TransactionState.ENDED
        transaction.roll_back()
        assert sync_kit.value(connection, "SELECT 1") == 1

    async with opened(sync_kit, pg_cluster.master.dsn, most=1) as threads:
        connection = await threads.acquire()
        await in_thread(use, threads.pool, connection)
        await threads.release(connection)


async def test_a_connection_says_whether_its_server_is_a_standby(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    for node, on in ((pg_cluster.master, False), (pg_cluster.replicas[0], True)):
        async with opened(sync_kit, node.dsn) as threads:
            connection = await threads.acquire()
            assert threads.pool.in_hot_standby(connection) is on
            assert len(threads.pool.destinations.maybe_standby) == (threads.pool.size if on else 0)
            await threads.release(connection)


async def test_a_release_rolls_back(
    sync_kit: SyncKit, pg_cluster: LocalCluster, table: Table
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn) as threads:
        connection = await threads.acquire()
        await in_thread(sync_kit.begin, connection, table.insert(1))
        await threads.release(connection)
        assert threads.pool.size == threads.pool.idle()
    assert await pg_cluster.master.sql(table.count) == "0"


async def test_a_release_with_an_argument_that_is_not_the_drivers_loses_no_place(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, most=2) as threads:
        connection = await threads.acquire()
        with pytest.raises(TypeError, match="mistaken"):
            await in_thread(partial(threads.pool.release, mistaken=True), connection)
        await every_place_works(sync_kit, threads)


@pytest.mark.parametrize("error", [None, ValueError()])
async def test_the_end_of_a_block_commits_if_the_driver_has_it_so(
    sync_kit: SyncKit, pg_cluster: LocalCluster, table: Table, error: Exception | None
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn) as threads:
        connection = await threads.acquire()
        await in_thread(threads.pool.leave_block, connection, error)  # with no transaction open
        await in_thread(sync_kit.begin, connection, table.insert(1))
        await in_thread(threads.pool.leave_block, connection, error)
        await threads.release(connection)
    committed = sync_kit.commits and error is None
    assert await pg_cluster.master.sql(table.count) == str(int(committed))


async def test_an_aborted_connection_is_closed_and_its_place_is_free(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, most=1) as threads:
        connection = await threads.acquire()
        assert not threads.pool.is_closed(connection)
        threads.pool.abort(connection)
        assert threads.pool.is_closed(connection)
        await threads.release(connection)
        await every_place_works(sync_kit, threads)


async def test_an_abort_ends_the_statement_that_waits(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str
) -> None:
    dsn = f"{pg_cluster.master.dsn}?application_name={application}"
    async with opened(sync_kit, dsn, most=1) as threads:
        connection = await threads.acquire()
        statement = asyncio.create_task(
            in_thread(sync_kit.value, connection, "SELECT pg_sleep(60)")
        )
        await until_asleep(pg_cluster.master, application, 1)
        threads.pool.abort(connection)
        with pytest.raises(sync_kit.lost):
            await statement
        await threads.release(connection)


async def test_an_abort_ends_a_release_on_a_silent_host(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with silent(pg_cluster.master) as (proxy, dsn):
        proxy.forward()
        async with opened(sync_kit, dsn, most=1) as threads:
            connection = await threads.acquire()
            await in_thread(sync_kit.begin, connection, "SELECT 1")
            proxy.black_hole(new_ones_too=False)
            heard = proxy.requests
            releasing = asyncio.create_task(threads.release(connection))
            await until(lambda: proxy.requests > heard)
            threads.pool.abort(connection)
            await asyncio.wait([releasing], timeout=5)
            assert releasing.done()
            releasing.exception()  # whether it raises is the driver's business
            await every_place_works(sync_kit, threads)


async def test_a_purge_spares_what_is_leased(sync_kit: SyncKit, pg_cluster: LocalCluster) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn) as threads:
        kept, idle = [await threads.acquire() for _ in range(2)]
        await threads.release(idle)
        threads.pool.purge([kept])
        assert threads.pool.size == 1
        assert threads.pool.idle() == 0
        assert await in_thread(sync_kit.value, kept, "SELECT 1") == 1
        await threads.release(kept)
        threads.pool.purge([])
        assert threads.pool.size == 0
        await every_place_works(sync_kit, threads)


async def test_a_purge_ends_the_sessions_of_idle_connections(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str
) -> None:
    dsn = f"{pg_cluster.master.dsn}?application_name={application}"
    async with opened(sync_kit, dsn, least=2) as threads:
        threads.pool.purge([])
        await until_sessions(pg_cluster.master, application, 0)


async def test_a_lost_connection_is_not_acquired(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, most=1) as threads:
        connection = await threads.acquire()
        pid = await in_thread(sync_kit.pid, connection)
        await threads.release(connection)
        await lose(pg_cluster, pid)
        connection = await threads.acquire()
        assert await in_thread(sync_kit.pid, connection) != pid
        await threads.release(connection)


@pytest.mark.parametrize("closes_late", [False, True])
async def test_a_connection_that_a_crash_has_ended_is_not_acquired(
    sync_kit: SyncKit, pg_cluster: LocalCluster, closes_late: bool
) -> None:
    """A crashing server says a warning, not an error, before it closes its sockets."""
    master = pg_cluster.master
    async with (
        Proxy(master.host, master.port) as proxy,
        opened(sync_kit, through(proxy, master), most=1) as threads,
    ):
        connection = await threads.acquire()
        pid = await in_thread(sync_kit.pid, connection)
        await threads.release(connection)
        if closes_late:
            proxy.hold_ends()
        await crash_within(master)
        await until(lambda: (proxy.held if closes_late else proxy.ended) == 1)
        connection = await threads.acquire()
        assert await in_thread(sync_kit.pid, connection) != pid
        await threads.release(connection)


async def test_a_pool_that_lost_all_is_refilled_when_the_host_answers(
    filling_sync_kit: SyncKit,
    pg_cluster: LocalCluster,
    application: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint = endpoint_of(f"{pg_cluster.master.dsn}?application_name={application}")
    async with opened(filling_sync_kit, endpoint, least=2, most=4) as threads:
        endpoint.note_addresses(("127.0.0.9",), frozenset[str]().__contains__)  # which refuses
        threads.pool.purge([])
        threads.pool.host_answers()  # which is not true
        with pytest.raises(Exception):  # noqa: B017, PT011  # each driver has its own
            await threads.acquire()
        assert threads.pool.size == 0
        endpoint.note_addresses(("127.0.0.1",), frozenset[str]().__contains__)
        threads.pool.host_answers()
        await until(lambda: threads.pool.idle() == threads.pool.size == 2)
        await until_sessions(pg_cluster.master, application, 2)
        await every_place_works(filling_sync_kit, threads)
    assert [x.getMessage() for x in caplog.records if x.levelno >= logging.WARNING] == []


async def test_a_refill_that_finds_no_more_threads_is_made_up_for(
    filling_sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(filling_sync_kit, pg_cluster.master.dsn, least=3, most=4) as threads:
        connection = await threads.acquire()
        with no_more_threads():
            threads.pool.abort(connection)
            threads.pool.release(connection)
            for _ in range(10):  # more often than threads fill a pool at once
                threads.pool.host_answers()  # inside the handling of a probe
        assert threads.pool.size == 2
        threads.pool.host_answers()
        await until(lambda: threads.pool.idle() == threads.pool.size == 3)
        await every_place_works(filling_sync_kit, threads)


# Connects


async def test_who_waits_for_a_place_of_a_purged_pool_gets_it_when_it_is_free(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, most=1) as threads:
        lent = await threads.acquire()
        threads.pool.purge([lent])  # not filled by itself until the host answers
        waiting = asyncio.ensure_future(threads.acquire())
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        threads.pool.abort(lent)
        threads.pool.release(lent)
        connection = await asyncio.wait_for(waiting, 5)
        assert sync_kit.value(connection, "SELECT 1") == 1
        threads.pool.release(connection)


async def test_a_refused_connect_is_raised_at_once(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    endpoint = endpoint_of(pg_cluster.master.dsn.replace("@127.0.0.1", "@127.0.0.9", 1))
    async with opened(sync_kit, endpoint, least=0) as threads:
        for _ in range(3):
            async with asyncio.timeout(1):
                with pytest.raises(Exception) as raised:  # noqa: PT011  # each driver has its own
                    await threads.acquire()
            assert sync_kit.driver(endpoint.dsn).failure(raised.value) is Failure.BROKEN
        assert threads.pool.size == 0


async def test_the_end_of_connects_is_a_broken_host(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with (
        silent(pg_cluster.master) as (proxy, dsn),
        opened(sync_kit, dsn, least=0) as threads,
    ):
        for end in (threads.pool.end_connects, lambda: threads.pool.purge([])):
            before = proxy.connections
            acquiring = asyncio.create_task(threads.acquire())
            await until(lambda before=before: proxy.connections > before)  # type: ignore[misc]
            end()
            async with asyncio.timeout(1):
                with pytest.raises(Exception) as ended:  # noqa: PT011  # SQLAlchemy wraps it
                    await acquiring
            assert sync_kit.driver(dsn).failure(ended.value) is Failure.BROKEN


async def test_an_acquire_ends_at_its_deadline_on_a_silent_host(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with (
        silent(pg_cluster.master) as (proxy, dsn),
        opened(sync_kit, dsn, least=0, most=1) as threads,
    ):
        ended: list[BaseException] = []

        def give_up() -> None:
            try:
                threads.pool.acquire(time_left(0.3))
            except BaseException as error:  # noqa: BLE001  # for the test
                ended.append(error)

        # This thread asks for nothing afterwards.
        thread = threading.Thread(target=give_up)
        thread.start()
        await in_thread(thread.join, 2)
        assert [type(error) for error in ended] == [OutOfTimeError]
        proxy.forward()
        await every_place_works(sync_kit, threads)
        for _ in range(2):
            await threads.release(await threads.acquire(seconds=0))


async def test_who_waits_for_a_connect_takes_what_is_given_back(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with one_of_two(sync_kit, pg_cluster.master) as (proxy, threads, first):
        acquiring = asyncio.create_task(threads.acquire(seconds=15))
        await until(lambda: proxy.connections > 1)
        await threads.release(first)
        async with asyncio.timeout(2):
            assert await acquiring is not None
        proxy.delay = 0.0
        await threads.release(acquiring.result())
        await every_place_works(sync_kit, threads)


async def test_a_slow_login_is_not_begun_anew_for_each_lease(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with one_of_two(sync_kit, pg_cluster.master) as (proxy, threads, first):
        await threads.release(first)

        def take_turns() -> None:
            for _ in range(100):
                connection = threads.pool.acquire(time_left())
                time.sleep(0.001)  # while the other thread waits
                threads.pool.release(connection)

        began = time.monotonic()
        await asyncio.gather(in_thread(take_turns), in_thread(take_turns))
        # A thread that has waited in vain for a tenth of a second may try another connect.
        assert proxy.connections - 1 <= 2 + 10 * (time.monotonic() - began)
        proxy.drop()


async def test_a_connect_begun_before_a_purge_is_not_kept(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str
) -> None:
    async with silent(pg_cluster.master) as (proxy, dsn):
        named = f"{dsn}?application_name={application}"
        async with opened(sync_kit, named, least=0, most=1) as threads:
            acquiring = asyncio.create_task(threads.acquire())
            await until(lambda: proxy.connections > 0)
            threads.pool.purge([])
            proxy.forward()
            with pytest.raises(Exception):  # noqa: B017, PT011  # each driver has its own
                await acquiring
            await until_sessions(pg_cluster.master, application, 0)
            assert threads.pool.size == 0


class JobTimeoutError(TimeoutError):
    """A time limit of the application, which is not that of the acquire."""


@pytest.mark.parametrize(
    ("error", "after"),
    [(KeyboardInterrupt, 0.2), (JobTimeoutError, 0.2), (JobTimeoutError, 0.03)],
)
def test_an_interrupted_acquire_loses_no_place(
    sync_kit: SyncKit, pg_cluster: LocalCluster, error: type[BaseException], after: float
) -> None:
    """A real signal interrupts the main thread while it waits for a silent host."""
    (host,) = Dsn.parse(pg_cluster.master.dsn).hosts
    endpoint = endpoint_of(pg_cluster.master.dsn)
    driver = sync_kit.driver(endpoint.dsn)

    def interrupt(*_: object) -> None:
        raise error

    async def open_pool() -> Any:
        return await driver.open(endpoint, sync_kit.sizes(0, 1), lambda *_: None)

    pool = asyncio.run(open_pool())
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        endpoint.note_addresses(("127.0.0.7",), frozenset[str]().__contains__)
        with black_hole("127.0.0.7", host.port):
            signal.setitimer(signal.ITIMER_REAL, after)
            with pytest.raises(error):
                pool.acquire(time_left(2.0))
        endpoint.note_addresses(("127.0.0.1",), frozenset[str]().__contains__)
        for _ in range(3):
            connection = pool.acquire(time_left())
            assert sync_kit.value(connection, "SELECT 1") == 1
            pool.release(connection)
        assert (pool.size, pool.idle()) == (1, 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        pool.terminate()


# The hooks of the application


async def test_what_a_hook_raises_is_raised_and_loses_no_place(
    sync_hooked: tuple[SyncKit, str], pg_cluster: LocalCluster
) -> None:
    broken = threading.Event()

    def hook(_: Any) -> None:
        if broken.is_set():
            raise KeyError("a mistake")

    kit, name = sync_hooked
    kwargs = kit.hooks(hook)[name]
    async with opened(kit, pg_cluster.master.dsn, least=0, **kwargs) as threads:
        broken.set()
        with pytest.raises((KeyError, OutOfTimeError)):
            await threads.acquire(seconds=0.5)
        broken.clear()
        await every_place_works(kit, threads)


async def test_a_hook_that_waits_holds_no_acquire_beyond_its_deadline(
    sync_hooked: tuple[SyncKit, str], pg_cluster: LocalCluster
) -> None:
    go_on = threading.Event()

    def hook(_: Any) -> None:
        go_on.wait(20)

    kit, name = sync_hooked
    kwargs = kit.hooks(hook)[name]
    async with opened(kit, pg_cluster.master.dsn, least=0, **kwargs) as threads:
        try:
            async with asyncio.timeout(2):
                with pytest.raises(OutOfTimeError):
                    await threads.acquire(seconds=0.3)
        finally:
            go_on.set()
        await every_place_works(kit, threads)


async def test_a_reset_runs_on_what_is_given_back(
    resetting_sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    seen: list[Any] = []
    kwargs = resetting_sync_kit.reset_hook(seen.append) or {}
    async with opened(resetting_sync_kit, pg_cluster.master.dsn, most=1, **kwargs) as threads:
        for times in (1, 2):
            await threads.release(await threads.acquire())
            assert len(seen) == times


# Who holds which connection, and the end of a pool


async def test_many_threads_share_few_connections(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    """As in the core, no thread asks the pool without a place."""
    async with opened(sync_kit, pg_cluster.master.dsn, least=0, most=4) as threads:
        pool, places = threads.pool, threading.Semaphore(4)

        def work() -> None:
            for number in range(100):
                with places:
                    connection = pool.acquire(time_left())
                    if number % 20 == 7:
                        pool.abort(connection)
                    elif number % 5 == 0:
                        assert sync_kit.value(connection, "SELECT 1") == 1
                    pool.release(connection)

        await asyncio.gather(*(in_thread(work) for _ in range(6)))
        assert pool.size == pool.idle() <= 4
        await every_place_works(sync_kit, threads)


async def test_a_warm_up_opens_a_connection_that_is_kept(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, least=0) as threads:
        await threads.pool.warm_up()
        assert (threads.pool.size, threads.pool.idle()) == (1, 1)


async def test_a_cancelled_warm_up_leaks_nothing(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with (
        silent(pg_cluster.master) as (proxy, dsn),
        opened(sync_kit, dsn, least=0, most=1) as threads,
    ):
        warming = asyncio.create_task(threads.pool.warm_up())
        await until(lambda: proxy.connections > 0)
        warming.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([warming])
        assert warming.cancelled()
        proxy.forward()
        await every_place_works(sync_kit, threads)


async def test_the_drivers_pool_can_be_used_directly(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, least=0) as threads:
        for _ in range(2):
            connection = await in_thread(sync_kit.take, threads.pool.pool)
            assert await in_thread(sync_kit.value, connection, "SELECT 1") == 1
            await in_thread(sync_kit.put, threads.pool.pool, connection)
        await every_place_works(sync_kit, threads)


async def test_a_pool_that_is_terminated_has_no_connection_and_gives_none(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str
) -> None:
    async with opened(
        sync_kit, f"{pg_cluster.master.dsn}?application_name={application}"
    ) as threads:
        leased = await threads.acquire()
        threads.pool.terminate()
        assert threads.pool.is_closed(leased)
        assert threads.pool.size == 0
        with pytest.raises(Exception):  # noqa: B017, PT011  # each driver has its own
            await threads.acquire()
        await threads.release(leased)
    await until_sessions(pg_cluster.master, application, 0)


async def test_a_pool_that_is_terminated_ends_its_connects(
    sync_kit: SyncKit, pg_cluster: LocalCluster, threads_before: set[threading.Thread]
) -> None:
    async with (
        silent(pg_cluster.master) as (proxy, dsn),
        opened(sync_kit, dsn, least=0) as threads,
    ):
        acquiring = asyncio.create_task(threads.acquire())
        await until(lambda: proxy.connections > 0)
        threads.pool.terminate()
        async with asyncio.timeout(1):
            with pytest.raises(Exception):  # noqa: B017, PT011  # each driver has its own
                await acquiring
        await until(lambda: not of_pools(threads_before))


async def test_an_opening_that_is_cancelled_leaves_nothing(
    filling_sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with silent(pg_cluster.master) as (proxy, dsn):
        driver = filling_sync_kit.driver(dsn)
        opening = asyncio.create_task(
            cast(
                "Any", driver.open(endpoint_of(dsn), filling_sync_kit.sizes(1, 1), lambda *_: None)
            )
        )
        await until(lambda: proxy.connections > 0)
        opening.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([opening])
        assert opening.cancelled()


async def test_a_pool_that_is_closed_has_no_session(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str
) -> None:
    async with opened(
        sync_kit, f"{pg_cluster.master.dsn}?application_name={application}"
    ) as threads:
        await threads.release(await threads.acquire())
        await threads.pool.close()
        await until_sessions(pg_cluster.master, application, 0)


async def test_a_forked_child_does_not_reach_the_server(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with opened(sync_kit, pg_cluster.master.dsn, most=1) as threads:
        connection = await threads.acquire()
        pid = await in_thread(sync_kit.pid, connection)
        child = os.fork()
        if not child:
            try:
                threads.pool.abort(connection)
                sync_kit.value(connection, "SELECT 1")
            except sync_kit.lost:
                os._exit(7)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert await in_thread(sync_kit.pid, connection) == pid
        await threads.release(connection)


# Addresses of a name


@asynccontextmanager
async def name_of(node: LocalNode, *addresses: str) -> AsyncIterator[Endpoint]:
    """Yield a host whose name has these addresses; 127.0.0.2 and 127.0.0.3 lead to the server."""
    (host,) = Dsn.parse(node.dsn).hosts
    endpoint = endpoint_of(node.dsn.replace(f"@{host.host}:", f"@{NAME}:", 1))
    endpoint.note_addresses(addresses, frozenset[str]().__contains__)
    place = Place(host.host, host.port)
    async with (
        Forwarder(place, listen="127.0.0.2", listen_port=host.port),
        Forwarder(place, listen="127.0.0.3", listen_port=host.port),
    ):
        yield endpoint


async def test_a_connection_is_opened_to_the_address_that_its_name_leads_to(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with (
        name_of(pg_cluster.master, "127.0.0.2") as endpoint,
        opened(sync_kit, endpoint) as threads,
    ):
        connection = await threads.acquire()
        key = threads.pool.key(connection)
        assert key is not None
        assert threads.pool.destinations.address_of(key) == "127.0.0.2"
        await threads.release(connection)


@pytest.mark.parametrize("silent_one", [False, True], ids=["refuses", "silent"])
async def test_the_next_address_is_tried_where_one_does_not_answer(
    sync_kit: SyncKit, pg_cluster: LocalCluster, silent_one: bool
) -> None:
    async with name_of(pg_cluster.master, "127.0.0.4", "127.0.0.3") as endpoint:
        port = endpoint.host.port
        hole = Proxy("127.0.0.1", port, listen="127.0.0.4", listen_port=port)
        if silent_one:
            await hole.__aenter__()
            hole.black_hole()
        try:
            async with asyncio.timeout(5), opened(sync_kit, endpoint, least=0) as threads:
                for _ in range(3):
                    connection = await threads.acquire()
                    key = threads.pool.key(connection)
                    assert key is not None
                    assert threads.pool.destinations.address_of(key) == "127.0.0.3"
                    threads.pool.abort(connection)
                    await threads.release(connection)
                await until(lambda: "hasql dial" not in {x.name for x in threading.enumerate()})
        finally:
            if silent_one:
                await hole.__aexit__(None, None, None)


async def test_where_no_address_answers_the_error_says_so(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with (
        name_of(pg_cluster.master, "127.0.0.4", "127.0.0.5") as endpoint,
        opened(sync_kit, endpoint, least=0) as threads,
    ):
        with pytest.raises(Exception) as raised:  # noqa: PT011  # each driver has its own
            await threads.acquire()
        assert sync_kit.driver(endpoint.dsn).failure(raised.value) is Failure.BROKEN


async def test_what_its_name_has_left_is_drained_and_what_is_leased_is_spared(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    async with (
        name_of(pg_cluster.master, "127.0.0.2") as endpoint,
        opened(sync_kit, endpoint, most=4) as threads,
    ):
        pool = threads.pool
        leased, idle = [await threads.acquire() for _ in range(2)]
        endpoint.note_addresses(("127.0.0.3",), {"127.0.0.1"}.__contains__)
        well = await threads.acquire()
        for connection in (idle, well):
            await threads.release(connection)
        pool.drain([leased], endpoint.has_left)
        assert pool.size == 3  # nothing has left the name yet
        endpoint.note_addresses(("127.0.0.3",), {"127.0.0.1", "127.0.0.2"}.__contains__)
        pool.drain([leased], endpoint.has_left)
        assert pool.size == 2
        assert await in_thread(sync_kit.value, leased, "SELECT 1") == 1
        pool.abort(leased)
        await threads.release(leased)
        for _ in range(3):
            connection = await threads.acquire()
            key = pool.key(connection)
            assert key is not None
            assert pool.destinations.address_of(key) == "127.0.0.3"
            await threads.release(connection)
