"""A connection that several threads have: who gives it back, and when, is their own affair.

What goes wrong there goes wrong in libpq's memory, so the rounds are run by a program of their own:
it ends by a signal then, or a statement ends with anything but the loss of its connection.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hasql import UnknownConnectionError

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
        if "NULL" in str(error):  # what was libpq's is gone
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
    """Run the rounds in a program and look at how it ends."""
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
    play(sync_kit, pg_cluster.master.dsn, "putconn", 50)
