"""A storm: many workers take 100,000 leases while hosts are killed, frozen and promoted, in turn.

It checks the state afterwards: every lease was counted, no connection is in use, no acquire waits
or has missed its deadline, and nothing runs or is connected any more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from chaos.application import LEASE_ABORT_AFTER
from chaos.stage import set_synchronous
from hasql.errors import HasqlError, NotAvailableError
from testbed.scene import sessions, tasks_end, threads_end, until, until_sessions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import LoadKit

__all__ = (
    "PLACES",
    "STORM",
    "StormLoad",
    "StormOutcome",
    "StormScene",
    "at_rest",
    "change_cluster",
    "left_behind",
    "play_storm",
)

_WORKERS, PLACES = 64, 16

_LEASES, _SHORT_LEASES = 100_000, 5_000

_TIMEOUT = 5.0
"""Seconds that an acquire may take."""

_LATE = 1.0
"""Seconds by which a machine with that many workers may miss the deadline."""

_HELD = 0.5
"""Seconds until the HA manager, played here, gives a killed or frozen host up."""

_PATIENCE = 30.0
"""Seconds within which all workers must end, and the pool must be at rest."""

_QUESTION = "SELECT concat(inet_server_port(), ' ', pg_is_in_recovery())"


@dataclass(frozen=True, slots=True)
class StormScene:
    name: str
    description: str


STORM = StormScene(
    "storm",
    f"{_WORKERS} workers take {_LEASES:,} leases while hosts are killed, frozen and promoted",
)


@dataclass(frozen=True, slots=True)
class StormOutcome:
    """The outcome for one driver. Durations are seconds."""

    scenario: str
    driver: str
    #: Leases that workers had, and acquires that the manager has counted.
    leases: int
    acquires: int
    changes: int
    #: Acquires that found no host in time, and leases that broke.
    refused: int
    failed: int
    #: The longest acquire, and the most by which an acquire has missed its deadline.
    longest: float
    late: float
    #: Acquires that waited for a connection, and leases per second.
    waits: int
    rate: float
    errors: dict[str, int] = field(default_factory=dict)
    #: The error of the last acquire that found no host in time.
    refusal: str = ""
    problems: tuple[str, ...] = ()


class StormLoad:
    """One driver's pool manager, and its workers."""

    def __init__(
        self,
        kit: LoadKit,
        cluster: LocalCluster,
        wanted: int,
        features: Mapping[str, Any] | None = None,
    ) -> None:
        self.kit = kit
        self.name = f"storm_{uuid4().hex}"
        self.manager: Any = kit.manager(
            f"{cluster.dsn}?application_name={self.name}",
            acquire_timeout=_TIMEOUT,
            lease_abort_after=LEASE_ABORT_AFTER,
            pool_factory_kwargs=kit.sizes(1, PLACES),
            **(features or {}),
        )
        self.workers = kit.workers()
        #: Seconds that successful acquires took, and those that unsuccessful ones took.
        self.lent: list[float] = []
        self.refused: list[float] = []
        self.errors: list[str] = []
        #: The error of the last acquire that found no host in time.
        self.refusal = ""
        #: Leases of a master that were on a standby.
        self.wrong = 0
        self.began = time.monotonic()
        self._expected: tuple[type[Exception], ...] = (*kit.lost, HasqlError)
        self._wanted = wanted

    def start(self) -> None:
        self.began = time.monotonic()
        for number in range(_WORKERS):
            self.workers.start(f"worker {number}", self._repeat(number))

    @property
    def is_over(self) -> bool:
        return len(self.lent) >= self._wanted

    async def _repeat(self, number: int) -> None:
        turn = number
        while not self.is_over:
            turn += 1
            await self._use(read_only=turn % 2 == 1)
            await self.workers.rest(0)

    async def _use(self, *, read_only: bool) -> None:
        began = time.monotonic()
        lent = False
        try:
            async with self.manager.acquire(read_only) as connection:
                self.lent.append(time.monotonic() - began)
                lent = True
                answer = await self.kit.value(connection, _QUESTION)
            self.wrong += not read_only and answer.endswith("t")
        except NotAvailableError as error:
            self.refused.append(time.monotonic() - began)
            self.refusal = str(error)
        except self._expected as error:
            words = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            self.errors.append(words if lent else f"before there was a lease: {words}")


async def play_storm(
    cluster: LocalCluster, kits: Sequence[LoadKit], *, short: bool
) -> list[StormOutcome]:
    """Play it to one driver after the other; return their outcomes. Short means 5,000 leases."""
    return [await _play(cluster, kit, _SHORT_LEASES if short else _LEASES) for kit in kits]


async def _play(cluster: LocalCluster, kit: LoadKit, wanted: int) -> StormOutcome:
    await asyncio.to_thread(cluster.heal)
    for node in cluster.nodes:
        await set_synchronous(node, "")
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    load = StormLoad(kit, cluster, wanted)
    try:
        await load.manager.ready(1, 2)
        load.start()
        changes = 0
        while not load.is_over:
            await change_cluster(cluster, changes)
            changes += 1
        seconds = time.monotonic() - load.began
        stuck = await load.workers.stuck_after(_PATIENCE)
        left = [f"{stuck} workers did not end"] if stuck else await at_rest(load)
        metrics = load.manager.metrics()
        await load.workers.end()
        await load.manager.close()
        await load.workers.wait()
    finally:
        await load.manager.terminate()
    left += await left_behind(cluster, load, tasks, threads)
    return _judge(load, metrics.acquires, metrics.waits, changes, seconds, left)


async def change_cluster(cluster: LocalCluster, number: int) -> None:
    """Cause one of the changes, in turn, and repair the cluster."""
    changes = (_kill_a_replica, _crash, _freeze_a_replica, _freeze, _replace)
    await changes[number % len(changes)](cluster.master, cluster.replicas[number % 2])
    await asyncio.sleep(_HELD)
    await asyncio.to_thread(cluster.heal)
    await asyncio.sleep(_HELD)


async def _kill_a_replica(_: LocalNode, replica: LocalNode) -> None:
    await asyncio.to_thread(replica.kill)


async def _freeze_a_replica(_: LocalNode, replica: LocalNode) -> None:
    await asyncio.to_thread(replica.freeze)
    await asyncio.sleep(LEASE_ABORT_AFTER)
    replica.thaw()


async def _crash(master: LocalNode, replica: LocalNode) -> None:
    await asyncio.to_thread(master.kill)
    await asyncio.sleep(_HELD)
    await replica.promote()


async def _freeze(master: LocalNode, replica: LocalNode) -> None:
    await asyncio.to_thread(master.freeze)
    await asyncio.sleep(_HELD)
    await replica.promote()
    await asyncio.sleep(_HELD)
    master.thaw()


async def _replace(_: LocalNode, replica: LocalNode) -> None:
    await replica.promote()


async def at_rest(load: StormLoad) -> list[str]:
    """Return what is wrong once there are no leases any more."""
    problems = []
    nodes = load.manager.metrics().nodes
    if any(node.in_flight for node in nodes):
        problems.append(f"places are taken: {[node.in_flight for node in nodes]}")
    if waiting := load.manager.metrics().waiting:
        problems.append(f"{waiting} wait")
    try:
        await until(lambda: not any(node.pool_used for node in load.manager.metrics().nodes))
    except TimeoutError:
        used = [node.pool_used for node in load.manager.metrics().nodes]
        problems.append(f"connections are lent by the pools: {used}")
    return problems


async def left_behind(
    cluster: LocalCluster,
    load: StormLoad,
    tasks: set[asyncio.Task[Any]],
    threads: set[threading.Thread],
) -> list[str]:
    """Return what exists after closing that did not exist before."""
    problems = []
    for ended in (tasks_end(tasks), threads_end(threads)):
        try:
            await ended
        except AssertionError as error:
            problems.append(f"left running: {error}")
    for node in cluster.nodes:
        try:
            await until_sessions(node, load.name, 0)
        except TimeoutError:
            problems.append(f"{node.name} has {await sessions(node, load.name)} sessions")
    return problems


def _judge(  # noqa: PLR0913 - the facts to judge
    load: StormLoad, acquires: int, waits: int, changes: int, seconds: float, left: Sequence[str]
) -> StormOutcome:
    longest = max((*load.lent, *load.refused))
    return StormOutcome(
        scenario=STORM.name,
        driver=load.kit.name,
        leases=len(load.lent),
        acquires=acquires,
        changes=changes,
        refused=len(load.refused),
        failed=len(load.errors),
        longest=longest,
        late=max(0.0, longest - _TIMEOUT),
        waits=waits,
        rate=len(load.lent) / seconds,
        errors=dict(Counter(load.errors)),
        refusal=load.refusal,
        problems=(*_problems(load, acquires, changes, longest), *left),
    )


def _problems(load: StormLoad, acquires: int, changes: int, longest: float) -> Iterator[str]:
    if acquires != len(load.lent):
        yield f"{acquires} acquires were counted, and there were {len(load.lent)} leases"
    if longest > _TIMEOUT + _LATE:
        yield f"an acquire took {longest:.1f} s, and had {_TIMEOUT:g}"
    if load.wrong:
        yield f"{load.wrong} leases of a master were on a standby"
    if len(load.errors) > changes * _WORKERS:
        yield f"{len(load.errors)} leases broke at {changes} changes"
    if early := [error for error in load.errors if error.startswith("before")]:
        yield f"{len(early)} acquires failed before there was a lease: {early[0]}"
