"""What the core relies on, asked of each adapter itself: the promises of `hasql.driver.contract`.

The other files of the suite use a pool manager; these tests do not. If an adapter breaks a promise
these tests name it, where a pool manager would only wait, miscount or leak now and then.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from hasql import ConfigurationError
from hasql.cluster.dsn import Dsn
from hasql.cluster.probe import STANDBY_QUERY
from hasql.driver import AsyncPool, Driver, Endpoint, Failure, Session
from hasql.driver.transactions import TransactionModes, TransactionState
from testbed.middlemen.addresses import Place
from testbed.middlemen.forwarder import Forwarder
from testbed.proxy import Proxy
from testbed.scene import Table, crash_within, end_those, endpoint_of, until, until_sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import Kit

Pool = AsyncPool[Any, Any]

#: A name that no resolver knows.
NAME = "db.invalid"

pytestmark = pytest.mark.usefixtures("nothing_unheard")


@pytest.fixture
def anyio_backend() -> object:
    """Run on one event loop; the other files run on each."""
    return "asyncio", {"use_uvloop": False}


@asynccontextmanager
async def opened(
    kit: Kit, to: str | Endpoint, least: int = 1, most: int = 2
) -> AsyncIterator[Pool]:
    """Open a pool, as the core does, and terminate it at the end."""
    endpoint, kwargs = endpoint_of(to) if isinstance(to, str) else to, kit.sizes(least, most)
    pool = cast("Pool", await kit.driver(endpoint.dsn).open(endpoint, kwargs, lambda *_: None))
    try:
        yield pool
    finally:
        pool.terminate()


@asynccontextmanager
async def silent(node: LocalNode) -> AsyncIterator[tuple[Proxy, str]]:
    """Put a proxy that passes nothing on before a server; yield it and the DSN through it."""
    dsn = Dsn.parse(node.dsn)
    (host,) = dsn.hosts
    async with Proxy(host.host, host.port) as proxy:
        proxy.black_hole()
        yield proxy, node.dsn.replace(f":{host.port}/", f":{proxy.port}/", 1)


# The driver


def test_an_adapter_is_made_from_the_contract(kit: Kit, pg_cluster: LocalCluster) -> None:
    assert Driver in type(kit.driver(pg_cluster.dsn)).__mro__


def test_sizes_are_those_that_were_asked_for(kit: Kit, pg_cluster: LocalCluster) -> None:
    sizes = kit.driver(pg_cluster.dsn).sizes(kit.sizes(1, 3))
    assert (sizes.minimum, sizes.maximum) == (0 if kit.min_keyword is None else 1, 3)


def test_an_unknown_argument_is_refused(kit: Kit, pg_cluster: LocalCluster) -> None:
    with pytest.raises(ConfigurationError, match="no_such"):
        kit.driver(pg_cluster.dsn).sizes({"no_such": 1})


async def test_an_exception_tells_what_is_wrong(kit: Kit, pg_cluster: LocalCluster) -> None:
    dsn = pg_cluster.master.dsn
    driver = kit.driver(dsn)
    assert driver.failure(TimeoutError()) is Failure.BROKEN
    assert driver.failure(ConnectionError()) is Failure.BROKEN
    assert driver.failure(ValueError()) is Failure.OTHER
    wrong = dsn.replace(f":{Dsn.parse(dsn).password}@", ":wrong@")
    with pytest.raises(Exception) as refused:  # noqa: PT011  # each driver has its own
        await driver.connect(endpoint_of(wrong), {}, lambda: None)
    assert driver.failure(refused.value) is Failure.REFUSED
    async with opened(kit, dsn) as pool:
        connection = await pool.acquire()
        with pytest.raises(kit.refused_statement) as failed:
            await kit.value(connection, "SELECT no_such")
        assert driver.failure(failed.value) is Failure.STATEMENT
        await pool.release(connection)


# The pool


async def test_a_pool_has_what_it_was_opened_with(kit: Kit, pg_cluster: LocalCluster) -> None:
    async with opened(kit, pg_cluster.master.dsn) as pool:
        assert AsyncPool in type(pool).__mro__
        assert isinstance(pool.pool, kit.pool_type)
        assert pool.size == pool.idle() == pool.sizes.minimum
        assert pool.sizes.maximum == 2
        assert not pool.destinations.maybe_standby


async def test_open_idle_and_leased_connections_are_counted(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with opened(kit, pg_cluster.master.dsn) as pool:
        leases = [await pool.acquire() for _ in range(2)]
        assert all(isinstance(connection, kit.connection_type) for connection in leases)
        assert (pool.size, pool.idle()) == (2, 0)
        await pool.release(leases[0])
        assert (pool.size, pool.idle()) == (2, 1)
        await pool.release(leases[1])
        assert (pool.size, pool.idle()) == (2, 2)


async def test_an_idle_connection_is_acquired_without_a_pause(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with opened(kit, pg_cluster.master.dsn) as pool:
        await pool.release(await pool.acquire())
        steps = pool.acquire().__await__()
        with pytest.raises(StopIteration) as done:
            next(steps)
        await pool.release(done.value.value)


async def test_a_key_stays_the_same_from_lease_to_lease(kit: Kit, pg_cluster: LocalCluster) -> None:
    async with opened(kit, pg_cluster.master.dsn, most=1) as pool:
        connection = await pool.acquire()
        key = pool.key(connection)
        assert key is not None
        await pool.release(connection)
        again = await pool.acquire()
        assert pool.key(again) == key
        pool.abort(again)
        assert pool.key(again) is None
        await pool.release(again)


async def test_rows_are_counted_and_no_transaction_is_left(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with opened(kit, pg_cluster.master.dsn) as pool:
        connection = await pool.acquire()
        pid = await kit.pid(connection)
        await pool.release(connection)
        connection = await pool.acquire()
        assert await pool.count_rows(connection, "SELECT 1 FROM generate_series(1, 3)") == 3
        assert await pool.count_rows(connection, "SELECT 1 WHERE false") == 0
        state = f"SELECT state FROM pg_stat_activity WHERE pid = {pid}"  # noqa: S608  # a number
        assert await pg_cluster.master.sql(state) == "idle"
        await pool.release(connection)


async def test_a_transaction_is_begun_as_asked_and_the_next_lease_knows_nothing_of_it(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    shown = "SELECT concat_ws(' ', {}('transaction_isolation'), {}('transaction_read_only'))"
    shown = shown.replace("{}", "current_setting")
    asked, plain = TransactionModes("repeatable read", read_only=True), TransactionModes()
    async with opened(kit, pg_cluster.master.dsn, most=1) as pool:
        for commits in (True, False):
            for modes, level in ((asked, "repeatable read on"), (plain, "read committed off")):
                connection = await pool.acquire()
                transaction = pool.transaction(connection, modes)
                await transaction.begin()
                assert await kit.value(connection, shown) == level
                assert transaction.state is TransactionState.OPEN
                row = await transaction.fetch_row("SELECT 'a'::text, NULL::text, '1'::text")
                assert tuple(row) == ("a", None, "1")
                if commits:
                    assert await transaction.commit() is True
                else:
                    await transaction.roll_back()
                await pool.release(connection)


async def test_a_transaction_tells_what_has_become_of_it(
    kit: Kit, pg_cluster: LocalCluster, table: Table
) -> None:
    async with opened(kit, pg_cluster.master.dsn) as pool:
        connection = await pool.acquire()
        for asked in (False, True):
            transaction = pool.transaction(connection, TransactionModes(asked=asked))
            await transaction.begin()
            await kit.value(connection, f"{table.insert(1)} RETURNING i")
            with pytest.raises(kit.refused_statement):
                await kit.value(connection, "SELECT 1 / 0")
            if transaction.state is TransactionState.FAILED or asked:
                with pytest.raises(Exception, match="aborted"):
                    await transaction.fetch_row("SELECT 1")
                await transaction.roll_back()
            else:
                assert await transaction.commit() is False, "the server has answered ROLLBACK"
            transaction = pool.transaction(connection, TransactionModes(asked=asked))
            await transaction.begin()
            await kit.value(connection, f"{table.insert(1)} RETURNING i")
            await kit.begin(connection, "ROLLBACK")
            assert transaction.state is TransactionState.ENDED
            await transaction.roll_back()
        assert await kit.value(connection, table.count) == 0
        await pool.release(connection)


async def test_what_the_server_has_said_is_told_from_what_the_driver_says(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    driver = kit.driver(pg_cluster.dsn)
    async with opened(kit, pg_cluster.master.dsn) as pool:
        connection = await pool.acquire()
        with pytest.raises(kit.refused_statement) as refused:
            await kit.value(connection, "SELECT 1 / 0")
        assert driver.sqlstate(refused.value) == "22012"
        pool.abort(connection)
        with pytest.raises(Exception) as lost:  # noqa: PT011  # each driver's own
            await kit.value(connection, "SELECT 1")
        assert driver.sqlstate(lost.value) in {"", "08003"}
        await pool.release(connection)
    assert driver.sqlstate(ValueError()) is None
    assert driver.sqlstate(ConnectionResetError()) is None


async def test_a_connection_says_whether_its_server_is_a_standby(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    for node, on in ((pg_cluster.master, False), (pg_cluster.replicas[0], True)):
        async with opened(kit, node.dsn) as pool:
            connection = await pool.acquire()
            assert pool.in_hot_standby(connection) is on
            assert len(pool.destinations.maybe_standby) == (pool.size if on else 0)
            await pool.release(connection)


async def test_a_release_rolls_back(kit: Kit, pg_cluster: LocalCluster, table: Table) -> None:
    async with opened(kit, pg_cluster.master.dsn) as pool:
        connection = await pool.acquire()
        await kit.begin(connection, table.insert(1))
        await pool.release(connection)
    assert await pg_cluster.master.sql(table.count) == "0"


async def test_a_release_with_an_argument_that_is_not_the_drivers_loses_no_place(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with opened(kit, pg_cluster.master.dsn, most=1) as pool:
        connection = await pool.acquire()
        with pytest.raises(TypeError, match="mistaken"):
            await pool.release(connection, mistaken=True)
        pool.abort(connection)  # as the core does
        async with asyncio.timeout(10):
            connection = await pool.acquire()
        assert await kit.value(connection, "SELECT 1") == 1
        await pool.release(connection)


@pytest.mark.parametrize("error", [None, ValueError()])
async def test_the_end_of_a_block_commits_if_the_driver_has_it_so(
    kit: Kit, pg_cluster: LocalCluster, table: Table, error: Exception | None
) -> None:
    async with opened(kit, pg_cluster.master.dsn) as pool:
        connection = await pool.acquire()
        assert pool.leave_block(connection, error) is None  # nothing is open
        await kit.begin(connection, table.insert(1))
        work = pool.leave_block(connection, error)
        if work is not None:
            await work
        await pool.release(connection)
    committed = kit.commits and error is None
    assert await pg_cluster.master.sql(table.count) == str(int(committed))


async def test_a_cancelled_release_is_waited_for_by_the_driver_or_the_core(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with opened(kit, pg_cluster.master.dsn) as pool:
        assert pool.released is None or callable(pool.released)


async def test_an_aborted_connection_is_closed_and_its_place_is_free(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with opened(kit, pg_cluster.master.dsn, most=1) as pool:
        connection = await pool.acquire()
        assert not pool.is_closed(connection)
        pool.abort(connection)
        assert pool.is_closed(connection)
        await pool.release(connection)
        another = await pool.acquire()
        assert not pool.is_closed(another)
        assert await kit.value(another, "SELECT 1") == 1
        await pool.release(another)


async def test_an_abort_ends_the_statement_that_waits(kit: Kit, pg_cluster: LocalCluster) -> None:
    async with opened(kit, pg_cluster.master.dsn, most=1) as pool:
        connection = await pool.acquire()
        statement = asyncio.create_task(kit.value(connection, "SELECT pg_sleep(60)"))
        await asyncio.sleep(0.05)
        pool.abort(connection)
        with pytest.raises(kit.lost):
            await asyncio.wait_for(statement, 5)
        await pool.release(connection)


async def test_a_purge_spares_what_is_leased(kit: Kit, pg_cluster: LocalCluster) -> None:
    async with opened(kit, pg_cluster.master.dsn) as pool:
        kept, idle = [await pool.acquire() for _ in range(2)]
        await pool.release(idle)
        pool.purge([kept])
        assert pool.size == 1
        assert await kit.value(kept, "SELECT 1") == 1
        await pool.release(kept)
        pool.purge([])
        assert pool.size == 0
        connection = await pool.acquire()
        assert await kit.value(connection, "SELECT 1") == 1
        await pool.release(connection)


# Addresses of a name


@asynccontextmanager
async def name_of(node: LocalNode, *addresses: str) -> AsyncIterator[Endpoint]:
    """Yield a host whose name leads to these addresses of this machine.

    The server answers at 127.0.0.2 and 127.0.0.3, beside its own address. No resolver knows the
    name.
    """
    (host,) = Dsn.parse(node.dsn).hosts
    endpoint = endpoint_of(node.dsn.replace(f"@{host.host}:", f"@{NAME}:", 1))
    endpoint.note_addresses(addresses, frozenset[str]().__contains__)
    async with AsyncExitStack() as stack:
        for other in ("127.0.0.2", "127.0.0.3"):
            way = Forwarder(Place(host.host, host.port), listen=other, listen_port=host.port)
            await stack.enter_async_context(way)
        yield endpoint


async def test_a_connection_is_opened_to_the_address_that_its_name_leads_to(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with name_of(pg_cluster.master, "127.0.0.2") as endpoint:
        driver = kit.driver(endpoint.dsn)
        session = await driver.connect(endpoint, {}, lambda: None)
        assert session.address == "127.0.0.2"
        session.kill()
        async with opened(kit, endpoint) as pool:
            connection = await pool.acquire()
            assert pool.destinations.address_of(pool.key(connection)) == "127.0.0.2"
            await pool.release(connection)


@pytest.mark.parametrize("silent_one", [False, True], ids=["refuses", "silent"])
async def test_the_next_address_is_tried_where_one_does_not_answer(
    kit: Kit, pg_cluster: LocalCluster, silent_one: bool
) -> None:
    async with (
        name_of(pg_cluster.master, "127.0.0.4", "127.0.0.3") as endpoint,
        AsyncExitStack() as stack,
    ):
        if silent_one:
            port = endpoint.host.port
            hole = Proxy("127.0.0.1", port, listen="127.0.0.4", listen_port=port)
            (await stack.enter_async_context(hole)).black_hole()
        async with asyncio.timeout(20), opened(kit, endpoint, least=0) as pool:
            for _ in range(3):
                connection = await pool.acquire()
                assert pool.destinations.address_of(pool.key(connection)) == "127.0.0.3"
                pool.abort(connection)
                await pool.release(connection)
            session = await kit.driver(endpoint.dsn).connect(endpoint, {}, lambda: None)
            assert session.address == "127.0.0.3"
            session.kill()


async def test_logins_that_take_longer_than_acquires_have_time_serve_somebody(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    async with silent(pg_cluster.master) as (proxy, dsn):
        proxy.forward()
        named = f"{dsn}?application_name={application}"
        async with opened(kit, endpoint_of(named), least=0, most=1) as pool:
            before, proxy.delay = proxy.connections, 0.5
            for _ in range(10):
                try:
                    async with asyncio.timeout(0.2):
                        connection = await pool.acquire()
                except TimeoutError:
                    continue
                await pool.release(connection)
                break
            else:
                raise AssertionError("nobody was ever served")
            assert proxy.connections - before <= 2  # only one, unless the machine is busy
            pool.purge([])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await pool.acquire()
        await until_sessions(pg_cluster.master, application, 0)


async def test_where_no_address_answers_the_error_says_so(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with name_of(pg_cluster.master, "127.0.0.4", "127.0.0.5") as endpoint:
        driver = kit.driver(endpoint.dsn)
        with pytest.raises(Exception) as raised:  # noqa: PT011  # each driver has its own
            await driver.connect(endpoint, {}, lambda: None)
        assert driver.failure(raised.value) is Failure.BROKEN


async def test_what_its_name_has_left_is_drained_and_what_is_leased_is_spared(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with (
        name_of(pg_cluster.master, "127.0.0.2") as endpoint,
        opened(kit, endpoint, most=4) as pool,
    ):
        leased, idle = [await pool.acquire() for _ in range(2)]
        endpoint.note_addresses(("127.0.0.3",), {"127.0.0.1"}.__contains__)
        well = await pool.acquire()
        for connection in (idle, well):
            await pool.release(connection)
        pool.drain([leased], endpoint.has_left)
        assert pool.size == 3  # nothing has left the name yet
        endpoint.note_addresses(("127.0.0.3",), {"127.0.0.1", "127.0.0.2"}.__contains__)
        pool.drain([leased], endpoint.has_left)
        assert pool.size == 2
        assert await kit.value(leased, "SELECT 1") == 1
        pool.abort(leased)
        await pool.release(leased)
        for _ in range(3):
            connection = await pool.acquire()
            assert pool.destinations.address_of(pool.key(connection)) == "127.0.0.3"
            assert await kit.value(connection, "SELECT 1") == 1
            await pool.release(connection)


async def test_a_pool_that_is_closed_leaves_the_connections_of_another_alone(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    """A new socket of another pool may have got the number of a socket that this one has purged."""
    endpoint = endpoint_of(pg_cluster.master.dsn)
    async with opened(kit, endpoint) as pool:
        pool.purge([])
        driver = kit.driver(endpoint.dsn)
        opening = asyncio.create_task(driver.open(endpoint, kit.sizes(1, 1), lambda *_: None))
        for _ in range(5):  # lets the pool begin to connect
            await asyncio.sleep(0)
        pool.terminate()
        async with asyncio.timeout(5):
            another = await opening
        another.terminate()


async def test_a_lost_connection_is_not_acquired(kit: Kit, pg_cluster: LocalCluster) -> None:
    async with opened(kit, pg_cluster.master.dsn, most=1) as pool:
        connection = await pool.acquire()
        pid = await kit.pid(connection)
        await pool.release(connection)
        await end_those(pg_cluster.master, f"pid = {pid}")
        connection = await pool.acquire()
        assert await kit.pid(connection) != pid
        await pool.release(connection)


async def test_a_connection_that_a_crash_has_ended_is_not_acquired(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    """After a crash, a server's last message before it closes its sockets is a warning."""
    async with opened(kit, pg_cluster.master.dsn, most=1) as pool:
        connection = await pool.acquire()
        pid = await kit.pid(connection)
        await pool.release(connection)
        await crash_within(pg_cluster.master)
        connection = await pool.acquire()
        assert await kit.pid(connection) != pid
        await pool.release(connection)


async def test_the_end_of_connects_is_a_broken_host(kit: Kit, pg_cluster: LocalCluster) -> None:
    async with silent(pg_cluster.master) as (proxy, dsn), opened(kit, dsn, least=0) as pool:
        acquiring = asyncio.ensure_future(pool.acquire())
        await until(lambda: proxy.connections > 0)
        pool.end_connects()
        with pytest.raises(Exception) as ended:  # noqa: PT011  # SQLAlchemy wraps it
            await asyncio.wait_for(acquiring, 5)
        assert kit.driver(dsn).failure(ended.value) is Failure.BROKEN


async def test_a_cancelled_acquire_ends_on_a_silent_host_and_leaks_nothing(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with silent(pg_cluster.master) as (proxy, dsn), opened(kit, dsn, least=0, most=1) as pool:
        acquiring = asyncio.ensure_future(pool.acquire())
        await until(lambda: proxy.connections > 0)
        acquiring.cancel()
        done, _ = await asyncio.wait([acquiring], timeout=5)
        assert done
        assert acquiring.cancelled()
        proxy.forward()
        connection = await asyncio.wait_for(pool.acquire(), 5)
        assert await kit.value(connection, "SELECT 1") == 1
        await pool.release(connection)


async def test_who_gives_back_twice_is_told_from_who_holds_it_now(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with opened(kit, pg_cluster.master.dsn, most=1) as pool:

        async def take() -> Any:
            connection = await pool.acquire()
            pool.hold(connection)
            return connection

        first = await take()
        assert not pool.is_held_by_another(first)
        pool.note_release(first)
        await pool.release(first)
        given, over = asyncio.Event(), asyncio.Event()

        async def another() -> None:
            second = await take()
            assert not pool.is_held_by_another(second)
            given.set()
            await over.wait()
            assert pool.key(second) is not None
            same.append(second is first)
            pool.note_release(second)
            await pool.release(second)

        same: list[bool] = []
        task = asyncio.create_task(another())
        await given.wait()
        anothers = pool.is_held_by_another(first)
        over.set()
        await task
        # Where each lease has an object of its own, there is nothing to tell apart.
        assert anothers is same[0]


async def test_a_pool_that_is_terminated_has_no_connection_and_gives_none(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    async with opened(kit, f"{pg_cluster.master.dsn}?application_name={application}") as pool:
        leased = await pool.acquire()
        pool.terminate()
        assert pool.is_closed(leased)
        assert pool.size == 0
        with pytest.raises(Exception):  # noqa: B017, PT011  # each driver has its own
            await pool.acquire()
    await until_sessions(pg_cluster.master, application, 0)


async def test_a_pool_that_is_closed_has_no_session(
    kit: Kit, pg_cluster: LocalCluster, application: str
) -> None:
    async with opened(kit, f"{pg_cluster.master.dsn}?application_name={application}") as pool:
        await pool.release(await pool.acquire())
        await pool.close()
        await until_sessions(pg_cluster.master, application, 0)


# The reserved connection


@asynccontextmanager
async def reserved(kit: Kit, dsn: str) -> AsyncIterator[tuple[Session, list[None]]]:
    """Open a reserved connection; yield it with a list that grows with each call of `on_lost`."""
    lost: list[None] = []
    session = await kit.driver(dsn).connect(endpoint_of(dsn), {}, lambda: lost.append(None))
    try:
        yield session, lost
    finally:
        session.kill()


async def test_a_session_reads_text_as_the_server_sends_it(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with reserved(kit, pg_cluster.master.dsn) as (session, _):
        row = await session.fetch_row("SELECT true, 1, 2.50, NULL, 'a'::text")
        assert tuple(row) == ("t", "1", "2.50", None, "a")
        assert tuple(await session.fetch_row("SELECT 1 WHERE false")) == ()
        pid = await session.fetch_row("SELECT pg_backend_pid()")
        assert tuple(pid) == (str(session.login_pid),)


async def test_a_session_tells_whether_there_is_a_row(kit: Kit, pg_cluster: LocalCluster) -> None:
    for node, standby in ((pg_cluster.master, False), (pg_cluster.replicas[0], True)):
        async with reserved(kit, node.dsn) as (session, lost):
            assert await session.has_row(STANDBY_QUERY) is standby
            with pytest.raises(Exception) as failed:  # noqa: PT011  # each driver has its own
                await session.has_row("SELECT no_such")
            assert kit.driver(pg_cluster.dsn).failure(failed.value) is Failure.STATEMENT
            assert tuple(await session.fetch_row("SELECT 1")) == ("1",)
            assert lost == []


async def test_a_session_fails_without_being_lost(kit: Kit, pg_cluster: LocalCluster) -> None:
    async with reserved(kit, pg_cluster.master.dsn) as (session, lost):
        with pytest.raises(Exception) as failed:  # noqa: PT011  # each driver has its own
            await session.fetch_row("SELECT no_such")
        assert kit.driver(pg_cluster.dsn).failure(failed.value) is Failure.STATEMENT
        assert tuple(await session.fetch_row("SELECT 1")) == ("1",)
        assert not session.closed
        assert lost == []


async def test_a_session_says_whether_its_server_is_a_standby(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    for node, on in ((pg_cluster.master, False), (pg_cluster.replicas[0], True)):
        async with reserved(kit, node.dsn) as (session, _):
            assert session.in_hot_standby is on


async def test_the_loss_of_a_session_is_told_once(kit: Kit, pg_cluster: LocalCluster) -> None:
    async with reserved(kit, pg_cluster.master.dsn) as (session, lost):
        await end_those(pg_cluster.master, f"pid = {session.login_pid}")
        await until(lambda: bool(lost))
        assert session.closed
        with pytest.raises(Exception):  # noqa: B017, PT011  # each driver has its own
            await session.fetch_row("SELECT 1")
        assert lost == [None]


async def test_a_session_that_is_killed_is_closed_and_not_lost(
    kit: Kit, pg_cluster: LocalCluster
) -> None:
    async with reserved(kit, pg_cluster.master.dsn) as (session, lost):
        asking = asyncio.create_task(session.fetch_row("SELECT pg_sleep(60)::text"))
        await asyncio.sleep(0.05)
        session.kill()
        await asyncio.wait([asking], timeout=5)
        assert asking.done()
        assert asking.exception() is not None
        assert session.closed
        assert lost == []
