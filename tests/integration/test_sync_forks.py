"""A fork harms neither parent nor child, with every driver for threads (invariant 16).

A child starts afresh, whatever it does first, and touches nothing that belongs to its parent. See
test_drivers_forks.py, and test_thread_faults.py for forks while threads of the parent work.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from testbed.scene import in_flight, until_sessions
from tests.integration.test_drivers_forks import (
    HARMLESS,
    ROOT,
    in_child,
    plays,
    uses_of_both_faces,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from hasql.sync.base import BaseSyncPoolManager
    from hasql.testing import LocalCluster
    from testbed.sync_kits import SyncKit

    Manager = BaseSyncPoolManager[Any, Any]

_TOO_LONG = 20
"""Seconds after which a child is ended that waits for something that never comes."""


class Inherited(NamedTuple):
    """What a child inherits from its parent."""

    lease: Any
    connection: Any
    pool: Any
    #: The processes that serve the parent.
    pids: set[int]


def heard(_: object) -> None:
    """Serve as a listener that the parent has added."""


@contextmanager
def manager_of(kit: SyncKit, cluster: LocalCluster, application: str) -> Iterator[Manager]:
    """Make a manager of all nodes, with two connections on each."""
    with kit.manager(
        f"{cluster.dsn}?application_name={application}",
        acquire_timeout=_TOO_LONG / 2,
        refresh_delay=0.2,
        refresh_timeout=10,  # on a busy machine servers answer late without being down
        pool_factory_kwargs=kit.sizes(1, 2),
    ) as manager:
        manager.ready(1, 2)
        manager.add_listener(heard)
        yield manager


def backends(
    kit: SyncKit, manager: Manager, cluster: LocalCluster, application: str
) -> dict[int, set[int]]:
    """Fill the pools; return the pids of all sessions by port, those of reserved ones included."""
    for read_only, pools in ((False, 1), (True, 2)):
        leases = [manager.getconn(read_only) for _ in range(2 * pools)]
        assert len({kit.pid(connection) for connection in leases}) == 2 * pools
        for connection in leases:
            manager.putconn(connection)
    return asyncio.run(_backends(cluster, application))


async def _backends(cluster: LocalCluster, application: str) -> dict[int, set[int]]:
    pids = {}
    for node in cluster.nodes:
        await until_sessions(node, application, 3)  # sessions of a child end a moment after it
        query = f"SELECT pid FROM pg_stat_activity WHERE application_name = '{application}'"  # noqa: S608  # a name of ours
        pids[node.port] = set(map(int, (await node.sql(query)).split()))
    return pids


def uses(kit: SyncKit, manager: Manager, of_parent: Inherited) -> dict[str, Callable[[], Any]]:
    """Return everything that can be done with a manager, by name."""
    lease, connection, pool, _ = of_parent

    def whose(connection: Any) -> str:
        pid = kit.value(connection, "SELECT pg_backend_pid()")
        return "the parent's" if pid in of_parent.pids else "its own"

    def lent(lease: Any) -> str:
        with lease as connection:
            return whose(connection)

    def getconn() -> str:
        connection = manager.getconn()
        try:
            return whose(connection)
        finally:
            manager.putconn(connection)

    def owner(pools: list[Any]) -> str:
        return "the parent's" if any(each is pool for each in pools) else "its own"

    return {
        **uses_of_both_faces(manager, connection, pool),
        "acquire": lambda: lent(manager.acquire()),
        "acquire_master": lambda: lent(manager.acquire_master()),
        "acquire_replica": lambda: lent(manager.acquire_replica()),
        "acquire_from_pool": lambda: lent(manager.acquire_from_pool(pool)),
        "getconn": getconn,
        "putconn": lambda: manager.putconn(connection),
        "release_to_pool": lambda: manager.release_to_pool(connection, pool),
        "leaving a block": lambda: lease.__exit__(None, None, None),
        "entering it": lambda: owner(list(manager.__enter__())),
        "leaving it": lambda: manager.__exit__(None, None, None),
        "ready": lambda: manager.ready(1, 2),
        "wait_all_ready": manager.wait_all_ready,
        "wait_masters_ready": lambda: manager.wait_masters_ready(1),
        "wait_replicas_ready": lambda: manager.wait_replicas_ready(1),
        "wait_next_pool_check": manager.wait_next_pool_check,
        "get_pool": lambda: owner([manager.get_pool(read_only=False)]),
        "get_master_pools": lambda: owner(manager.get_master_pools()),
        "get_replica_pools": lambda: owner(manager.get_replica_pools()),
        "metrics": lambda: list(manager.metrics().nodes),
        "remove_listener": lambda: manager.remove_listener(heard),
        "accept_timeline": manager.accept_timeline,
        "resize": lambda: manager.resize(max_size=5),
        "run": lambda: manager.run(whose),
        "drain": lambda: list(manager.drain().broken),
        "close": manager.close,
        "terminate": manager.terminate,
    }


#: The outcome of each use in a child, as the first thing that the child does.
WITH_ITS_OWN = dict.fromkeys(
    (
        *("acquire", "acquire_master", "acquire_replica", "getconn", "run", "entering it"),
        *("get_pool", "get_master_pools", "get_replica_pools"),
    ),
    "its own",
)
KNOWS_NONE_OF_THE_PARENTS = dict.fromkeys(
    (
        *("acquire_from_pool", "register_connection", "is_connection_closed", "still_fits"),
        *("pool_is_master", "pool_is_replica", "get_pool_freesize", "get_last_response_time"),
        "host",
    ),
    "UnknownConnectionError",
)
KNOWS_NOTHING_YET = {
    **dict.fromkeys(("pools", "iteration", "metrics", "leases", "drain"), "[]"),
    **dict.fromkeys(("master_pool_count", "replica_pool_count", "available_pool_count"), "0"),
}
DONE = dict.fromkeys(
    (
        *("putconn", "release_to_pool", "leaving a block", "leaving it"),
        *("ready", "wait_all_ready", "wait_masters_ready", "wait_replicas_ready"),
        *("wait_next_pool_check", "add_listener", "remove_listener", "set_tracer"),
        *("accept_timeline", "resize", "close", "terminate"),
    ),
    "None",
)
EXPECTED = WITH_ITS_OWN | KNOWS_NONE_OF_THE_PARENTS | KNOWS_NOTHING_YET | DONE


def test_everything_that_a_manager_has_is_tried(sync_kit: SyncKit) -> None:
    manager = sync_kit.manager("postgresql://localhost/")
    public = {name for name in dir(manager) if not name.startswith("_")}
    tried = uses(sync_kit, manager, Inherited(None, None, None, set())).keys()
    assert public - HARMLESS <= tried
    assert tried == EXPECTED.keys()


def outcomes(uses: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """Try the uses in turn, in a child that may hang; return what each has raised or returned."""
    signal.alarm(_TOO_LONG)
    return {name: outcome(use) for name, use in uses.items()}


def outcome(use: Callable[[], Any]) -> str:
    try:
        said = use()
    except Exception as error:  # noqa: BLE001  # the parent looks at it
        return type(error).__name__
    return said if isinstance(said, str) else repr(said)


def test_16_a_child_starts_afresh_whatever_it_does_first_and_its_parent_notices_nothing(
    sync_kit: SyncKit,
    pg_cluster: LocalCluster,
    application: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = False
    with manager_of(sync_kit, pg_cluster, application) as manager:
        for _ in plays(caplog):
            before = backends(sync_kit, manager, pg_cluster, application)
            lease = manager.acquire_master()
            connection = lease.__enter__()
            pid = sync_kit.pid(connection)
            pool = manager.get_pool(read_only=False)
            of_parent = Inherited(lease, connection, pool, set().union(*before.values()))
            said: dict[str, str] = {}
            for name, use in uses(sync_kit, manager, of_parent).items():
                said |= in_child(partial(outcomes, {name: use}))
            assert said == EXPECTED
            assert sync_kit.pid(connection) == pid
            lease.__exit__(None, None, None)
            manager.wait_next_pool_check()
            kept = backends(sync_kit, manager, pg_cluster, application) == before
            if kept:
                break
        assert kept
        assert in_flight(manager) == 0


def test_16_a_manager_that_was_not_started_before_the_fork_works_in_the_child(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str
) -> None:
    unused = sync_kit.manager(pg_cluster.dsn, acquire_timeout=_TOO_LONG / 2)

    def use() -> str:
        with unused, unused.acquire_master() as connection:
            return str(sync_kit.value(connection, "SELECT 42"))

    with manager_of(sync_kit, pg_cluster, application) as manager:
        assert in_child(partial(outcomes, {"use": use})) == {"use": "42"}
        with manager.acquire_master() as connection:
            assert sync_kit.value(connection, "SELECT 1") == 1


def test_16_a_fork_while_other_threads_use_connections_leaves_each_what_it_has(
    sync_kit: SyncKit, pg_cluster: LocalCluster, application: str
) -> None:
    stop = threading.Event()

    def use() -> str:
        with manager.acquire_master() as connection:
            return str(sync_kit.value(connection, "SELECT 42"))

    def load() -> int:
        rounds = 0
        while not stop.is_set():
            assert use() == "42"
            rounds += 1
        return rounds

    with (
        manager_of(sync_kit, pg_cluster, application) as manager,
        ThreadPoolExecutor(4) as threads,
    ):
        loads = [threads.submit(load) for _ in range(4)]
        try:
            for end in (manager.close, manager.terminate) * 3:
                tried = in_child(partial(outcomes, {"use": use, "end": end}))
                assert tried == {"use": "42", "end": "None"}
        finally:
            stop.set()
        assert all(each.result(30) for each in loads)
        assert in_flight(manager) == 0


PROGRAM = """
import gc, os, sys, time
from testbed.sync_kits import {kit}

kit = {kit}()
manager = kit.manager(sys.argv[1], refresh_delay=0.2, pool_factory_kwargs=kit.sizes(1, 2))

def sessions(connection):
    query = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity "
    found = kit.value(connection, query + "WHERE application_name = 'forking'")
    kit.end(connection)
    return found

def let_go():
    global manager
    manager = None
    gc.collect()

def use_the_parents():
    try:
        kit.value(connection, "SELECT 1")
    except kit.lost:
        return
    raise AssertionError("it reaches the server")

def use():
    with manager.acquire_master(timeout=5) as connection:
        assert kit.value(connection, "SELECT 1") == 1

def play(work):
    child = os.fork()
    if child == 0:
        work()
        sys.exit()  # through all blocks, to where Python ends what is open still
    _, status = os.waitpid(child, 0)
    assert status == 0, work

def well(*before):
    # What a child has opened ends a moment after it.
    until = time.monotonic() + 5
    while (now := (sessions(connection), sessions(other))) != before:
        assert time.monotonic() < until, (before, now)
    manager.wait_next_pool_check(5)

manager.ready(1, 2)
with manager.acquire_master() as connection, manager.acquire_replica() as other:
    before = sessions(connection), sessions(other)
    for work in (int, use_the_parents, use, let_go):  # the first of which does nothing
        play(work)
        well(*before)
manager.close()
print("well")
"""


def test_16_a_child_that_ends_or_uses_or_lets_go_of_everything_harms_nobody(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM.format(kit=type(sync_kit).__name__)),
            f"{pg_cluster.dsn}?application_name=forking",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
