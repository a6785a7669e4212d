"""Threads that share a connection are free to decide which of them gives it back, and when.

What may go wrong there goes wrong in the memory of libpq, so the rounds run in a program of their
own. If they fail, a signal ends the program, or a statement ends with something other than the loss
of its connection.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hasql import UnknownConnectionError
from testbed.scene import until_asleep
from testbed.sync_kits import Psycopg3ThreadKit, SqlalchemyPsycopgThreadKit

if TYPE_CHECKING:
    from hasql.testing import LocalCluster
    from testbed.sync_kits import SyncKit

ROOT = Path(__file__).parents[2]

#: In each round a thread's statement runs while another thread ends the lease.
ROUNDS = """
import faulthandler, sys, threading, time
import psycopg
from testbed.sync_kits import {kit}

faulthandler.enable()
dsn, way, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
kit, unheard = {kit}(), []
watch = psycopg.connect(dsn, autocommit=True)
ASLEEP = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE %s"

def run(connection, number):
    try:
        kit.value(connection, f"SELECT pg_sleep(60) -- {{number}}")
        unheard.append("it has ended well")
    except BaseException as error:  # SQLAlchemy's own are many, in the midst of what it does
        if "NULL" in str(error) or "socket closed" in str(error):  # what is libpq's was freed
            unheard.append(str(error))

def end_by_error(lease):
    lease.__exit__(ValueError, ValueError("by the test"), None)

with kit.manager(dsn, pool_factory_kwargs=kit.sizes(0, 1)) as manager:
    for number in range(rounds):
        lease = manager.acquire_master(timeout=10)
        connection = lease.__enter__()
        kit.begin(connection, "SELECT 1")
        other = threading.Thread(target=run, args=(connection, number), daemon=True)
        other.start()
        while not (asleep := watch.execute(ASLEEP, (f"%-- {{number}}",)).fetchone()):
            time.sleep(0.001)
        if way == "close":
            connection.close()
        if way == "block":
            end_by_error(lease)
        else:
            manager.putconn(connection)
        watch.execute("SELECT pg_terminate_backend(%s)", asleep)  # it sleeps on without a client
        other.join(10)
        assert not other.is_alive(), "the statement goes on"
        with manager.acquire_master(timeout=10) as connection:
            assert kit.value(connection, "SELECT 42") == 42
        assert not unheard, (number, unheard)
        (node,) = manager.metrics().nodes
        assert node.in_flight == 0
print("that was all")
"""


def play(kit: SyncKit, dsn: str, way: str, rounds: int) -> None:
    """Run the rounds in a program, and check how it ends."""
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS.format(kit=type(kit).__name__), dsn, way, str(rounds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "that was all\n"), done.stderr


def test_a_lease_may_end_while_another_threads_statement_runs(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    play(sync_kit, pg_cluster.master.dsn, "putconn", 5 if "psycopg2" in sync_kit.name else 15)


@pytest.mark.parametrize(
    ("over_psycopg", "way"),
    [(Psycopg3ThreadKit(), "close"), (SqlalchemyPsycopgThreadKit(), "block")],
    ids=lambda case: getattr(case, "name", case),
)
def test_so_it_may_when_it_is_closed_and_by_an_error(
    over_psycopg: SyncKit, pg_cluster: LocalCluster, way: str
) -> None:
    play(over_psycopg, pg_cluster.master.dsn, way, 10)


def test_what_a_thread_still_uses_that_gave_it_back_is_not_lent(
    pg_cluster: LocalCluster, application: str
) -> None:
    kit, master = Psycopg3ThreadKit(), pg_cluster.master
    dsn = f"{master.dsn}?application_name={application}"
    with (
        kit.manager(dsn, pool_factory_kwargs=kit.sizes(1, 1)) as manager,
        ThreadPoolExecutor(1) as threads,
    ):
        stale = manager.getconn(timeout=10)
        pid = kit.pid(stale)
        manager.putconn(stale)
        other = threads.submit(kit.value, stale, "SELECT pg_sleep(60)")
        asyncio.run(until_asleep(master, application, 1))
        with manager.acquire_master(timeout=10) as connection:
            assert kit.pid(connection) != pid
        with pytest.raises(kit.lost):
            other.result(10)
    asyncio.run(master.sql(f"SELECT pg_terminate_backend({pid}, 5000)"))


def test_the_block_of_another_thread_is_not_ended_by_who_had_the_connection_before(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    lent, over = threading.Event(), threading.Event()
    sizes = sync_kit.sizes(1, 1)
    with sync_kit.manager(pg_cluster.master.dsn, pool_factory_kwargs=sizes) as manager:
        manager.ready(1, 0)
        stale = manager.getconn()
        manager.putconn(stale)

        def use() -> tuple[bool, Any]:
            with manager.acquire_master() as connection:
                sync_kit.begin(connection, "SET LOCAL work_mem = '4321kB'")
                lent.set()
                assert over.wait(10)
                return connection is stale, sync_kit.value(connection, "SHOW work_mem")

        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(use)
            assert lent.wait(10)
            (pool,) = manager
            for give_back in (manager.putconn, lambda one: manager.release_to_pool(one, pool)):
                with pytest.raises(UnknownConnectionError):
                    give_back(stale)
            (node,) = manager.metrics().nodes
            assert node.in_flight == 1
            over.set()
            is_the_same, value = other.result(10)
        assert value == "4321kB", "its transaction goes on"
        assert is_the_same or "sqlalchemy" in sync_kit.name


def test_what_one_thread_has_taken_another_may_give_back_that_had_it_before(
    sync_kit: SyncKit, pg_cluster: LocalCluster
) -> None:
    """FastAPI does this: its threads take turns."""
    sizes = sync_kit.sizes(1, 1)
    with (
        sync_kit.manager(pg_cluster.master.dsn, pool_factory_kwargs=sizes) as manager,
        ThreadPoolExecutor(1) as one,
        ThreadPoolExecutor(1) as two,
    ):
        for taking, giving in ((one, one), (two, one), (one, two)):
            connection = taking.submit(manager.getconn).result(10)
            giving.submit(manager.putconn, connection).result(10)
        (node,) = manager.metrics().nodes
        assert node.in_flight == 0
