"""Units of work on real servers, with every driver, for tasks and for threads.

The work of a thread is written in coroutines, too, which never pause: see `testbed.workers`. Faults
within the work are therefore made over a connection that blocks while they take place.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg2
import pytest
from psycopg2 import extensions

from hasql import HasqlError
from hasql.resilience import Category, RetryPolicy, RolledBackError
from testbed.kits import KITS
from testbed.lost_commits import LosesCommits, Lost
from testbed.middlemen.addresses import dsn_through
from testbed.proxy import Proxy
from testbed.scene import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from hasql.testing import LocalCluster
    from testbed.kits.base import LoadKit
    from tests.middlemen import StartPgBouncer

pytestmark = [pytest.mark.loops_in_turn, pytest.mark.usefixtures("nothing_unheard")]

OF_THREADS: tuple[LoadKit, ...] = ()
if find_spec("psycopg"):  # all kits for threads need it
    from testbed.kits.in_threads import ALL as OF_THREADS
QUICK = RetryPolicy(first=0.001)
#: Drivers whose connections have a method that commits.
WITH_COMMIT = re.compile("psycopg|sqlalchemy")
LOST = "SELECT pg_terminate_backend({})"


@pytest.fixture(params=[*KITS, *OF_THREADS], ids=lambda kit: str(kit.name))
def run_kit(request: pytest.FixtureRequest) -> LoadKit:
    """Each driver, for tasks or for threads."""
    kit: LoadKit = request.param
    return kit


@pytest.fixture
def admin(pg_cluster: LocalCluster) -> Iterator[Callable[[str], Any]]:
    """Execute SQL on the master at once, whoever else is waiting."""
    raw: extensions.connection = psycopg2.connect(pg_cluster.master.superuser_dsn)
    raw.autocommit = True

    def do(sql: str) -> Any:
        with raw.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else None

    yield do
    raw.close()


class Scene:
    """A manager, its users, and a table with one row."""

    def __init__(self, kit: LoadKit, manager: Any, admin: Callable[[str], Any]) -> None:
        self.kit, self.manager, self.admin = kit, manager, admin
        self.table = f"t_{uuid4().hex}"
        self.calls = 0
        admin(self.sql("CREATE TABLE {} (i int); GRANT ALL ON {} TO app"))
        admin(self.sql("INSERT INTO {} VALUES (0)"))

    def sql(self, statement: str) -> str:
        """Return the statement with the name of the table put in."""
        return statement.replace("{}", self.table)

    async def run(self, work: Callable[[Any], Coroutine[Any, Any, Any]], **kwargs: Any) -> Any:
        """Let a worker run the work, and count how often it is called."""

        async def counted(connection: Any) -> Any:
            self.calls += 1
            return await work(connection)

        self.calls = 0
        kwargs.setdefault("retry", QUICK)
        return await self.kit.workers().do(self.manager.run(counted, **kwargs))

    async def add(self, connection: Any) -> int:
        """Add 1 to the row; return the new value."""
        statement = self.sql("UPDATE {} SET i = i + 1 RETURNING i")
        value: int = await self.kit.value(connection, statement)
        return value

    async def fail(self, connection: Any, sqlstate: str) -> None:
        """Make the server answer with this code."""
        raising = f"RAISE EXCEPTION ''x'' USING ERRCODE = ''{sqlstate}''"
        name = f"{self.table}_{sqlstate.lower()}"
        body = f"'BEGIN {raising}; END'"
        self.admin(f"CREATE OR REPLACE FUNCTION {name}() RETURNS int LANGUAGE plpgsql AS {body}")
        await self.kit.value(connection, f"SELECT {name}()")

    def kill(self, pid: int) -> None:
        self.admin(LOST.format(pid))

    @property
    def row(self) -> int:
        """The committed value of the row."""
        ((value,),) = self.admin(self.sql("SELECT i FROM {}"))
        assert isinstance(value, int)
        return value

    @property
    def in_flight(self) -> int:
        return sum(node.in_flight for node in self.manager.metrics().nodes)


@pytest.fixture
async def scene(
    run_kit: LoadKit, pg_cluster: LocalCluster, admin: Callable[[str], Any]
) -> AsyncIterator[Scene]:
    """A manager of all nodes, with two connections on each."""
    manager = run_kit.manager(
        pg_cluster.dsn,
        refresh_delay=0.2,
        refresh_timeout=0.5,
        pool_factory_kwargs=run_kit.sizes(1, 2),
    )
    try:
        await manager.ready(1, 2)
        scene = Scene(run_kit, manager, admin)
        yield scene
        assert scene.in_flight == 0
    finally:
        await manager.close()


async def pid_of(scene: Scene, connection: Any) -> int:
    pid: int = await scene.kit.value(connection, "SELECT pg_backend_pid()")
    return pid


async def test_work_is_committed_and_its_result_returned(scene: Scene) -> None:
    async def work(connection: Any) -> str:
        await scene.add(connection)
        await scene.add(connection)
        assert scene.row == 0, "it is one transaction"
        return "done"

    assert await scene.run(work) == "done"
    assert (scene.row, scene.calls) == (2, 1)


async def test_what_the_work_raises_is_raised_and_nothing_is_kept(scene: Scene) -> None:
    class OwnError(Exception): ...

    async def work(connection: Any) -> None:
        await scene.add(connection)
        raise OwnError

    with pytest.raises(OwnError) as met:
        await scene.run(work)
    assert (scene.row, scene.calls) == (0, 1)
    assert scene.manager.category(met.value) is Category.APPLICATION


@pytest.mark.parametrize("kind", [FileNotFoundError, ConnectionResetError])
async def test_an_error_of_a_file_or_of_another_service_is_the_applications(
    scene: Scene, kind: type[OSError]
) -> None:
    """It looks like a lost connection, but this manager has lost none."""

    async def work(connection: Any) -> None:
        await scene.kit.value(connection, "SELECT 1")
        raise kind("mine")

    async def lease() -> None:
        async with scene.manager.acquire_master() as connection:
            await work(connection)

    with pytest.raises(kind) as of_run:
        await scene.run(work)
    assert scene.calls == 1
    with pytest.raises(kind) as of_lease:
        await scene.kit.workers().do(lease())
    for error in (of_run.value, of_lease.value):
        told = scene.manager.category(error), scene.manager.retriable(error)
        assert told == (Category.APPLICATION, False)


async def test_work_whose_connection_is_lost_is_done_once(scene: Scene) -> None:
    async def work(connection: Any) -> int:
        value = await scene.add(connection)
        if scene.calls == 1:
            scene.kill(await pid_of(scene, connection))
        return await scene.add(connection) - value

    assert await scene.run(work) == 1
    assert (scene.row, scene.calls) == (2, 2)


@pytest.mark.parametrize("resolve_commits", [True, False])
async def test_work_that_takes_no_note_of_a_lost_connection_is_done_once(
    scene: Scene, resolve_commits: bool
) -> None:
    async def work(connection: Any) -> None:
        await scene.add(connection)
        if scene.calls == 1:
            scene.kill(await pid_of(scene, connection))
            with contextlib.suppress(Exception):
                await scene.add(connection)

    await scene.run(work, resolve_commits=resolve_commits)
    assert (scene.row, scene.calls) == (1, 2)


async def test_work_whose_connection_is_lost_as_it_returns_is_done_once(scene: Scene) -> None:
    async def work(connection: Any) -> None:
        await scene.add(connection)
        if scene.calls == 1:
            scene.kill(await pid_of(scene, connection))

    await scene.run(work)
    assert (scene.row, scene.calls) == (1, 2)


async def test_whatever_a_driver_says_of_a_lost_connection_is_for_another_try(
    scene: Scene,
) -> None:
    async def lease(errors: int) -> Exception | None:
        try:
            async with scene.manager.acquire_master() as connection:
                scene.kill(await pid_of(scene, connection))
                for _ in range(errors - 1):
                    with contextlib.suppress(Exception):
                        await scene.add(connection)
                await scene.add(connection)
        except Exception as error:  # noqa: BLE001  # each driver has its own
            return error
        return None

    for errors in (1, 2):
        error = await scene.kit.workers().do(lease(errors))
        assert error is not None
        told = scene.manager.category(error), scene.manager.retriable(error)
        assert told == (Category.INFRASTRUCTURE, True), repr(error)


async def test_a_serialization_failure_is_tried_again(scene: Scene) -> None:
    async def work(connection: Any) -> int:
        before: int = await scene.kit.value(connection, scene.sql("SELECT i FROM {}"))
        if scene.calls == 1:
            scene.admin(scene.sql("UPDATE {} SET i = i + 10"))
        return await scene.add(connection) - before

    assert await scene.run(work, isolation="repeatable read") == 1
    assert (scene.row, scene.calls) == (11, 2)


#: The server's code; how many of three possible attempts are made; the category of the error.
ANSWERS = (
    ("40001", 3, Category.CONFLICT),
    ("40P01", 3, Category.CONFLICT),
    ("53300", 3, Category.OVERLOAD),
    ("57P01", 3, Category.INFRASTRUCTURE),
    ("55P03", 1, Category.CONFLICT),
    ("22012", 1, Category.APPLICATION),
    ("23505", 1, Category.APPLICATION),
    ("25006", 1, Category.APPLICATION),
    # This is another server's error, because this connection is well.
    ("08006", 1, Category.INFRASTRUCTURE),
)


async def test_the_code_of_an_answer_says_whether_it_is_tried_again(scene: Scene) -> None:
    for sqlstate, calls, category in ANSWERS:

        async def work(connection: Any, sqlstate: str = sqlstate) -> None:
            await scene.add(connection)
            await scene.fail(connection, sqlstate)

        with pytest.raises(Exception, match="x") as met:
            await scene.run(work, retry=RetryPolicy(attempts=3, first=0.001))
        assert (sqlstate, scene.row, scene.calls) == (sqlstate, 0, calls)
        assert scene.manager.category(met.value) is category
    assert await scene.run(scene.add) == 1


@pytest.mark.parametrize("resolve_commits", [True, False])
async def test_work_that_swallows_an_error_is_never_reported_as_done(
    scene: Scene, resolve_commits: bool
) -> None:
    async def work(connection: Any) -> None:
        await scene.add(connection)
        with contextlib.suppress(Exception):
            await scene.fail(connection, "23505")

    with pytest.raises(RolledBackError):
        await scene.run(work, resolve_commits=resolve_commits)
    assert (scene.row, scene.calls) == (0, 1)
    assert await scene.run(scene.add) == 1


async def test_work_that_ends_its_transaction_is_told_so(scene: Scene) -> None:
    async def work(connection: Any) -> None:
        await scene.add(connection)
        await scene.kit.begin(connection, "COMMIT")

    with pytest.raises(HasqlError, match="its own transaction"):
        await scene.run(work)
    assert scene.calls == 1
    assert await scene.run(scene.add) == 2


async def test_work_that_commits_and_goes_on_is_told_so(scene: Scene) -> None:
    async def work(connection: Any) -> None:
        await scene.add(connection)
        if not WITH_COMMIT.search(scene.kit.name):
            await scene.kit.begin(connection, "COMMIT")
        await scene.kit.write(connection, scene.sql("UPDATE {} SET i = i"))
        await scene.add(connection)

    with pytest.raises(Exception, match=r"its own transaction|must not be called|forbidden"):
        await scene.run(work)
    assert scene.calls == 1


async def test_a_run_within_a_run_is_refused(scene: Scene) -> None:
    async def work(connection: Any) -> None:
        await scene.add(connection)
        await scene.manager.run(scene.add)

    with pytest.raises(HasqlError, match="inside a run"):
        await scene.run(work)
    assert scene.row == 0
    assert await scene.run(scene.add) == 1


async def test_read_only_work_is_on_a_replica_and_goes_on_to_another(scene: Scene) -> None:
    replicas = "SELECT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'on'"
    pids: list[int] = []

    async def work(connection: Any) -> bool:
        pids.append(await pid_of(scene, connection))
        if scene.calls == 1:
            ended = await scene.kit.value(
                connection, "SELECT pg_terminate_backend(pg_backend_pid())"
            )
            assert not ended, "the session ends before it answers"
        good: bool = await scene.kit.value(connection, replicas)
        return good

    assert await scene.run(work, read_only=True) is True
    assert len(set(pids)) == scene.calls == 2


async def test_a_write_of_read_only_work_is_the_applications_mistake(scene: Scene) -> None:
    async def work(connection: Any) -> None:
        await scene.kit.value(connection, "CREATE TABLE never_there (i int)")

    with pytest.raises(Exception, match="read-only") as met:
        await scene.run(work, read_only=True)
    assert scene.calls == 1
    assert scene.manager.category(met.value) is Category.APPLICATION
    assert not scene.manager.retriable(met.value)


async def test_how_a_transaction_was_begun_is_forgotten_with_it(scene: Scene) -> None:
    modes = (
        "SELECT current_setting('transaction_isolation') || ' ' || "
        "current_setting('transaction_read_only')"
    )

    async def work(connection: Any) -> str:
        shown: str = await scene.kit.value(connection, modes)
        return shown

    assert await scene.run(work, isolation="SERIALIZABLE") == "serializable off"
    assert (
        await scene.run(work, read_only=True, isolation="repeatable_read") == "repeatable read on"
    )
    for _ in range(6):
        assert await scene.run(work) == "read committed off"
        await scene.kit.workers().do(look_at_a_replica(scene))
    assert await scene.run(work, read_only=True) == "read committed on"


async def look_at_a_replica(scene: Scene) -> None:
    async with scene.manager.acquire_replica() as connection:
        shown = await scene.kit.value(connection, "SHOW transaction_isolation")
        assert shown == "read committed"


async def test_a_promotion_is_waited_for_in_one_attempt(
    scene: Scene, pg_cluster: LocalCluster
) -> None:
    old, new = pg_cluster.master, pg_cluster.replicas[0]

    async def work(connection: Any) -> int:
        port: int = await scene.kit.value(connection, "SELECT inet_server_port()")
        return port

    old.kill()
    running = asyncio.ensure_future(scene.run(work, retry=RetryPolicy(attempts=2)))
    await asyncio.sleep(1.2)  # longer than acquire_timeout
    assert not running.done()
    await new.promote()
    assert await running == new.port
    assert scene.calls <= 2


@pytest.mark.parametrize("run_kit", KITS, indirect=True, ids=lambda kit: str(kit.name))
async def test_cancelled_work_is_rolled_back_and_not_tried_again(scene: Scene) -> None:
    began = asyncio.Event()

    async def work(connection: Any) -> None:
        await scene.add(connection)
        began.set()
        await scene.kit.value(connection, "SELECT pg_sleep(20)")

    running = asyncio.ensure_future(scene.run(work))
    await asyncio.wait_for(began.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: scene.in_flight == 0)
    assert (scene.row, scene.calls) == (0, 1)
    assert await scene.run(scene.add) == 1


@pytest.mark.parametrize("lost", Lost, ids=lambda lost: str(lost.value))
async def test_work_is_done_exactly_once_where_the_connection_is_lost_at_its_commit(
    run_kit: LoadKit, pg_cluster: LocalCluster, admin: Callable[[str], Any], lost: Lost
) -> None:
    async with LosesCommits("127.0.0.1", pg_cluster.master.port) as proxy:
        there = f"127.0.0.1:{pg_cluster.master.port}"
        dsn = pg_cluster.master.dsn.replace(there, f"127.0.0.1:{proxy.port}")
        manager = run_kit.manager(dsn, pool_factory_kwargs=run_kit.sizes(1, 2))
        try:
            await manager.ready(1, 0)
            scene = Scene(run_kit, manager, admin)
            for number in range(1, 4):
                proxy.loses = lost
                assert await scene.run(scene.add) == number
                assert proxy.loses is None
                assert (scene.row, scene.calls) == (number, 1 + (lost is Lost.ITSELF))
        finally:
            await manager.close()


@pytest.mark.parametrize(("query", "calls"), [("1", 2), ("pg_current_xact_id()::text", 1)])
@pytest.mark.parametrize("run_kit", KITS[:1], indirect=True, ids=lambda kit: str(kit.name))
async def test_20_work_that_writes_elsewhere_alone_is_found_out_if_it_asks_for_an_id(
    run_kit: LoadKit, pg_cluster: LocalCluster, admin: Callable[[str], Any], query: str, calls: int
) -> None:
    async with LosesCommits("127.0.0.1", pg_cluster.master.port) as proxy:
        there = f"127.0.0.1:{pg_cluster.master.port}"
        dsn = pg_cluster.master.dsn.replace(there, f"127.0.0.1:{proxy.port}")
        async with run_kit.manager(dsn, pool_factory_kwargs=run_kit.sizes(1, 2)) as manager:
            await manager.ready(1, 0)
            scene = Scene(run_kit, manager, admin)
            proxy.loses = Lost.ITS_ANSWER
            await scene.run(lambda connection: run_kit.value(connection, f"SELECT {query}"))
            assert proxy.loses is None
            assert scene.calls == calls


async def test_20_a_commit_that_goes_on_behind_a_pooler_whose_limit_has_come_is_done_once(
    run_kit: LoadKit,
    pg_cluster: LocalCluster,
    admin: Callable[[str], Any],
    pgbouncer: StartPgBouncer,
) -> None:
    """The end of the connection is no answer to COMMIT, whoever reports it, in whatever words."""
    pooler = pgbouncer(pg_cluster.master, pool_mode="transaction", query_timeout=0.7)
    manager = run_kit.manager(
        dsn_through(pg_cluster, pooler),
        pool_factory_kwargs={**run_kit.sizes(1, 2), **run_kit.unprepared},
    )
    try:
        await manager.ready(1, 0)
        scene = Scene(run_kit, manager, admin)
        function = f"{scene.table}_waits"
        body = "'BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END'"
        admin(f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body}")
        admin(
            f"CREATE CONSTRAINT TRIGGER waits AFTER UPDATE ON {scene.table} "
            f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
        assert await scene.run(scene.add) == 1
        assert (scene.row, scene.calls) == (1, 1)
        assert manager.metrics().runs.commits_found == 1
    finally:
        await manager.close()


async def test_work_whose_master_becomes_a_replica_at_its_own_address_is_done_once(
    run_kit: LoadKit, pg_cluster: LocalCluster, scene: Scene
) -> None:
    """The transaction has ended with the old master, whose address is now that of a standby."""
    old = pg_cluster.master

    async def work(connection: Any) -> int:
        number = await scene.add(connection)
        if scene.calls == 1:
            if run_kit in KITS:
                await pg_cluster.switchover()
            else:
                asyncio.run(pg_cluster.switchover())  # threads have no event loop
        return number

    async def where(connection: Any) -> tuple[int, str]:
        port = await run_kit.value(connection, "SELECT inet_server_port()")
        return port, str(await run_kit.value(connection, "SHOW transaction_read_only"))

    assert await scene.run(work) == 1
    assert scene.calls == 2
    new = pg_cluster.master
    assert new is not old
    async with asyncio.timeout(20):  # until the old master serves reads
        while await scene.run(where, read_only=True) != (old.port, "on"):
            await asyncio.sleep(0.01)
    for number in range(2, 6):
        assert await scene.run(scene.add) == number
        assert await scene.run(where) == (new.port, "off")
    assert await new.sql(scene.sql("SELECT i FROM {}")) == "5"


async def test_work_whose_server_has_said_that_it_ends_is_done_once(
    run_kit: LoadKit, pg_cluster: LocalCluster, admin: Callable[[str], Any]
) -> None:
    """This is the moment between a server's last message and the end of its socket."""
    async with Proxy("127.0.0.1", pg_cluster.master.port) as proxy:
        there = f"127.0.0.1:{pg_cluster.master.port}"
        dsn = pg_cluster.master.dsn.replace(there, f"127.0.0.1:{proxy.port}")
        manager = run_kit.manager(dsn, pool_factory_kwargs=run_kit.sizes(1, 2))
        try:
            await manager.ready(1, 0)
            scene = Scene(run_kit, manager, admin)
            proxy.hold_ends()

            def has_said() -> bool:
                return proxy.held + proxy.ended > 0  # the client may end it at once

            async def work(connection: Any) -> None:
                await scene.add(connection)
                if scene.calls == 1:
                    scene.kill(await pid_of(scene, connection))
                    if run_kit in KITS:
                        await until(has_said)
                    while not has_said():  # in a thread; the proxy runs in another
                        time.sleep(0.001)  # no event loop is here

            await scene.run(work)
            assert (scene.row, scene.calls) == (1, 2)
        finally:
            await manager.close()
