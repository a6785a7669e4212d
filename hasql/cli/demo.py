"""The demo: a cluster, an application that uses it, and a fault."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

import hasql.asyncpg
import hasql.sync.psycopg3
from hasql.cli.face import Face
from hasql.cli.fault import Fault, Stage, play
from hasql.cli.host_names import HostNames
from hasql.cli.observer import Observer
from hasql.cli.report import Event, Report, RunRecord
from hasql.cli.screen import Frame, Screen
from hasql.cli.task_workload import TaskWorkload
from hasql.cli.thread_workload import ThreadWorkload
from hasql.cli.workload import TABLE, Workload
from hasql.errors import ConfigurationError, NotAvailableError
from hasql.testing import LocalCluster, LocalNode

__all__ = ("Demo", "Plan")

_ACQUIRE_TIMEOUT = 10.0
"""Seconds that an operation waits for a master before it fails: longer than a promotion takes."""

_POOL_SIZE = 10
"""Connections to each host: the default of asyncpg's pool."""

_MOST_TASKS = 40
"""The most writers, and the most readers: a server has enough connections for these."""

_REPAIR_TIMEOUT = 30.0
"""Seconds after the repair of the cluster within which hasql must serve from all hosts again."""

_LOAD_AFTER_REPAIR = 0.5
"""Seconds of load after all hosts serve again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of a demo."""

    fault: Fault
    #: Seconds of load.
    duration: float
    writers: int = 4
    readers: int = 4
    #: PostgreSQL's major version, or None for the newest one available.
    version: int | None = None
    face: Face = Face.ASYNC

    def __post_init__(self) -> None:
        """Check the options.

        Raises ConfigurationError for options that cannot work.
        """
        minimum = self.fault.minimum
        if not minimum <= self.duration <= 3600:  # noqa: PLR2004 - an hour
            raise ConfigurationError(
                f"--duration {self.duration:g}: give {minimum:g} to 3600 seconds; showing the "
                f"fault {self.fault.value!r} takes at least {minimum:g}"
            )
        for name, value in (("writers", self.writers), ("readers", self.readers)):
            if not 1 <= value <= _MOST_TASKS:
                raise ConfigurationError(f"--{name} {value}: give 1 to {_MOST_TASKS}")

    @property
    def steady(self) -> float:
        """Seconds of load before the fault."""
        return min(3.0, self.duration * 0.25)


class Demo:
    """One run of the demo."""

    def __init__(self, plan: Plan, screen: Screen) -> None:
        self._plan = plan
        self._screen = screen
        self._events: list[tuple[float, str]] = []

    async def run(self) -> Report:
        """Start everything, cause the fault, and stop everything."""
        plan = self._plan
        with _hasql_log(self._screen):
            self._tell("starting a PostgreSQL cluster: a master and two replicas")
            cluster = LocalCluster(version=plan.version, on_progress=self._tell)
            async with cluster, AsyncExitStack() as stack:
                names = None
                if plan.fault is Fault.DNS:
                    names = await stack.enter_async_context(HostNames(cluster.nodes))
                    self._tell("the hosts have names, which a nameserver of this demo serves")
                workload = await stack.enter_async_context(self._workload(cluster, names))
                await workload.ready()
                await workload.prepare()
                observer = await stack.enter_async_context(Observer(cluster.nodes[1:]))
                stage = Stage(cluster.nodes, observer, self._tell, names)
                return await self._perform(workload, stage, cluster.nodes)

    async def _perform(
        self, workload: Workload, stage: Stage, nodes: tuple[LocalNode, ...]
    ) -> Report:
        plan = self._plan
        async with self._shown(workload, nodes):
            load = f"{plan.writers} writers and {plan.readers} readers"
            self._tell(f"{load} begin in {plan.face.kind}")
            workload.start(plan.writers, plan.readers)
            try:
                await asyncio.sleep(plan.steady)
                await play(plan.fault, stage)
                whole = await self._await_whole(workload)
                rest = workload.began + plan.duration - time.monotonic()
                await asyncio.sleep(max(rest, _LOAD_AFTER_REPAIR))
                self._tell("the load ends")
                await workload.stop()
            finally:
                await workload.abort()
        self._tell(f"looking for every acknowledged row on {stage.master.name}")
        present = await _rows_on(stage.master)
        assert stage.struck is not None  # noqa: S101 - it has been played
        return Report.of(
            RunRecord(
                fault=plan.fault.value,
                face=plan.face.value,
                postgresql=await _version_of(stage.master),
                lossless=plan.fault.lossless,
                began=workload.began,
                ended=workload.ended,
                struck=stage.struck,
                writable=stage.writable,
                whole=whole,
                acknowledged=workload.acknowledged,
                reads=workload.reads,
                failed=workload.failed,
                hung=workload.hung,
                present=present,
                waits=[waited.seconds for waited in workload.waits],
                retries=len(workload.retries),
                events=[Event(at - workload.began, what) for at, what in self._events],
                move=None if stage.names is None else stage.names.move,
            )
        )

    def _workload(self, cluster: LocalCluster, names: HostNames | None) -> Workload:
        dsn = cluster.dsn if names is None else names.dsn(cluster.dsn)
        resolver = None if names is None else names.resolver
        size = max(_POOL_SIZE, self._plan.writers + self._plan.readers)
        sizes: dict[str, Any] = {"min_size": _POOL_SIZE, "max_size": size}
        if self._plan.face is Face.ASYNC:
            return TaskWorkload(
                hasql.asyncpg.PoolManager(
                    dsn, _ACQUIRE_TIMEOUT, pool_factory_kwargs=sizes, resolver=resolver
                )
            )
        sizes["kwargs"] = {"autocommit": True}
        return ThreadWorkload(
            hasql.sync.psycopg3.PoolManager(
                dsn, _ACQUIRE_TIMEOUT, pool_factory_kwargs=sizes, resolver=resolver
            )
        )

    async def _await_whole(self, workload: Workload) -> float | None:
        with suppress(NotAvailableError):
            await workload.ready(_REPAIR_TIMEOUT)
            self._tell("one master and two replicas serve again")
            return time.monotonic()
        return None

    def _tell(self, text: str) -> None:
        self._events.append((time.monotonic(), text))
        self._screen.tell(text)

    @asynccontextmanager
    async def _shown(self, workload: Workload, nodes: tuple[LocalNode, ...]) -> AsyncIterator[None]:
        names = tuple(node.name for node in nodes)

        async def redraw() -> None:
            while True:
                last = workload.failed[-1].error if workload.failed else None
                await self._screen.show(
                    Frame(
                        time.monotonic(),
                        workload.pool.metrics(),
                        names,
                        len(workload.acknowledged),
                        len(workload.reads),
                        len(workload.failed),
                        last,
                    )
                )
                await asyncio.sleep(self._screen.period)

        task = asyncio.create_task(redraw())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def _rows_on(node: LocalNode) -> set[tuple[int, int]]:
    connection = await asyncpg.connect(node.dsn, timeout=_ACQUIRE_TIMEOUT)
    try:
        rows = await connection.fetch(f"SELECT client, sequence FROM {TABLE}")  # noqa: S608 - a constant
    finally:
        await connection.close()
    return {(row["client"], row["sequence"]) for row in rows}


async def _version_of(node: LocalNode) -> str:
    return (await node.sql("SHOW server_version")).partition(" ")[0]


class _LogLines(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.INFO)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.log(record.getMessage())


@contextmanager
def _hasql_log(screen: Screen) -> Iterator[None]:
    """Show hasql's log lines on the screen, and send them nowhere else.

    The log of psycopg's pool is switched off meanwhile: it warns about each lost connection, and
    the screen shows the loss anyway.
    """
    ours, of_pool = logging.getLogger("hasql"), logging.getLogger("psycopg.pool")
    handler = _LogLines(screen)
    before = ours.level, ours.propagate, of_pool.disabled
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    of_pool.disabled = True
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before[0])
        ours.propagate, of_pool.disabled = before[1:]
