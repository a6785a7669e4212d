"""A soak: a million leases with every feature on, while hosts fail, and applications leak.

It checks that nothing grows: memory stays flat from one part to the next, no server has more
sessions than the pools may have, and nothing runs or is connected at the end.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from chaos.stage import set_synchronous
from chaos.storm import PLACES, StormLoad, at_rest, change_cluster, left_behind
from hasql.resilience import Admission, Breaker, Lifecycle, RateLimit, SessionDefaults
from testbed.scene import sessions, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hasql.testing import LocalCluster
    from testbed.kits.base import LoadKit

__all__ = ("SOAK", "SoakOutcome", "SoakScene", "play_soak")

_LEASES, _SHORT_LEASES = 1_000_000, 20_000
#: Memory is measured between the parts; in the first part, caches fill.
_PARTS, _SHORT_PARTS = 5, 3
#: One of this many leases is kept for longer than `leak_threshold`.
_KEPT = 2_000
_OVERDUE = 0.5
#: Seconds within which all workers must end, and the pool must be at rest.
_PATIENCE = 30.0
#: The most objects by which memory may grow: an absolute number, and a share of the leases.
_FLAT, _FLAT_SHARE = 3_000, 0.01
#: Sessions on a host besides the pool's: the monitor's, and one that replaces it.
_RESERVED = 2

EVERYTHING: dict[str, Any] = {
    "lifecycle": Lifecycle(
        max_lifetime=5.0,
        max_idle=2.0,
        check_idle=0.5,
        leak_threshold=_OVERDUE,
        leak_action="terminate",
    ),
    "admission": Admission(limit=3 * PLACES, queue=1000, adaptive=True),
    "rate_limit": RateLimit("1000000/second"),
    "breaker": Breaker(threshold=50, recovery=1.0),
    "session": SessionDefaults(statement_timeout=20.0),
    "report_every": 5.0,
}


@dataclass(frozen=True, slots=True)
class SoakScene:
    name: str
    description: str


SOAK = SoakScene(
    "soak", f"{_LEASES:,} leases with every feature on; with --short {_SHORT_LEASES:,}"
)


@dataclass(frozen=True, slots=True)
class SoakOutcome:
    """The outcome for one driver."""

    scenario: str
    driver: str
    leases: int
    seconds: float
    refused: int
    failed: int
    overdue: int
    changes: int
    #: Objects and megabytes after each part.
    objects: tuple[int, ...]
    megabytes: tuple[float, ...]
    #: The most sessions that a server had at rest.
    sessions: int
    problems: tuple[str, ...] = ()


class _Load(StormLoad):
    """The storm's workers; they also keep some leases too long, and their records do not grow."""

    def __init__(self, kit: LoadKit, cluster: LocalCluster) -> None:
        super().__init__(kit, cluster, 0, EVERYTHING)
        self._chance = Random(7)  # noqa: S311  # no secret
        self.count = self.of_refused = self.of_failed = 0
        self.until = 0

    @property
    def is_over(self) -> bool:
        return self.count >= self.until

    async def _use(self, *, read_only: bool) -> None:
        await super()._use(read_only=read_only)
        if self._chance.random() < 1 / _KEPT:
            await self._keep()
        # The counts are approximate: threads do this at the same time, and entries added between
        # these lines are lost.
        self.count += len(self.lent)
        self.of_refused += len(self.refused)
        self.of_failed += len(self.errors)
        for counted in (self.lent, self.refused, self.errors):
            counted.clear()

    async def _keep(self) -> None:
        """Keep a lease for too long, so that it is broken."""
        try:
            async with self.manager.acquire(read_only=True) as connection:
                await self.workers.rest(_OVERDUE * 1.5)
                await self.kit.value(connection, "SELECT 1")
        except Exception:  # noqa: BLE001  # any error of the driver about a broken connection
            self.of_failed += 1


async def play_soak(
    cluster: LocalCluster,
    kits: Sequence[LoadKit],
    *,
    short: bool,
    tell: Callable[[str], None] = lambda _: None,
) -> list[SoakOutcome]:
    """Play it to one driver after the other; return their outcomes, and report after each part."""
    return [await _play(cluster, kit, tell, short=short) for kit in kits]


async def _play(
    cluster: LocalCluster, kit: LoadKit, tell: Callable[[str], None], *, short: bool
) -> SoakOutcome:
    wanted, parts = (_SHORT_LEASES, _SHORT_PARTS) if short else (_LEASES, _PARTS)
    await asyncio.to_thread(cluster.heal)
    for node in cluster.nodes:
        await set_synchronous(node, "")
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    load, problems, began = _Load(kit, cluster), list[str](), time.monotonic()
    objects, megabytes, most, changes = list[int](), list[float](), 0, 0
    try:
        await load.manager.ready(1, 2)
        for part in range(parts):
            load.until = wanted * (part + 1) // parts
            load.start()
            changes = await _change_while_busy(cluster, load, changes, once=short)
            if stuck := await load.workers.stuck_after(_PATIENCE):
                problems.append(f"{stuck} workers did not end")
                break
            problems += await _at_rest(load)
            most = max(most, *[await sessions(node, load.name) for node in cluster.nodes])
            gc.collect()
            objects.append(len(gc.get_objects()))
            megabytes.append(_resident())
            tell(
                f"    {time.monotonic() - began:,.0f} s: {load.count:,} leases, {changes} changes, "
                f"{objects[-1]:,} objects, {megabytes[-1]:,.0f} MB, {most} sessions at most"
            )
        metrics = load.manager.metrics()
        await load.workers.end()
        await load.manager.close()
        await load.workers.wait()
    finally:
        await load.manager.terminate()
    problems += await left_behind(cluster, load, tasks, threads)
    return SoakOutcome(
        scenario=SOAK.name,
        driver=kit.name,
        leases=load.count,
        seconds=time.monotonic() - began,
        refused=load.of_refused,
        failed=load.of_failed,
        overdue=metrics.leases_overdue,
        changes=changes,
        objects=tuple(objects),
        megabytes=tuple(megabytes),
        sessions=most,
        problems=(*problems, *_problems(load, objects, most)),
    )


async def _change_while_busy(
    cluster: LocalCluster, load: _Load, changes: int, *, once: bool
) -> int:
    """Cause changes until the part is over, or just one; return how many there were so far."""
    while not load.is_over:
        await change_cluster(cluster, changes)
        changes += 1
        if once:
            break
    while not load.is_over:  # noqa: ASYNC110  # threads cannot set an asyncio event
        await asyncio.sleep(0.05)
    return changes


async def _at_rest(load: _Load) -> list[str]:
    """Return what is wrong at rest; the upkeep of idle connections uses connections of its own."""
    try:
        await until(lambda: not any(node.in_flight for node in load.manager.metrics().nodes))
    except TimeoutError:
        return await at_rest(load)
    return []


def _problems(load: _Load, objects: Sequence[int], most: int) -> Iterator[str]:
    allowed = max(_FLAT, _FLAT_SHARE * load.count)
    if len(objects) > 1 and objects[-1] - objects[1] > allowed:
        yield f"memory grew: {', '.join(f'{count:,}' for count in objects)} objects"
    if most > PLACES + _RESERVED:
        yield f"a server had {most} sessions, and the pool may have {PLACES}"
    if load.wrong:
        yield f"{load.wrong} leases of a master were on a standby"


def _resident() -> float:
    """Return how many megabytes of memory the process has; nan if the system does not tell."""
    if not sys.platform.startswith("linux"):
        return float("nan")
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096 / 1e6
