"""What is specific to the aiopg adapter: aiopg's lock, psycopg2's arguments, libpq's behaviour."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import warnings
from typing import TYPE_CHECKING, Any

import aiopg
import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import extensions

from hasql import ConfigurationError, NotAvailableError
from hasql.aiopg import PoolManager
from hasql.cluster.dsn import Dsn
from hasql.dns import Resolver
from testbed.kits.aiopg import AiopgKit, Overtaken
from testbed.middlemen.addresses import Place, dsn_through
from testbed.nameserver import NameServer
from testbed.proxy import Proxy
from testbed.scene import endpoint_of, tasks_end, tcp_options, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing import LocalCluster, LocalNode

pytestmark = pytest.mark.usefixtures("nothing_unheard")


async def value(connection: aiopg.Connection, query: str) -> Any:
    async with connection.cursor() as cursor:
        await cursor.execute(query)
        return (await cursor.fetchone())[0]


async def pid(connection: aiopg.Connection) -> Any:
    return await value(connection, "SELECT pg_backend_pid()")


class Gate:
    """An `on_connect` hook that lets connections through or holds them up, as the test says."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.reached = asyncio.Event()
        #: How many connections it lets through although it is closed.
        self.passes = 0

    async def __call__(self, _: aiopg.Connection) -> None:
        if self.passes:
            self.passes -= 1
            return
        self.reached.set()
        await self.open.wait()


# aiopg's lock


async def test_nobody_waits_behind_a_slow_connect_if_an_idle_connection_is_there(
    pg_cluster: LocalCluster,
) -> None:
    gate = Gate()
    kwargs = {"minsize": 2, "maxsize": 4, "on_connect": gate}
    async with PoolManager(
        pg_cluster.master.dsn, acquire_timeout=20, pool_factory_kwargs=kwargs
    ) as manager:
        await manager.ready(1, 0)
        one, other = await manager.acquire_master(), await manager.acquire_master()
        gate.reached.clear()
        gate.open.clear()
        waiting = asyncio.ensure_future(manager.acquire_master().__aenter__())
        await gate.reached.wait()
        async with asyncio.timeout(5):
            await manager.release(other)
            assert await waiting is other
            await manager.release(one)
            for _ in range(3):
                async with manager.acquire_master() as connection:
                    assert connection is one
        assert manager.metrics().nodes[0].pool_idle == 1
        gate.open.set()
        await until(lambda: manager.metrics().nodes[0].pool_idle == 2)
        [pool] = manager.pools
        assert pool.freesize == 2
        await manager.release(other)


async def test_the_first_after_a_restart_does_not_wait_for_the_whole_minimum(
    pg_cluster: LocalCluster,
) -> None:
    gate, master = Gate(), pg_cluster.master
    kwargs = {"minsize": 5, "maxsize": 5, "on_connect": gate}
    async with PoolManager(
        master.dsn, acquire_timeout=20, refresh_delay=0.1, pool_factory_kwargs=kwargs
    ) as manager:
        await manager.ready(1, 0)
        assert manager.metrics().nodes[0].pool_idle == 5
        await master.stop()
        await until(lambda: manager.master_pool_count == 0)
        gate.passes = 1
        gate.reached.clear()
        gate.open.clear()
        await master.start()
        async with manager.acquire_master() as connection:
            assert await value(connection, "SELECT 1") == 1
            await gate.reached.wait()
        gate.open.set()
        await until(lambda: manager.metrics().nodes[0].pool_idle == 5)


async def test_a_connect_that_hangs_does_not_hang_those_that_come_later(
    pg_cluster: LocalCluster,
) -> None:
    gate = Gate()
    kwargs = {"minsize": 0, "maxsize": 2, "on_connect": gate}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        gate.open.clear()
        with pytest.raises(NotAvailableError):
            _ = await manager.acquire_master(timeout=0.3)
        gate.open = asyncio.Event()
        gate.open.set()
        async with manager.acquire_master(timeout=10) as connection:
            assert await value(connection, "SELECT 1") == 1
        assert manager.metrics().nodes[0].pool_idle == 1


async def test_connects_that_several_have_left_on_a_silent_host_all_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/app"
        kit = AiopgKit()
        opening = kit.driver(dsn).open(endpoint_of(dsn), kit.sizes(0, 3), lambda *_: None)
        pool: Any = await opening
        before = asyncio.all_tasks()
        acquires = [asyncio.ensure_future(pool.acquire()) for _ in range(3)]
        assert not (await asyncio.wait(acquires, timeout=0.2))[0]
        for acquiring in acquires:
            acquiring.cancel()
        await tasks_end(before)  # else the later acquires would hang behind the first
        pool.terminate()


async def test_a_hook_that_hangs_on_a_frozen_server_leaves_nothing_open(
    pg_cluster: LocalCluster,
) -> None:
    master, freeze = pg_cluster.master, False
    made: list[aiopg.Connection] = []

    async def hook(connection: aiopg.Connection) -> None:
        made.append(connection)
        if freeze:
            master.freeze()
            await value(connection, "SELECT 1")

    kwargs = {"minsize": 1, "maxsize": 3, "on_connect": hook}
    manager = PoolManager(master.dsn, refresh_timeout=30, pool_factory_kwargs=kwargs)
    await manager.ready(1, 0)
    held = await manager.acquire_master()
    freeze = True
    acquiring = asyncio.ensure_future(manager.acquire_master(timeout=3))
    await until(lambda: len(made) == 2)  # the second has logged in, and its hook hangs
    with pytest.raises(NotAvailableError):
        _ = await acquiring
    async with asyncio.timeout(5):
        await manager.terminate()
    await until(lambda: all(connection.closed for connection in made))
    assert len(made) == 2
    with pytest.raises(psycopg2.InterfaceError):
        await value(held, "SELECT 1")
    master.thaw()


# What aiopg's pool would do otherwise


async def test_an_open_transaction_costs_neither_the_connection_nor_a_warning(
    pg_cluster: LocalCluster,
) -> None:
    kwargs = {"minsize": 1, "maxsize": 1}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        pids = set()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for statement in ("", "CREATE TABLE mine ()", "SELECT no_such_thing"):
                connection = await manager.acquire_master()
                pids.add(await pid(connection))
                async with connection.cursor() as cursor:
                    try:
                        await cursor.execute(f"BEGIN; {statement}")
                    except psycopg2.ProgrammingError:
                        assert "no_such" in statement
                await manager.release(connection)
        async with manager.acquire_master() as connection:
            assert {await pid(connection)} == pids
            assert await value(connection, "SELECT to_regclass('mine')") is None


async def test_a_statement_that_is_still_running_costs_the_connection_alone(
    pg_cluster: LocalCluster,
) -> None:
    kwargs = {"minsize": 1, "maxsize": 1}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        connection = await manager.acquire_master()
        running = asyncio.ensure_future(value(connection, "SELECT pg_sleep(60)"))
        await until(connection.isexecuting)
        await manager.release(connection)
        with pytest.raises(psycopg2.OperationalError):
            await running
        async with manager.acquire_master() as connection:
            assert await value(connection, "SELECT 1") == 1


async def test_a_dead_idle_connection_is_noticed_at_once_and_replaced(
    pg_cluster: LocalCluster,
) -> None:
    master = pg_cluster.master
    async with Proxy(master.host, master.port) as proxy:
        dsn = master.dsn.replace(str(master.port), str(proxy.port))
        kwargs = {"minsize": 3, "maxsize": 3}
        # No probe is due meanwhile that could notice the loss.
        async with PoolManager(dsn, refresh_delay=60, pool_factory_kwargs=kwargs) as manager:
            await manager.ready(1, 0)
            proxy.drop()
            await until(lambda: proxy.connections == 8)  # three and a reserved one, twice
            await until(lambda: manager.metrics().nodes[0].pool_idle == 3)
            busy = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - busy < 0.2  # no reader of a closed socket spins
            for _ in range(5):
                async with manager.acquire_master() as connection:
                    assert await value(connection, "SELECT 1") == 1


async def test_connections_taken_from_the_pool_directly_survive_next_to_leases(
    pg_cluster: LocalCluster,
) -> None:
    kwargs = {"minsize": 1, "maxsize": 2}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        pool = await manager.get_pool(read_only=False)
        async with pool.acquire() as direct, manager.acquire_master() as connection:
            assert await pid(direct) != await pid(connection)
            with pytest.raises(NotAvailableError):
                _ = await manager.acquire_master(timeout=0.1)
        assert (pool.size, pool.freesize) == (2, 2)
        connection = await pool.acquire()
        manager.register_connection(connection, pool)
        await manager.release(connection)
        assert (pool.size, pool.freesize) == (2, 2)
        direct = await pool.acquire()
    # Closing breaks the connection and does not wait for it.
    assert direct.closed
    del pool, direct
    gc.collect()


async def test_a_place_that_a_lost_connection_leaves_is_not_lost(pg_cluster: LocalCluster) -> None:
    """aiopg wakes no waiter for that place. One connection was taken from the pool directly."""
    kwargs = {"minsize": 1, "maxsize": 2}
    async with PoolManager(
        pg_cluster.master.dsn, acquire_timeout=20, pool_factory_kwargs=kwargs
    ) as manager:
        pool = await manager.get_pool(read_only=False)
        async with pool.acquire():
            lost = await manager.acquire_master()
            waiting = asyncio.ensure_future(manager.acquire_master().__aenter__())
            await until(lambda: manager.metrics().nodes[0].in_flight == 2)
            await asyncio.wait([waiting], timeout=0.1)  # time to find the pool full
            _ = lost.close()
            await manager.release(lost)
            async with asyncio.timeout(10):
                connection = await waiting
            assert await value(connection, "SELECT 1") == 1
            await manager.release(connection)
        assert (pool.size, pool.freesize) == (2, 2)


# psycopg2's arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"maxsise": 5}, "did you mean 'maxsize'"),
        ({"sslmod": "require"}, "did you mean 'sslmode'"),
        ({"minsize": 5, "maxsize": 2}, "minsize=5 and maxsize=2 cannot work"),
        ({"maxsize": -1}, "maxsize >= 1 must hold"),
        ({"host": "elsewhere"}, "takes no argument 'host'"),
        ({"target_session_attrs": "any"}, "takes no argument 'target_session_attrs'"),
        ({"async_": False}, "takes no argument 'async_'"),
        ({"connection_factory": print}, "must be a class derived from"),
    ],
)
def test_arguments_that_cannot_work_fail_at_once(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PoolManager("postgresql://db1,db2/app", pool_factory_kwargs=kwargs)


async def test_8_the_kernel_ends_flows_that_are_lost_as_the_user_wants_it(
    pg_cluster: LocalCluster,
) -> None:
    async with PoolManager(pg_cluster.dsn) as manager, manager.acquire_replica() as connection:
        usual = {"idle": 5, "interval": 2, "count": 3, "user_timeout": 10_000}
        assert tcp_options(connection.raw.fileno()) == usual
    dsn = f"{pg_cluster.dsn}?keepalives_idle=7&tcp_user_timeout=0"
    async with (
        PoolManager(dsn, pool_factory_kwargs={"keepalives_count": 4}) as manager,
        manager.acquire_replica() as connection,
    ):
        mine = {"idle": 7, "interval": 2, "count": 4, "user_timeout": 0}
        assert tcp_options(connection.raw.fileno()) == mine


async def test_all_that_psycopg2_and_libpq_know_is_taken(pg_cluster: LocalCluster) -> None:
    kwargs = {
        "maxsize": 0,
        "timeout": 5,
        "application_name": "mine",
        "keepalives_idle": 7,
        "options": "-c search_path=elsewhere",
        "cursor_factory": psycopg2.extras.RealDictCursor,
        "connection_factory": psycopg2.extras.RealDictConnection,
    }
    async with PoolManager(pg_cluster.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)  # whatever its rows look like
        leases = [await manager.acquire_master() for _ in range(15)]  # the pool has no upper bound
        for connection in leases:
            assert isinstance(connection.raw, psycopg2.extras.RealDictConnection)
            async with connection.cursor() as cursor:
                await cursor.execute("SELECT current_setting('application_name') AS name")
                assert (await cursor.fetchone())["name"] == "mine"
            await manager.release(connection)
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mine'"
        assert await pg_cluster.master.sql(query) == "16"  # with the reserved connection


async def test_a_class_that_brings_the_password_logs_in_and_does_no_more(
    pg_cluster: LocalCluster,
) -> None:
    password = Dsn.parse(pg_cluster.dsn).password

    class Token(extensions.connection):
        def __init__(self, dsn: str, *args: Any, **kwargs: Any) -> None:
            super().__init__(extensions.make_dsn(dsn, password=password), *args, **kwargs)

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            kwargs["cursor_factory"] = psycopg2.extras.RealDictCursor
            return super().cursor(*args, **kwargs)

    dsn = pg_cluster.dsn.replace("@", "wrong@", 1)
    kwargs = {"minsize": 1, "connection_factory": Token, "enable_hstore": False}
    async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 2)
        roles = [(node.role.value, node.fencing) for node in manager.metrics().nodes]
        assert sorted(roles) == [("master", True), ("replica", True), ("replica", True)]


# How libpq behaves


@pytest.fixture
def many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a name stand for two addresses: one refuses connections, the other does not."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        names = ["127.0.0.2", "127.0.0.1"] if host == "many.test" else [host]
        return [found for name in names for found in resolve(name, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("many_addresses")
@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"], indirect=True
)
async def test_all_addresses_of_a_name_are_tried(pg_cluster: LocalCluster) -> None:
    dsn = pg_cluster.master.dsn.replace("127.0.0.1", "many.test")
    kwargs = {"minsize": 1, "maxsize": 3}
    async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        leases = [await manager.acquire_master() for _ in range(3)]
        for connection in leases:
            assert connection.raw.info.host == "many.test"
            await manager.release(connection)


async def test_a_slow_address_is_waited_for_if_the_others_refuse(pg_cluster: LocalCluster) -> None:
    """`localhost` is such a name (127.0.0.1 and ::1), and a login takes long on a busy machine."""
    node = pg_cluster.master
    kwargs = {"minsize": 1, "maxsize": 4}
    with NameServer() as nameserver:
        async with Proxy(node.host, node.port, listen="127.0.0.31") as proxy:
            proxy.delay = 0.5
            nameserver.set("slow.test", "127.0.0.31", "127.0.0.32")
            dsn = node.dsn.replace(f"127.0.0.1:{node.port}", f"slow.test:{proxy.port}")
            resolver = Resolver(nameservers=[nameserver.address], fallback=False)
            async with PoolManager(
                dsn, resolver=resolver, pool_factory_kwargs=kwargs, acquire_timeout=10
            ) as manager:
                # The logins wait for one another, which is not the fault of the address.
                for lease in await asyncio.gather(*(manager.acquire_master() for _ in range(4))):
                    await manager.release(lease)
                nodes = manager.metrics().nodes
                assert [node.last_error for node in nodes] == [None]


async def test_a_name_is_resolved(pg_cluster: LocalCluster) -> None:
    dsn = pg_cluster.master.dsn.replace("127.0.0.1", "localhost")
    async with PoolManager(dsn) as manager, manager.acquire_master() as connection:
        assert await value(connection, "SELECT 1") == 1


async def test_a_second_attempt_of_libpq_ends_the_connect_instead_of_hanging_it(
    unused_ports: tuple[int, int],
) -> None:
    async def accept_tls_and_hang_up(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(await reader.read(8)) == 8:
            writer.write(b"S")
            await reader.read(1)
        writer.close()

    server = await asyncio.start_server(accept_tls_and_hang_up, "127.0.0.1", unused_ports[0])
    dsn = f"postgresql://app@127.0.0.1:{unused_ports[0]}/app?sslmode=prefer"
    manager = PoolManager(dsn, refresh_timeout=30)
    with pytest.raises(NotAvailableError, match="choose another sslmode"):
        await manager.ready(timeout=1)
    await manager.close()
    server.close()
    await server.wait_closed()


async def test_no_closed_connection_makes_another_deaf(pg_cluster: LocalCluster) -> None:
    """aiopg, when it closes twice, would stop listening to any socket that reuses the number."""
    kwargs = {"minsize": 0, "maxsize": 5}
    one = PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs)
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as other:
        closed = await one.acquire_master()
        number = closed.raw.fileno()
        _ = closed.close()
        connection = await other.acquire_master()
        assert connection.raw.fileno() == number
        await one.terminate()
        async with asyncio.timeout(10):
            assert await value(connection, "SELECT 1") == 1
        await other.release(connection)


async def test_a_hook_that_fails_leaves_nothing_open(pg_cluster: LocalCluster) -> None:
    made: list[aiopg.Connection] = []

    async def hook(connection: aiopg.Connection) -> None:
        made.append(connection)
        if len(made) > 1:
            raise LookupError("mine")

    kwargs = {"minsize": 1, "on_connect": hook}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        held = await manager.acquire_master()
        [pool] = manager.pools
        with pytest.raises(LookupError, match="mine"):
            _ = await manager.acquire_master()
        with pytest.raises(LookupError, match="mine"):
            _ = await pool.acquire()
        assert [connection.closed for connection in made] == [0, 1, 1]
        await manager.release(held)


async def fetch(connection: aiopg.Connection) -> None:
    await value(connection, "SELECT 'by a hook'")


@pytest.mark.parametrize("question", [b"hstore", b"by a hook"])
async def test_4_a_connection_that_ends_behind_an_answer_to_its_opener_is_nobodys_error(
    pg_cluster: LocalCluster, question: bytes
) -> None:
    master = pg_cluster.master
    kwargs = {"minsize": 1, "maxsize": 2, "on_connect": fetch}
    async with Proxy(master.host, master.port) as proxy:
        dsn = dsn_through(pg_cluster, Place("127.0.0.1", proxy.port))
        async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
            held, before = await manager.acquire_master(), proxy.connections
            proxy.ends_behind = question
            acquiring = asyncio.ensure_future(manager.acquire_master(timeout=20).__aenter__())
            # A second new connection shows that the acquire has met the first, which has ended.
            await until(lambda: acquiring.done() or proxy.connections > before + 1)
            proxy.ends_behind = None
            connection = await acquiring
            assert await value(connection, "SELECT 1") == 1
            for each in (held, connection):
                await manager.release(each)


async def test_a_cursor_that_is_closed_as_its_connection_was_lost_is_for_another_try(
    pg_cluster: LocalCluster,
) -> None:
    kwargs = {"minsize": 1, "maxsize": 1}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        for lost in (False, True):
            with pytest.raises(psycopg2.InterfaceError, match="cursor already closed") as met:
                async with manager.acquire_master() as connection:
                    cursor = await connection.cursor()
                    await cursor.execute("SELECT pg_backend_pid()")
                    if lost:
                        (number,) = await cursor.fetchone()
                        await pg_cluster.master.sql(f"SELECT pg_terminate_backend({number}, 5000)")
                        await until(lambda: connection.closed)
                    else:
                        cursor.close()
                    await cursor.fetchone()
            assert manager.retriable(met.value) is lost


async def test_a_hook_that_uses_a_closed_cursor_is_told_so(pg_cluster: LocalCluster) -> None:
    async def hook(connection: aiopg.Connection) -> None:
        async with connection.cursor() as cursor:
            cursor.close()
            await cursor.execute("SELECT 1")

    kwargs = {"minsize": 0, "on_connect": hook}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        with pytest.raises(psycopg2.InterfaceError, match="cursor already closed"):
            _ = await manager.acquire_master()


async def stop_and_start(node: LocalNode) -> None:
    await node.stop()
    await node.start()


async def test_numbers_of_refused_sockets_can_be_used_again(pg_cluster: LocalCluster) -> None:
    """On uvloop, aiopg leaves the numbers of these sockets behind in the loop."""
    master = pg_cluster.master
    async with PoolManager(master.dsn, refresh_delay=0.05) as manager:
        for _ in range(3):
            await manager.ready(1, 0)
            await stop_and_start(master)
        await manager.ready(1, 0)
        async with manager.acquire_master() as connection:
            assert await value(connection, "SELECT 1") == 1


async def test_numbers_of_refused_sockets_can_be_used_by_others(
    unused_ports: tuple[int, int],
) -> None:
    loop = asyncio.get_running_loop()
    dsn = f"postgresql://app@127.0.0.1:{unused_ports[0]}/app"
    manager = PoolManager(dsn, pool_factory_kwargs={"minsize": 0, "maxsize": 1})
    with pytest.raises(NotAvailableError):
        await manager.ready(1, 0, timeout=0.3)
    await manager.terminate()
    sockets = [each for _ in range(10) for each in socket.socketpair()]
    for each in sockets:
        loop.add_reader(each, lambda: None)
        loop.remove_reader(each)
        each.close()


@pytest.fixture
def overtaken() -> Iterator[list[socket.socket]]:
    yield Overtaken.sockets
    for each in Overtaken.sockets:
        each.close()
    Overtaken.sockets.clear()


async def lose(manager: PoolManager, master: LocalNode) -> tuple[aiopg.Connection, int]:
    """Lose a leased connection; return it and the number that its socket had."""
    connection = await manager.acquire_master()
    number = connection.raw.fileno()
    await master.sql(f"SELECT pg_terminate_backend({await pid(connection)}, 5000)")
    await until(lambda: bool(connection.closed))
    [taken] = Overtaken.sockets
    assert taken.fileno() == number
    return connection, number


async def test_the_number_of_a_lost_socket_can_be_used_again_whoever_has_it_first(
    pg_cluster: LocalCluster, overtaken: list[socket.socket]
) -> None:
    """A reader left behind would be in the way of the next connection that gets this number."""
    kwargs = {"minsize": 0, "maxsize": 2, "connection_factory": Overtaken}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        lost, number = await lose(manager, pg_cluster.master)
        overtaken.pop().close()
        session = await aiopg.connect(pg_cluster.master.dsn)
        assert session.raw.fileno() == number
        assert await value(session, "SELECT 1") == 1
        await session.close()
        await manager.release(lost)


async def test_what_listens_to_the_number_of_a_lost_socket_is_left_alone(
    pg_cluster: LocalCluster, overtaken: list[socket.socket]
) -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    kwargs = {"minsize": 0, "maxsize": 2, "connection_factory": Overtaken}
    manager = PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs)
    await manager.ready(1, 0)
    _, number = await lose(manager, pg_cluster.master)
    overtaken.pop().close()
    one, other = socket.socketpair()
    with one, other:
        assert one.fileno() == number
        loop.add_reader(one, heard.set)
        await manager.terminate()  # breaks the leased connections
        other.send(b"heard")
        async with asyncio.timeout(5):
            await heard.wait()
        loop.remove_reader(one)


async def test_a_number_that_another_library_has_left_in_the_loop_can_be_used(
    pg_cluster: LocalCluster,
) -> None:
    loop = asyncio.get_running_loop()
    kwargs = {"minsize": 0, "maxsize": 1}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        left = socket.socket()
        number = left.fileno()
        loop.add_reader(number, lambda: None)
        await asyncio.sleep(0)  # lets the loop register it with the kernel
        left.close()  # the loop is not told
        async with manager.acquire_master(timeout=10) as connection:
            assert connection.raw.fileno() == number
            assert await value(connection, "SELECT 1") == 1
