"""A fork harms nobody, with every driver on both event loops (invariant 16).

Parent and child have the same sockets and the same epoll set. What a child does with an inherited
manager, even just letting go of it, could end the parent's connections or make it deaf to them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.scene import every_place_works, until_sessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from hasql._manager.facade import Facade
    from hasql.base import BasePoolManager
    from hasql.testing import LocalCluster
    from testbed.kits.base import Kit

    Manager = BasePoolManager[Any, Any]

ROOT = Path(__file__).parents[2]

_PLAYS = 4
"""How many plays in a row may tell nothing because the machine is too busy."""


def in_child(run: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Run a function in a forked child and return what the function returned there."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # The warning is about threads, and those of tests are idle.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            with os.fdopen(writer, "w") as pipe:
                json.dump(run(), pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said, "the child has died"
    result: dict[str, str] = json.loads(said)
    return result


def plays(caplog: pytest.LogCaptureFixture) -> Iterator[int]:
    """Repeat a play until it can tell whether the parent keeps its connections.

    If a machine is so busy that a reserved connection answers later than a new one, hasql takes the
    older connections for lost. So a play in which a host went quiet proves nothing against the
    parent. Whatever a fork does to a parent, it does in each play.
    """
    caplog.set_level(logging.DEBUG, "hasql")
    for play in range(_PLAYS):
        caplog.clear()
        yield play
        if not any(getattr(each, "event", None) == "host_quiet" for each in caplog.records):
            return


def run_anew(loop_class: type[asyncio.AbstractEventLoop], work: Awaitable[Any]) -> None:
    """Run in a new event loop, and end what is left in it, as `asyncio.run` does."""

    async def wait() -> None:
        await work

    with asyncio.Runner(loop_factory=loop_class) as runner:
        runner.run(wait())


async def backends(
    kit: Kit, manager: Manager, cluster: LocalCluster, application: str
) -> dict[int, set[str]]:
    """Return by port the server processes of all possible sessions, reserved ones included."""
    await every_place_works(kit, manager)
    pids = {}
    for node in cluster.nodes:
        await until_sessions(node, application, 3)
        query = f"SELECT pid FROM pg_stat_activity WHERE application_name = '{application}'"  # noqa: S608  # a name of ours
        said = await node.sql(query)
        pids[node.port] = set(said.split())
    return pids


def uses_of_both_faces(
    manager: Facade[Any, Any, Any], connection: Any, pool: Any
) -> dict[str, Callable[[], Any]]:
    """Return by name what tasks and threads do with a manager in the same words."""
    return {
        "register_connection": lambda: manager.register_connection(object(), pool),
        "is_connection_closed": lambda: manager.is_connection_closed(connection),
        "still_fits": lambda: manager.still_fits(connection),
        "pools": lambda: manager.pools,
        "iteration": lambda: list(manager),
        "master_pool_count": lambda: manager.master_pool_count,
        "replica_pool_count": lambda: manager.replica_pool_count,
        "available_pool_count": lambda: manager.available_pool_count,
        "pool_is_master": lambda: manager.pool_is_master(pool),
        "pool_is_replica": lambda: manager.pool_is_replica(pool),
        "get_pool_freesize": lambda: manager.get_pool_freesize(pool),
        "get_last_response_time": lambda: manager.get_last_response_time(pool),
        "host": lambda: manager.host(pool),
        "add_listener": lambda: manager.add_listener(print),
        "set_tracer": lambda: manager.set_tracer(None),
        "leases": manager.leases,
    }


def uses(manager: Manager, lease: Any, connection: Any, pool: Any) -> dict[str, Callable[[], Any]]:
    """Return by name everything that can be done with a manager."""

    async def block() -> None:
        async with manager.acquire_replica():
            raise AssertionError("entered")

    return {
        **uses_of_both_faces(manager, connection, pool),
        "acquire": manager.acquire,
        "acquire_master": manager.acquire_master,
        "acquire_replica": block,
        "acquire_from_pool": lambda: manager.acquire_from_pool(pool),
        "release": lambda: manager.release(connection),
        "release_to_pool": lambda: manager.release_to_pool(connection, pool),
        "leaving a block": lambda: lease.__aexit__(None, None, None),
        "entering it": manager.__aenter__,
        "leaving it": lambda: manager.__aexit__(None, None, None),
        "ready": lambda: manager.ready(1, 2),
        "wait_all_ready": manager.wait_all_ready,
        "wait_masters_ready": lambda: manager.wait_masters_ready(1),
        "wait_replicas_ready": lambda: manager.wait_replicas_ready(1),
        "wait_next_pool_check": manager.wait_next_pool_check,
        "get_pool": lambda: manager.get_pool(read_only=True),
        "get_master_pools": manager.get_master_pools,
        "get_replica_pools": manager.get_replica_pools,
        "metrics": manager.metrics,
        "remove_listener": lambda: manager.remove_listener(print),
        "accept_timeline": manager.accept_timeline,
        "resize": lambda: manager.resize(max_size=5),
        "run": lambda: manager.run(_nothing),
        "drain": manager.drain,
        "close": manager.close,
        "terminate": manager.terminate,
    }


async def _nothing(connection: object) -> None:
    """Do what a unit of work would do: nothing."""


#: Attributes and methods that only tell what the manager was given.
HARMLESS = {
    "balancer",
    "category",
    "closed",
    "closing",
    "dsn",
    "from_settings",
    "pool_factory_kwargs",
    "refresh_delay",
    "refresh_timeout",
    "retriable",
    "runs",  # SQLAlchemy's: makers of sessions use it to run units of work
}


def test_everything_that_a_manager_has_is_tried(kit: Kit) -> None:
    manager = kit.manager("postgresql://localhost/")
    public = {name for name in dir(manager) if not name.startswith("_")}
    assert public - HARMLESS <= uses(manager, None, None, None).keys()


def outcomes(
    loop_class: type[asyncio.AbstractEventLoop], tried: dict[str, Callable[[], Any]]
) -> dict[str, str]:
    """Try each use in an event loop of its own; return by name what it raised or returned."""

    async def use(one: Callable[[], Any]) -> str:
        try:
            result = one()
            if hasattr(result, "__await__"):
                result = await asyncio.wait_for(result, 2)
        except Exception as error:  # noqa: BLE001  # the parent looks at it
            return type(error).__name__
        return f"no error: {result!r}"

    found: dict[str, str] = {}

    async def use_all() -> None:
        for name, one in tried.items():
            found[name] = await use(one)

    run_anew(loop_class, use_all())
    return found


async def test_16_a_child_is_refused_whatever_it_does_and_its_parent_notices_nothing(
    kit: Kit,
    manager: Manager,
    pg_cluster: LocalCluster,
    application: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop_class = type(asyncio.get_running_loop())
    kept = False
    for _ in plays(caplog):
        before = await backends(kit, manager, pg_cluster, application)
        lease = manager.acquire_master()
        connection = await lease.__aenter__()
        pid = await kit.pid(connection)
        pool = await manager.get_pool(read_only=False)
        tried = uses(manager, lease, connection, pool)
        said = in_child(partial(outcomes, loop_class, tried))
        shown = in_child(lambda: {"repr": repr(manager)})["repr"]
        assert said == dict.fromkeys(said, "WrongEventLoopError")
        assert "started before a fork" in shown
        assert await kit.pid(connection) == pid
        await lease.__aexit__(None, None, None)
        await manager.wait_next_pool_check()
        kept = await backends(kit, manager, pg_cluster, application) == before
        if kept:
            break
    assert kept


async def test_16_a_manager_that_was_not_started_before_the_fork_works_in_the_child(
    kit: Kit, manager: Manager, pg_cluster: LocalCluster
) -> None:
    unused = kit.manager(pg_cluster.dsn)
    loop_class = type(asyncio.get_running_loop())

    async def use() -> str:
        async with unused, unused.acquire_master() as connection:
            return str(await kit.value(connection, "SELECT 42"))

    assert in_child(lambda: outcomes(loop_class, {"use": use})) == {"use": "no error: '42'"}
    async with manager.acquire_master() as connection:
        assert await kit.value(connection, "SELECT 1") == 1


PROGRAM = """
import asyncio, gc, os, signal, sys
from {module} import {kit}

kit = {kit}()
manager = kit.manager(sys.argv[1], refresh_delay=0.2, pool_factory_kwargs=kit.sizes(1, 2))

async def sessions(connection):
    query = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity "
    return await kit.value(connection, query + "WHERE application_name = 'forking'")

async def within():
    await manager.ready(1, 2)
    async with manager.acquire_master() as connection, manager.acquire_replica() as other:
        before = await sessions(connection), await sessions(other)
        child = os.fork()
        if child == 0:
            # asyncio's own end waits for a wake-up, which the parent may have taken from the pipe.
            signal.setitimer(signal.ITIMER_REAL, 1)
            sys.exit()  # through all blocks, and then asyncio cancels every task
        os.waitpid(child, 0)
        async with asyncio.timeout(5):
            await manager.wait_next_pool_check()
            assert (await sessions(connection), await sessions(other)) == before

async def go_on(child, before):
    os.waitpid(child, 0)
    async with asyncio.timeout(5):
        await manager.wait_next_pool_check()
        async with manager.acquire_master() as connection:
            assert await sessions(connection) == before
    await manager.close()
    print("well", flush=True)
    os._exit(0)  # asyncio's end would wait for its pipe, which the child's has taken from the set

async def begin():
    async with manager.acquire_master() as connection:
        return await sessions(connection)

with asyncio.Runner({factory}) as runner:
    runner.run(within())
    before = runner.run(begin())
    child = os.fork()
    if child == 0:
        del manager
        runner = None
        gc.collect()
        sys.exit()
    runner.run(go_on(child, before))
"""
FACTORIES = {"asyncio": "", "uvloop": "loop_factory=__import__('uvloop').new_event_loop"}


@pytest.mark.parametrize("loop", FACTORIES)
def test_16_a_child_that_ends_or_lets_go_of_everything_harms_nobody(
    kit: Kit, pg_cluster: LocalCluster, loop: str
) -> None:
    name = type(kit)
    program = PROGRAM.format(module=name.__module__, kit=name.__qualname__, factory=FACTORIES[loop])
    done = subprocess.run(
        [sys.executable, "-c", program, f"{pg_cluster.dsn}?application_name=forking"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
