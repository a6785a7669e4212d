"""Programs that a signal tells to end commit what is in flight, and then end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from testbed.scene import (
    WAIT_FOR_LOCK,
    end_sessions,
    held_lock,
    until_sessions,
    until_waiting,
)
from testbed.web.apps import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hasql.testing import LocalCluster
    from testbed.scene import Table

_PATIENCE = 20.0


@pytest.fixture
def anyio_backend() -> object:
    """Watch from one event loop: the program runs in a process of its own."""
    return "asyncio", {"use_uvloop": False}


TASKS = """
import asyncio, logging, os, signal, sys, threading, time
import uvloop
from hasql.asyncpg import PoolManager
from hasql.errors import PoolManagerClosedError
from hasql.resilience import shutdown_on_signals

logging.basicConfig(level=logging.INFO, format="%(message)s")
DSN, INSERT, WAIT = (os.environ[name] for name in ("DSN", "INSERT", "WAIT"))


async def work(pool, number):
    async with pool.acquire_master(timeout=10) as conn, conn.transaction():
        await conn.execute(INSERT.format(number))
        await conn.execute(WAIT)
    print("committed", number, flush=True)


async def main(*, timeout=30.0):
    async with PoolManager(DSN) as pool:
        shutdown_on_signals(pool, timeout=timeout)
        working = [asyncio.create_task(work(pool, number)) for number in range(3)]
        try:
            await asyncio.Event().wait()
        finally:
            print("main ends", flush=True)
            for each in await asyncio.gather(*working, return_exceptions=True):
                print("ended by", repr(each), flush=True)
"""

THREADS = """
import logging, os, signal, sys, threading, time
from hasql.errors import PoolManagerClosedError
from hasql.resilience import shutdown_on_signals
from hasql.sync.psycopg3 import PoolManager

logging.basicConfig(level=logging.INFO, format="%(message)s")
DSN, INSERT, WAIT = (os.environ[name] for name in ("DSN", "INSERT", "WAIT"))


def work(pool, number):
    with pool.acquire_master(timeout=10) as conn:
        conn.execute(INSERT.format(number))
        conn.execute(WAIT)
    print("committed", number, flush=True)


def start(pool, **options):
    for number in range(3):
        threading.Thread(target=work, args=(pool, number), **options).start()


"""


class Program:
    """A program in a process of its own, which lives as long as the block of `running`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = ""

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def said(self, text: str) -> None:
        """Wait until the program has written a text."""
        assert self.process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            while text not in self.output:
                line = await self.process.stdout.readline()
                assert line, self.output
                self.output += line.decode()

    async def end(self) -> int:
        """Wait for the end of the program, and return its exit code."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                while line := await self.process.stdout.readline():
                    self.output += line.decode()
                return await self.process.wait()
        except TimeoutError:
            raise TimeoutError(self.output) from None


@asynccontextmanager
async def running(
    program: str, cluster: LocalCluster, application: str, table: Table
) -> AsyncIterator[Program]:
    environment = {
        **os.environ,
        "DSN": f"{cluster.dsn}?application_name={application}",
        "INSERT": table.insert(0).replace("(0)", "({})"),
        "WAIT": WAIT_FOR_LOCK,
        "PYTHONPATH": str(ROOT),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-c", program),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # a group of its own: its forks end with it
    )
    try:
        yield Program(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def told_to_end(
    program: str, number: signal.Signals, cluster: LocalCluster, application: str, table: Table
) -> tuple[int, str]:
    """Send a signal while three transactions are open; return the exit code and the output."""
    async with (
        held_lock(cluster.master) as let_go,
        running(program, cluster, application, table) as told,
    ):
        await until_waiting(cluster.master, application, 3)
        told.tell(number)
        await told.said("leases in use have 30 s to end")
        await let_go()
        return await told.end(), told.output


async def rows(cluster: LocalCluster, table: Table) -> list[int]:
    return sorted(map(int, (await cluster.master.sql(table.rows)).split()))


ENDS = {
    "asyncio.run": TASKS + "asyncio.run(main())",
    "uvloop.run": TASKS + "uvloop.run(main())",
    "threads": THREADS
    + """
with PoolManager(DSN) as pool:
    shutdown_on_signals(pool)
    start(pool)
    threading.Event().wait()
""",
    "main thread at work": THREADS
    + """
with PoolManager(DSN) as pool:
    shutdown_on_signals(pool)
    for number in 1, 2:
        threading.Thread(target=work, args=(pool, number)).start()
    work(pool, 0)
    threading.Event().wait()
""",
    "main thread has ended": THREADS
    + """
pool = PoolManager(DSN)
shutdown_on_signals(pool)
start(pool)
""",
    "both": TASKS
    + """
from hasql.sync.psycopg3 import PoolManager as SyncPoolManager

def work_in_thread(pool):
    with pool.acquire_master(timeout=10) as conn:
        conn.execute(INSERT.format(2))
        conn.execute(WAIT)
    print("committed 2", flush=True)

async def main():
    async with PoolManager(DSN) as pool:
        sync_pool = SyncPoolManager(DSN)
        shutdown_on_signals(pool, sync_pool)
        threading.Thread(target=work_in_thread, args=(sync_pool,)).start()
        await asyncio.gather(work(pool, 0), work(pool, 1), asyncio.Event().wait())

asyncio.run(main())
""",
}

if (3, 12) <= sys.version_info < (3, 12, 3):
    # These versions start no thread once the main thread has ended, but a pool opens with threads
    # of its own: https://github.com/python/cpython/issues/113964
    del ENDS["main thread has ended"]


CASES = [
    *((name, signal.SIGTERM) for name in ENDS),
    *((name, signal.SIGINT) for name in ("asyncio.run", "uvloop.run", "threads")),
]


@pytest.mark.parametrize(
    ("name", "number"), CASES, ids=[f"{name}-{number.name}" for name, number in CASES]
)
async def test_a_signal_lets_what_is_in_flight_commit_and_then_ends_the_program(
    name: str, number: signal.Signals, pg_cluster: LocalCluster, application: str, table: Table
) -> None:
    code, said = await told_to_end(ENDS[name], number, pg_cluster, application, table)
    assert await rows(pg_cluster, table) == [0, 1, 2], said
    assert said.count("committed") == 3, said
    assert "were not given back" not in said, said
    if number is signal.SIGTERM:
        assert code == 0, said
        assert "Traceback" not in said, said
    else:
        assert code == -signal.SIGINT, said  # Python ends so after a KeyboardInterrupt
        assert said.rstrip().endswith("KeyboardInterrupt"), said
    for node in pg_cluster.nodes:
        await until_sessions(node, application, 0)


@pytest.mark.parametrize(
    "program", [ENDS["asyncio.run"], ENDS["threads"]], ids=["tasks", "threads"]
)
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_second_signal_ends_the_program_at_once(
    program: str,
    second: signal.Signals,
    pg_cluster: LocalCluster,
    application: str,
    table: Table,
) -> None:
    async with (
        held_lock(pg_cluster.master),
        running(program, pg_cluster, application, table) as running_program,
    ):
        await until_waiting(pg_cluster.master, application, 3)
        running_program.tell(signal.SIGTERM)
        await running_program.said("leases in use have 30 s to end")
        running_program.tell(second)
        began = time.monotonic()
        code = await running_program.end()
    assert time.monotonic() - began < 5
    assert code == 128 + second
    assert "Traceback" not in running_program.output, running_program.output
    await end_sessions(pg_cluster.master, application)
    assert await rows(pg_cluster, table) == []


TOO_LONG = {
    "tasks": TASKS + "asyncio.run(main(timeout=0.3))",
    "threads": THREADS
    + """
pool = PoolManager(DSN)
shutdown_on_signals(pool, timeout=0.3)
start(pool)
threading.Event().wait()
""",
}


@pytest.mark.parametrize("program", TOO_LONG.values(), ids=TOO_LONG.keys())
async def test_work_that_takes_longer_than_the_timeout_is_broken_and_reported(
    program: str, pg_cluster: LocalCluster, application: str, table: Table
) -> None:
    async with (
        held_lock(pg_cluster.master),
        running(program, pg_cluster, application, table) as running_program,
    ):
        await until_waiting(pg_cluster.master, application, 3)
        running_program.tell(signal.SIGTERM)
        began = time.monotonic()
        code = await running_program.end()
    said = running_program.output
    assert time.monotonic() - began < 0.3 + 5
    assert code == 0, said
    assert "drained: 3 leases not given back in time and so broken: 127.0.0.1:" in said, said
    assert said.count("(master) out for") == 6, said  # when the drain begins, and when it ends
    await end_sessions(pg_cluster.master, application)
    assert await rows(pg_cluster, table) == []


HANDLERS = {
    "asyncio.run": TASKS
    + """
def found(number, frame):
    print("found handler", number, flush=True)
    done.set()

async def run():
    global done
    done = asyncio.Event()
    async with PoolManager(DSN) as pool:
        signal.signal(signal.SIGTERM, found)
        shutdown_on_signals(pool)
        await asyncio.gather(*(work(pool, number) for number in range(3)))
        await done.wait()
        print("closed:", pool.closed)
    sys.exit(7)

asyncio.run(run())
""",
    "threads": THREADS
    + """
done = threading.Event()

def found(number, frame):
    print("found handler", number, flush=True)
    done.set()

signal.signal(signal.SIGTERM, found)
with PoolManager(DSN) as pool:
    shutdown_on_signals(pool)
    start(pool)
    done.wait()
    print("closed:", pool.closed)
sys.exit(7)
""",
    "after the loop has ended": THREADS
    + """
import asyncio
from hasql.asyncpg import PoolManager as AsyncPoolManager

done = threading.Event()

def found(number, frame):
    print("found handler", number, flush=True)
    done.set()

async def before():
    shutdown_on_signals(AsyncPoolManager(DSN), pool)

signal.signal(signal.SIGTERM, found)
with PoolManager(DSN) as pool:
    asyncio.run(before())
    start(pool)
    done.wait()
    print("closed:", pool.closed)
sys.exit(7)
""",
}


@pytest.mark.parametrize("program", HANDLERS.values(), ids=HANDLERS.keys())
async def test_a_handler_that_was_found_is_called_when_all_is_drained(
    program: str, pg_cluster: LocalCluster, application: str, table: Table
) -> None:
    code, said = await told_to_end(program, signal.SIGTERM, pg_cluster, application, table)
    assert code == 7, said
    assert said.count("found handler 15") == 1, said
    assert "found handler" in said.split("committed")[-1], said
    assert "closed: True" in said, said
    assert await rows(pg_cluster, table) == [0, 1, 2], said


FORKS = (
    TASKS
    + """
def in_child():
    print("child is", os.getpid(), flush=True)
    while True:
        time.sleep(0.01)  # a signal that comes just before signal.pause() wakes nobody

async def run():
    async with PoolManager(DSN) as pool:
        shutdown_on_signals(pool)
        child = os.fork()
        if child == 0:
            in_child()
            os._exit(9)
        working = [asyncio.create_task(work(pool, number)) for number in range(3)]
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        print("child ended by", os.waitstatus_to_exitcode(status), flush=True)
        await asyncio.gather(*working)
        print("closing:", pool.closing, flush=True)

asyncio.run(run())
"""
)


async def test_a_forked_child_ends_as_it_would_have_and_harms_nobody(
    pg_cluster: LocalCluster, application: str, table: Table
) -> None:
    async with (
        held_lock(pg_cluster.master) as let_go,
        running(FORKS, pg_cluster, application, table) as program,
    ):
        await program.said("child is ")
        await until_waiting(pg_cluster.master, application, 3)
        os.kill(int(program.output.split("child is ")[-1].split()[0]), signal.SIGTERM)
        await program.said("child ended")
        await let_go()
        code = await program.end()
    assert code == 0, program.output
    assert f"child ended by {-signal.SIGTERM}" in program.output, program.output
    assert "closing: False" in program.output, program.output
    assert await rows(pg_cluster, table) == [0, 1, 2]


GEVENT = (
    "from gevent import monkey; monkey.patch_all()\n"
    + THREADS
    + """
with PoolManager(DSN) as pool:
    shutdown_on_signals(pool)
    start(pool)
    threading.Event().wait()
"""
)


async def test_greenlets_commit_too(
    pg_cluster: LocalCluster, application: str, table: Table
) -> None:
    code, said = await told_to_end(GEVENT, signal.SIGTERM, pg_cluster, application, table)
    assert code == 0, said
    assert "Traceback" not in said, said
    assert await rows(pg_cluster, table) == [0, 1, 2], said


SERVERS = {
    "uvicorn": "-m uvicorn --app-dir {} app:app --host 127.0.0.1 --port 0",
    "gunicorn": "-m gunicorn --no-control-socket --pythonpath {} app:app --bind 127.0.0.1:0",
}
SERVED = """
import os
from hasql.asyncpg import PoolManager
from hasql.sync.psycopg3 import PoolManager as SyncPoolManager
from hasql.resilience import shutdown_on_signals

DSN = os.environ["DSN"]

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    try:
        shutdown_on_signals(PoolManager(DSN))
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": repr(error)})

if "gunicorn" in __import__("sys").modules:
    shutdown_on_signals(SyncPoolManager(DSN))
"""


@pytest.mark.parametrize("server", SERVERS)
async def test_a_web_server_keeps_its_signals(
    server: str, pg_cluster: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(SERVED)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *SERVERS[server].format(tmp_path).split()),
        env={**os.environ, "DSN": str(pg_cluster.dsn), "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            output, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert process.returncode == 3, output.decode()
    assert f"SIGTERM is handled by {server}, which has to stop accepting" in output.decode()


FORKS_WHILE_IT_DRAINS = (
    THREADS
    + """
forking = threading.Event()

class Forks(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("draining"):
            forking.set()

logging.getLogger().addHandler(Forks())
with PoolManager(DSN) as pool:
    shutdown_on_signals(pool)
    start(pool)
    forking.wait()
    child = os.fork()
    if child == 0:
        print("child is", os.getpid(), flush=True)
        while True:
            time.sleep(0.01)
    _, status = os.waitpid(child, 0)
    print("child ended by", os.waitstatus_to_exitcode(status), flush=True)
    threading.Event().wait()
"""
)


async def test_the_signal_of_a_child_that_was_forked_meanwhile_is_no_second_one(
    pg_cluster: LocalCluster, application: str, table: Table
) -> None:
    async with (
        held_lock(pg_cluster.master) as let_go,
        running(FORKS_WHILE_IT_DRAINS, pg_cluster, application, table) as program,
    ):
        await until_waiting(pg_cluster.master, application, 3)
        program.tell(signal.SIGTERM)
        await program.said("child is ")
        os.kill(int(program.output.split("child is ")[-1].split()[0]), signal.SIGTERM)
        await program.said("child ended")
        await let_go()
        code = await program.end()
    assert f"child ended by {-signal.SIGTERM}" in program.output, program.output
    assert code == 0, program.output
    assert await rows(pg_cluster, table) == [0, 1, 2]
