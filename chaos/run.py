"""A run: one scenario with the application of one driver, or of several drivers at once."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from chaos.application import Application
from chaos.commits import CommitScene
from chaos.leases import LeaseScene
from chaos.names import NameScene
from chaos.scenarios import Network
from chaos.soak import SoakScene
from chaos.stage import Stage, dsn_of, set_synchronous, ways
from chaos.storm import StormScene
from chaos.verdict import Aftermath, Outcome, judge
from chaos.wire import why_no_wires
from hasql.cli.observer import Observer
from hasql.errors import NotAvailableError
from testbed.middlemen.program import why_missing
from testbed.scene import sessions, tasks_end, threads_end, until_sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from chaos.scenarios import Scenario
    from chaos.stage import Way
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import LoadKit

__all__ = ("perform", "why_not")

_STEADY = 0.4
"""Seconds of load before the fault, and again after the repair."""

_PATIENCE = 30.0
"""Seconds after the repair within which all hosts must serve again."""

_SETTLING = 5.0
"""Seconds within which the sessions must shrink to those of a pool and its reserved connection."""

_CLOSING = 10.5
"""The most seconds that `close()` may take: its timeout, and a moment."""


def why_not(
    scenario: Scenario | LeaseScene | NameScene | StormScene | CommitScene | SoakScene,
) -> str | None:
    """Return why a scenario cannot be played here, or None if it can."""
    if isinstance(scenario, NameScene | StormScene | CommitScene | SoakScene):
        return None
    if isinstance(scenario, LeaseScene):
        return why_missing(scenario.program) if scenario.program else None
    return why_no_wires() if scenario.network == Network.WIRES else None


async def perform(
    scenario: Scenario,
    cluster: LocalCluster,
    kits: Sequence[LoadKit],
    *,
    short: bool,
    of_class: type[Application] = Application,
) -> list[Outcome]:
    """Play a scenario to an application of each driver, and return the outcome for each."""
    await _restore(cluster)
    load = scenario.load.lightened() if short or len(kits) > 1 else scenario.load
    # A reset that is lost on a wire is not sent again, so the server's side of the session stays.
    watched = cluster.nodes if scenario.network != Network.WIRES else ()
    with _complaints() as complaints, _little_garbage():
        before, threads_before = asyncio.all_tasks(), set(threading.enumerate())
        async with _network(scenario, cluster) as found:
            dsn = dsn_of(cluster, found)
            applications = [of_class(kit, cluster, dsn, load) for kit in kits]
            async with AsyncExitStack() as stack:
                await asyncio.gather(*map(stack.enter_async_context, applications))
                stage = await _play(scenario, cluster, applications, found, short=short)
                aftermaths = await asyncio.gather(
                    *(_look(application, watched) for application in applications)
                )
            left = await asyncio.gather(
                *(_leftovers(application, watched) for application in applications)
            )
        try:
            await tasks_end(before)
        except AssertionError as error:
            complaints.append(f"tasks are left: {error}")
        try:
            await threads_end(threads_before)
        except AssertionError as error:
            complaints.append(f"threads are left: {error}")
        gc.collect()
    for application, aftermath, problems in zip(applications, aftermaths, left, strict=True):
        aftermath.problems.extend([*problems, *complaints, *application.unforgiven()])
    return [
        judge(scenario, stage, application, aftermath)
        for application, aftermath in zip(applications, aftermaths, strict=True)
    ]


async def _restore(cluster: LocalCluster) -> None:
    """Restore one master that waits for its replicas; a promoted replica will wait for none."""
    await asyncio.to_thread(cluster.heal)
    master = cluster.master
    for node in cluster.nodes:
        await set_synchronous(node, "ANY 1 (*)" if node is master else "")


@asynccontextmanager
async def _network(
    scenario: Scenario, cluster: LocalCluster
) -> AsyncIterator[dict[LocalNode, Way]]:
    if scenario.network == Network.NONE:
        yield {}
        return
    async with ways(cluster.nodes, wires=scenario.network == Network.WIRES) as found:
        yield found


async def _play(
    scenario: Scenario,
    cluster: LocalCluster,
    applications: Sequence[Application],
    found: dict[LocalNode, Way],
    *,
    short: bool,
) -> Stage:
    async with Observer(cluster.replicas) as observer:
        stage = Stage(cluster, observer, applications, found, short=short)
        for application in applications:
            application.start()
        await asyncio.sleep(_STEADY)
        await scenario.play(stage)
        stage.played = time.monotonic()
    await asyncio.to_thread(cluster.heal)
    await asyncio.gather(*(_whole(application) for application in applications))
    await asyncio.sleep(_STEADY)
    await asyncio.gather(*(application.stop() for application in applications))
    return stage


async def _whole(application: Application) -> None:
    # An application whose hosts do not all come back is recognized by what it lacks afterwards.
    try:
        await application.manager.ready(1, 2, timeout=_PATIENCE)
    except NotAvailableError as error:
        application.incomplete = str(error)


async def _look(application: Application, nodes: Sequence[LocalNode]) -> Aftermath:
    problems = []
    if application.incomplete:
        problems.append(f"the cluster was not whole again: {application.incomplete}")
    elif not application.stuck:
        for read_only in (False, True):
            try:
                await application.workers.do(_use_every_place(application, read_only=read_only))
            except Exception as error:  # noqa: BLE001 - any error is reported
                problems.append(f"a place of a pool does not work: {type(error).__name__}: {error}")
    allowed = application.load.places + 1
    deadline = asyncio.get_running_loop().time() + _SETTLING
    for node in nodes:
        while (count := await sessions(node, application.name)) > allowed:
            if asyncio.get_running_loop().time() > deadline:
                problems.append(f"{node.name} has {count} sessions of {allowed}")
                break
            await asyncio.sleep(0.05)
    return Aftermath(await application.rows(), problems)


async def _use_every_place(application: Application, *, read_only: bool) -> None:
    manager = application.manager
    pools = manager.replica_pool_count if read_only else manager.master_pool_count
    leases = []
    try:
        for _ in range(application.load.places * pools):
            leases.append(await manager.acquire(read_only))
            await application.kit.value(leases[-1], "SELECT 1")
    finally:
        for lease in leases:
            await manager.release(lease)


async def _leftovers(application: Application, nodes: Sequence[LocalNode]) -> list[str]:
    problems = []
    if application.closing > _CLOSING:
        problems.append(f"close() took {application.closing:.1f} s")
    for node in nodes:
        try:
            await until_sessions(node, application.name, 0)
        except AssertionError:
            count = await sessions(node, application.name)
            problems.append(f"{node.name} has {count} sessions after close()")
    return problems


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Exclude existing objects from garbage collections.

    All drivers and their test kits are in this process. Going through all of their objects takes
    50 ms, during which an operation would seem to hang. If the caller has already excluded objects,
    as the tests do, they stay excluded.
    """
    others = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not others:
            gc.unfreeze()


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect asyncio's complaints, exceptions in threads, and errors in the log."""
    loop = asyncio.get_running_loop()
    complaints: list[str] = []

    def hear(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        complaints.append(f"asyncio: {context.get('message')}: {error!r}")

    def hear_of_thread(ended: threading.ExceptHookArgs) -> None:
        name = None if ended.thread is None else ended.thread.name
        complaints.append(f"thread {name} ended with {ended.exc_value!r}")

    usual = loop.get_exception_handler()
    loop.set_exception_handler(hear)
    usual_of_thread, threading.excepthook = threading.excepthook, hear_of_thread
    log = _Errors(complaints)
    logging.getLogger().addHandler(log)
    try:
        yield complaints
    finally:
        logging.getLogger().removeHandler(log)
        threading.excepthook = usual_of_thread
        loop.set_exception_handler(usual)


class _Errors(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._complaints.append(f"{record.name}: {record.getMessage()}: {error!r}")
