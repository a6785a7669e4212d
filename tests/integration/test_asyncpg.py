"""What is specific to asyncpg on real servers: its hooks, how it fills its pool, its errors.

What every driver has to withstand is in `test_drivers*.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import uvloop

from hasql import ConfigurationError, NotAvailableError
from hasql._adapters.asyncpg.connection import failure_of, sqlstate_of
from hasql._adapters.asyncpg.driver import AsyncpgDriver
from hasql.asyncpg import PoolManager
from hasql.cluster.dsn import Dsn
from hasql.driver import Failure
from testbed.certificates import Authority
from testbed.kits.asyncpg import AsyncpgKit
from testbed.scene import endpoint_of, until
from testbed.silent_tls import SilentTls
from tests.middlemen import needs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from hasql.testing import LocalCluster


@pytest.fixture
async def manager(pg_cluster: LocalCluster) -> AsyncIterator[PoolManager]:
    async with PoolManager(pg_cluster.dsn, refresh_delay=0.2) as manager:
        await manager.ready(1, 2)
        yield manager


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


async def test_10_a_returning_host_refills_its_pool_at_once_and_nobody_hears_of_tries(
    manager: PoolManager, pg_cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "asyncpg.pool")
    node = pg_cluster.replicas[0]
    await node.stop()
    await until(lambda: manager.replica_pool_count == 1)
    # Longer than asyncpg waits between its first attempts.
    await manager.wait_next_pool_check()
    await asyncio.sleep(1.5)
    await node.start()
    await manager.ready(1, 2)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: all(node.pool_idle == 10 for node in manager.metrics().nodes))
    assert loop.time() - began < 3
    assert not [record for record in caplog.records if record.name == "asyncpg.pool"]


# What went wrong in the past


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
            # asyncpg now tries in vain to fill its pool. No acquire may wait behind that.
            async with manager.acquire_master() as connection:
                connection.terminate()
            loop = asyncio.get_running_loop()
            for _ in range(3):
                began = loop.time()
                with pytest.raises(NotAvailableError, match="too many connections"):
                    await manager.acquire_master(timeout=1)
                assert loop.time() - began < 3
            assert await held.fetchval("SELECT 1") == 1
        finally:
            await master.sql("ALTER ROLE app CONNECTION LIMIT -1")
        async with manager.acquire_master(timeout=5) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        await manager.release(held)


@pytest.mark.parametrize("turns", range(8))
async def test_10_a_purge_in_any_turn_of_the_loop_behind_a_login_leaves_it_not_open(
    pg_cluster: LocalCluster, turns: int
) -> None:
    made: list[asyncpg.Connection[Any]] = []

    def purge_after(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(purge_after, turns - 1)
        else:
            pool.purge(())

    async def connect(*args: Any, **kwargs: Any) -> Any:
        made.append(await asyncpg.connect(*args, **kwargs))
        purge_after(turns)
        return made[-1]

    endpoint, kwargs = endpoint_of(pg_cluster.master.dsn), {"min_size": 0, "connect": connect}
    pool: Any = await AsyncpgDriver().open(endpoint, kwargs, lambda *_: None)
    with contextlib.suppress(ConnectionError):
        await pool.acquire()
    for _ in range(2 * turns):
        await asyncio.sleep(0)
    await until(made[0].is_closed)
    assert pool.size == 0
    pool.terminate()


async def test_a_login_that_nobody_needs_any_more_is_not_kept_for_long(
    pg_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hasql._adapters.asyncpg.pool._LONGEST_UNCLAIMED", 0.2)
    made: list[asyncpg.Connection[Any]] = []

    async def connect(*args: Any, **kwargs: Any) -> Any:
        made.append(await asyncpg.connect(*args, **kwargs))
        acquiring.cancel()
        return made[-1]

    endpoint, kwargs = endpoint_of(pg_cluster.master.dsn), {"min_size": 0, "connect": connect}
    pool: Any = await AsyncpgDriver().open(endpoint, kwargs, lambda *_: None)
    acquiring = asyncio.ensure_future(pool.acquire())
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    await asyncio.sleep(0)
    assert not made[0].is_closed()
    await until(made[0].is_closed)
    pool.terminate()


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


async def test_whatever_asyncpg_says_of_a_closed_connection_it_is_lost(
    pg_cluster: LocalCluster,
) -> None:
    connection, terminated = [await asyncpg.connect(pg_cluster.master.dsn) for _ in range(2)]
    terminated.terminate()
    statement = await connection.prepare("SELECT 1")
    transaction = connection.transaction()
    await transaction.start()
    await connection.close()
    said = set()
    for use in (
        lambda: connection.execute("SELECT 1"),
        lambda: connection.copy_from_query("SELECT 1", output=Path(os.devnull)),
        lambda: terminated.copy_from_query("SELECT 1", output=Path(os.devnull)),
        statement.fetchval,
        transaction.commit,
    ):
        with pytest.raises((asyncpg.InterfaceError, AttributeError)) as met:
            await use()
        assert failure_of(met.value) is Failure.BROKEN
        said.add(str(met.value))
    assert len(said) == 5, "asyncpg has a sentence for each"


async def test_what_an_application_asks_asyncpg_wrongly_is_no_lost_connection(
    pg_cluster: LocalCluster,
) -> None:
    connection = await asyncpg.connect(pg_cluster.master.dsn)
    wrong: Any = 5  # not the name of a table
    try:
        with pytest.raises(AttributeError) as met:
            await connection.copy_records_to_table(wrong, records=[])
        assert failure_of(met.value) is Failure.OTHER
    finally:
        await connection.close()


async def test_9_what_a_role_may_not_ask_comes_back_with_a_grant(pg_cluster: LocalCluster) -> None:
    master = pg_cluster.master
    await master.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        async with PoolManager(pg_cluster.dsn) as manager:
            await manager.ready(1, 2)
            assert not any(node.fencing for node in manager.metrics().nodes)
            await master.sql("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
            # Only a new session asks for everything again at once; the old one does so after a
            # minute.
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
    """Acquires that overlap asyncpg's own task on a dying server see errors of the server only."""
    stop = asyncio.Event()
    seen: list[BaseException] = []

    async def use() -> None:
        while not stop.is_set():
            try:
                async with manager.acquire_master(timeout=0.2) as connection:
                    await connection.execute("SELECT 1")
            except BaseException as error:  # noqa: BLE001  # none may be a CancelledError
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


# The reserved connection


async def serves(manager: PoolManager) -> None:
    """Wait for one master and two replicas, all of which can be fenced."""
    await manager.ready(1, 2)
    roles = [(node.role.value, node.fencing) for node in manager.metrics().nodes]
    assert sorted(roles) == [("master", True), ("replica", True), ("replica", True)]


class ByName(asyncpg.Record):
    """Rows whose values can be read by name only."""

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            raise TypeError("ask by name")
        return super().__getitem__(key)

    def __iter__(self) -> Any:
        return iter(self.keys())


class Mine(asyncpg.Connection):
    """A connection whose methods are the application's own."""

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        row = await super().fetchrow(*args, **kwargs)
        return row and dict(row)

    async def copy_from_query(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("not for hasql")

    async def execute(self, query: str, *args: Any, **kwargs: Any) -> Any:
        return await super().execute(f"/* mine */ {query}", *args, **kwargs)


@pytest.mark.parametrize("kwargs", [{"connection_class": Mine}, {"record_class": ByName}])
async def test_classes_of_the_application_are_for_what_it_is_lent(
    pg_cluster: LocalCluster, kwargs: dict[str, Any]
) -> None:
    kwargs = {"min_size": 1, "max_size": 2, **kwargs}
    async with PoolManager(pg_cluster.dsn, pool_factory_kwargs=kwargs) as manager:
        await serves(manager)
        async with manager.acquire_replica(timeout=5) as connection:
            row = await connection.fetchrow("SELECT 1 AS one")
            assert row is not None
            assert row["one"] == 1
            assert isinstance(row, kwargs.get("record_class", dict))


async def test_a_connect_of_the_application_logs_in_but_its_codecs_and_settings_stay_its_own(
    pg_cluster: LocalCluster, application: str
) -> None:
    password = Dsn.parse(pg_cluster.dsn).password
    asked: list[set[str]] = []

    # This function takes what asyncpg's pool passes to it, and nothing more.
    async def connect(dsn: str, *, loop: Any, connection_class: Any, record_class: Any) -> Any:
        asked.append({connection_class.__name__, record_class.__name__})
        connection = await asyncpg.connect(
            dsn, password=password, loop=loop, connection_class=Mine, record_class=ByName
        )
        for name in ("bool", "int8", "int4", "text", "numeric"):
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=str, decoder=lambda _: None, format="text"
            )
        await connection.execute("SET default_transaction_isolation = serializable")
        return connection

    dsn = pg_cluster.dsn.replace("@", "wrong@", 1) + f"?application_name={application}"
    kwargs = {"min_size": 1, "max_size": 2, "connect": connect}
    async with PoolManager(dsn, refresh_delay=0.1, pool_factory_kwargs=kwargs) as manager:
        await serves(manager)
        for _ in range(3):
            await manager.wait_next_pool_check()
            await serves(manager)
        assert len(asked) == 6  # three pools, and three reserved connections that stay
        # A probe may be in the middle of its own transaction, but none stays open.
        query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'"
        async with asyncio.timeout(20):
            while await pg_cluster.replicas[0].sql(query) != "0":
                await asyncio.sleep(0.01)


async def test_a_connection_that_is_lost_as_soon_as_it_was_opened_is_no_error(
    pg_cluster: LocalCluster,
) -> None:
    lost = 0

    async def connect(*args: Any, **kwargs: Any) -> Any:
        nonlocal lost
        connection = await asyncpg.connect(*args, **kwargs)
        if ready and lost < 2:
            lost += 1
            connection.terminate()
        return connection

    ready = False
    kwargs = {"min_size": 0, "max_size": 2, "connect": connect}
    async with PoolManager(pg_cluster.master.dsn, pool_factory_kwargs=kwargs) as manager:
        await manager.ready(1, 0)
        ready = True
        async with manager.acquire_master(timeout=10) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert lost == 2


async def test_a_password_that_is_made_anew_each_time_is_the_reserved_connections_too(
    pg_cluster: LocalCluster,
) -> None:
    parsed = Dsn.parse(pg_cluster.dsn)

    async def password() -> str:
        assert parsed.password is not None
        return parsed.password

    dsn = f"postgresql://{parsed.user}@{','.join(map(str, parsed.hosts))}/{parsed.dbname}"
    kwargs = {"min_size": 1, "max_size": 2, "password": password, "command_timeout": 1e-6}
    async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        await serves(manager)


@pytest.mark.parametrize("busy", [False, True])
async def test_the_loss_of_a_reserved_connection_leaves_no_error_behind(
    pg_cluster: LocalCluster, caplog: pytest.LogCaptureFixture, busy: bool
) -> None:
    master, lost = pg_cluster.master, asyncio.Event()
    session = await AsyncpgDriver().connect(endpoint_of(master.dsn), {}, lost.set)
    asking = asyncio.ensure_future(session.fetch_row("SELECT pg_sleep(60)" if busy else "SELECT 1"))
    await asyncio.sleep(0.05)
    await master.sql(f"SELECT pg_terminate_backend({session.login_pid})")
    # Between the server's last message and the end of its socket the session seems healthy.
    refused = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
    while not lost.is_set():
        with contextlib.suppress(*refused):
            await session.fetch_row("SELECT 1")
        await asyncio.sleep(0)
    with pytest.raises(refused) if busy else contextlib.nullcontext():
        await asking
    session.kill()
    del asking, session
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_4_a_connection_that_is_lost_while_a_hook_prepares_it_costs_another_try(
    pg_cluster: LocalCluster,
) -> None:
    lost: list[bool] = []

    async def init(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if not lost:
            lost.append(True)
            connection.terminate()  # as when its server ends it
            await connection.set_type_codec(
                "text", schema="pg_catalog", encoder=str, decoder=str, format="text"
            )

    kwargs = {"min_size": 0, "max_size": 1, "init": init}
    dsn = pg_cluster.master.dsn
    async with PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        async with manager.acquire_master(timeout=5) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert lost
        assert manager.metrics().retries == 1


class TerminatedWhenPrepared(asyncpg.Connection):
    async def _get_statement(self, *args: Any, **kwargs: Any) -> Any:
        statement = await super()._get_statement(*args, **kwargs)  # type: ignore[misc]  # not in stubs
        self.terminate()
        return statement


async def test_what_is_terminated_between_two_round_trips_of_a_statement_is_lost(
    pg_cluster: LocalCluster,
) -> None:
    kit, dsn = AsyncpgKit(), pg_cluster.master.dsn
    connection = await asyncpg.connect(dsn, connection_class=TerminatedWhenPrepared)
    with pytest.raises(kit.lost) as met:
        await kit.value(connection, "SELECT 1")
    stumble = met.value.__cause__
    assert isinstance(stumble, AttributeError)
    assert sqlstate_of(stumble) == ""
    assert failure_of(stumble) is Failure.BROKEN


def test_what_an_application_stumbles_over_in_the_same_way_is_its_mistake() -> None:
    with pytest.raises(AttributeError) as met:
        exec("None.bind_execute", {"__name__": "application"})  # noqa: S102  # ours
    assert sqlstate_of(met.value) is None


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_loop_that_ends_while_a_login_over_tls_is_under_way_leaves_no_socket(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    needs("openssl")
    authority = Authority(tmp_path)

    async def leave(server: SilentTls) -> None:
        query = f"sslmode=verify-full&sslrootcert={authority.certificate}"
        manager = PoolManager(f"postgresql://app:x@127.0.0.1:{server.port}/app?{query}")
        with pytest.raises(NotAvailableError):
            await manager.ready(timeout=0.01)
        await asyncio.to_thread(server.wait_for_client)
        await manager.close()

    with (
        SilentTls(authority.server("IP:127.0.0.1")) as server,
        warnings.catch_warnings(record=True) as heard,
    ):
        # A warning that is raised as an error would make uvloop hang.
        warnings.simplefilter("always")
        run(leave(server))
        gc.collect()
    assert [str(each.message) for each in heard] == []
