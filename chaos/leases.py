"""Leases of a master while servers are promoted, killed and moved behind middle men.

Each lease is asked which server it is on, and judged by what the scene knows. A lease of a master
is wrong on a standby, always, and on a master that has been replaced, if it was handed out after
hasql could have known: each passage (`chaos.passages`) says when that is.

A pooler lets a client outlive its server: a statement waits there until a server can answer it,
which may have come back as a standby, or be the next master. There a lease is right that was so at
any moment from when it was handed out to the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from chaos.application import ACQUIRE_TIMEOUT, LEASE_ABORT_AFTER, LONGEST
from chaos.passages import (
    Poolers,
    PoolersThatMove,
    Proxies,
    Records,
    Services,
    UncutServices,
)
from chaos.stage import set_synchronous

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chaos.passages import Passage
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import LoadKit

__all__ = (
    "LEASE_SCENES",
    "Lease",
    "LeaseOutcome",
    "LeaseScene",
    "Reign",
    "is_stale",
    "play_leases",
)

_QUESTION = "SELECT concat_ws(' ', inet_server_port(), pg_backend_pid(), pg_is_in_recovery())"

_LATE = 0.5
"""Seconds by which a busy machine may miss what one at rest keeps: all drivers are at it here."""

_WRITERS, _READERS = 4, 1

_SHORT, _LONG = (500, 3, 6), (10_000, 3, 40)
"""Leases of a master that are wanted, the fewest changes of master, and the most."""


@dataclass(frozen=True, slots=True)
class LeaseScene:
    """What lies between the application and the servers."""

    name: str
    description: str
    passage: type[Passage]
    #: Without which it cannot be played.
    program: str | None = None


_ALL = (
    LeaseScene(
        "haproxy",
        "masters change behind HAProxy, which cuts sessions",
        Proxies,
        "haproxy",
    ),
    LeaseScene(
        "service",
        "masters change behind names that are turned, with a cut",
        Services,
    ),
    LeaseScene(
        "service-uncut",
        "masters change behind names that are turned, and no flow is cut",
        UncutServices,
    ),
    LeaseScene(
        "records",
        "masters change behind names whose DNS records are repointed",
        Records,
    ),
    LeaseScene(
        "pgbouncer",
        "masters change behind a PgBouncer before each server",
        Poolers,
        "pgbouncer",
    ),
    LeaseScene(
        "pgbouncer-moves",
        "masters change behind a PgBouncer that is pointed at the new one",
        PoolersThatMove,
        "pgbouncer",
    ),
)

LEASE_SCENES = {scene.name: scene for scene in _ALL}


class Lease(NamedTuple):
    """What one was found to be on; times are monotonic seconds."""

    read_only: bool
    port: int
    pid: int
    in_recovery: bool
    #: When it was handed out, and when the answer was there.
    at: float
    answered: float


class Reign(NamedTuple):
    """The time in which a lease of a master may be on a server."""

    port: int
    begin: float
    end: float = float("inf")


class Event(NamedTuple):
    at: float
    what: str
    #: Whether names or poolers were pointed elsewhere.
    moved: bool


@dataclass(frozen=True, slots=True)
class LeaseOutcome:
    """How one driver fared."""

    scenario: str
    driver: str
    #: Leases of a master, and changes of master.
    leases: int
    changes: int
    #: Leases of a master on a standby, on a replaced one; of a replica on a master.
    on_standby: int
    on_replaced: int
    not_replica: int
    #: Operations that raised, and how long the longest of all took, in seconds.
    failed: int
    hang: float
    errors: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


class _Load:
    """One driver's pool manager, and workers that lease masters and replicas from it."""

    def __init__(self, kit: LoadKit, passage: Passage, pause: float) -> None:
        self.kit = kit
        self.leases: list[Lease] = []
        self.errors: list[str] = []
        #: How long each operation took.
        self.hangs: list[float] = []
        #: Operations that did not end when the load had to.
        self.stuck = 0
        self._stopping = False
        sizes = kit.sizes(1, 6)
        self.manager: Any = kit.manager(
            f"{passage.dsn}?application_name=leases_{uuid4().hex}",
            acquire_timeout=ACQUIRE_TIMEOUT,
            lease_abort_after=LEASE_ABORT_AFTER,
            pool_factory_kwargs=sizes | kit.unprepared if passage.pools_transactions else sizes,
            **passage.arguments,
        )
        self._pause = pause
        self._workers = kit.workers()

    def start(self) -> None:
        for number in range(_WRITERS + _READERS):
            self._workers.start(f"lessee {number}", self._repeat(read_only=number >= _WRITERS))

    async def stop(self) -> None:
        """Let each worker end its operation, and count those that do not."""
        self._stopping = True
        self.stuck = await self._workers.stuck_after(LONGEST)
        await self._workers.end()
        await self.manager.close()
        await self._workers.wait()

    @property
    def masters(self) -> int:
        return sum(not lease.read_only for lease in self.leases)

    async def _repeat(self, *, read_only: bool) -> None:
        while not self._stopping:
            began = time.monotonic()
            try:
                async with self.manager.acquire(read_only) as connection:
                    at = time.monotonic()
                    answer = await self.kit.value(connection, _QUESTION)
                port, pid, in_recovery = answer.split()
                now = time.monotonic()
                self.leases.append(
                    Lease(read_only, int(port), int(pid), in_recovery == "t", at, now)
                )
            # Whatever it is: psycopg calls it an InternalError when a pooler loses the server of a
            # BEGIN. The load goes on, or there would be fewer leases to judge and nobody to tell.
            except Exception as error:  # noqa: BLE001
                self.errors.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            self.hangs.append(time.monotonic() - began)
            await self._workers.rest(self._pause)


class _Director:
    """Plays the HA manager, and knows what is true."""

    def __init__(self, cluster: LocalCluster, passage: Passage, moment: float) -> None:
        self._cluster = cluster
        self._passage = passage
        self._moment = moment
        self._master = cluster.master
        self.reigns = [Reign(self._master.port, time.monotonic())]
        self.events: list[Event] = []

    async def change(self, number: int) -> None:
        """Change the master in one of the ways, in turn; leave a whole cluster."""
        old, new = self._master, self._cluster.replicas[0]
        await (self._replace, self._crash, self._hand_over)[number % 3](old, new)
        await asyncio.sleep(self._moment)
        for node in self._passage.others(new):
            await node.rejoin(new)
        self._note("the old master has come back as a standby")
        await self._passage.joined(old)
        await asyncio.sleep(self._moment)

    async def _replace(self, old: LocalNode, new: LocalNode) -> None:
        """Promote a standby beside a living master, and then move the names."""
        await self._promote(old, new, "a standby was promoted beside a living master")
        await asyncio.sleep(self._moment)  # it lives on, and so may flows to it

    async def _crash(self, old: LocalNode, new: LocalNode) -> None:
        self._note("the master was killed")
        old.kill()
        await asyncio.sleep(self._moment / 2)
        await self._promote(old, new, "a standby was promoted after a crash")

    async def _hand_over(self, old: LocalNode, new: LocalNode) -> None:
        """Stop the master in order, and move the names before the standby is promoted."""
        self._note("the master was stopped")
        await old.stop()
        await self._passage.early(new)
        self._note("the names moved to a standby", moved=True)
        await asyncio.sleep(self._moment / 2)
        await self._promote(old, new, "the standby to which the names led was promoted")

    async def _promote(self, old: LocalNode, new: LocalNode, what: str) -> None:
        began = time.monotonic()
        self.reigns.append(Reign(new.port, began))
        await new.promote()
        self._master = new
        self._note(what)
        known = await self._passage.moved(old, new)
        self._note("the names moved to the new master", moved=True)
        self.reigns[-2] = self.reigns[-2]._replace(end=known)

    def _note(self, what: str, *, moved: bool = False) -> None:
        self.events.append(Event(time.monotonic(), what, moved))


async def play_leases(
    scene: LeaseScene, cluster: LocalCluster, kits: Sequence[LoadKit], *, short: bool
) -> list[LeaseOutcome]:
    """Play a scene to all these drivers at once, and say how each of them fared.

    Short is 500 leases of all drivers, and each way to change a master once; else 10,000 of each.
    It ends without them where hasql finds no master any more.
    """
    await asyncio.to_thread(cluster.heal)
    for node in cluster.nodes:
        await set_synchronous(node, "")
    async with AsyncExitStack() as stack:
        passage = await stack.enter_async_context(scene.passage(cluster))
        loads = [_Load(kit, passage, 0.02 if short else 0.002) for kit in kits]
        for load in loads:
            stack.push_async_callback(load.manager.terminate)
        await asyncio.gather(*(load.manager.ready(1, 1) for load in loads))
        director = _Director(cluster, passage, 0.6 if short else 1.2)
        for load in loads:
            load.start()
        leases, fewest, most = _SHORT if short else _LONG
        wanted = leases // len(loads) if short else leases
        for number in range(most):
            if number >= fewest and min(load.masters for load in loads) >= wanted:
                break
            await director.change(number)
        await asyncio.gather(*(load.stop() for load in loads))
    return [_judge(scene, load, director, passage, wanted) for load in loads]


def _judge(
    scene: LeaseScene, load: _Load, director: _Director, passage: Passage, wanted: int
) -> LeaseOutcome:
    standbys: list[Lease] = []
    replaced: list[Lease] = []
    masters: list[Lease] = []
    known: set[tuple[int, int]] = set()
    for lease in load.leases:
        if lease.read_only:
            late = is_stale(lease, director.reigns, passage.stale_for + _LATE)
            if late and (not passage.keeps_readers or (lease.port, lease.pid) in known):
                masters.append(lease)
            if not lease.in_recovery:
                known.add((lease.port, lease.pid))
        elif not _is_right(lease, director, passage):
            (standbys if lease.in_recovery else replaced).append(lease)
    problems = [
        *_tell("of a master on a standby", standbys, director.events),
        *_tell("of a master on a replaced one", replaced, director.events),
        *_tell("of a replica on a master", masters, director.events),
    ]
    last = max(event.at for event in director.events)
    if not any(lease.answered > last for lease in load.leases if not lease.read_only):
        problems.append("there was no lease of a master any more in the end")
    if passage.finds_each:
        problems += _unseen(load.leases, director.reigns)
    hang = max(load.hangs, default=0.0)
    if load.stuck or hang > LONGEST:
        problems.append(f"{load.stuck} operations did not end, the longest took {hang:.1f} s")
    if load.masters < wanted:
        problems.append(f"there were but {load.masters} leases of a master")
    return LeaseOutcome(
        scenario=scene.name,
        driver=load.kit.name,
        leases=load.masters,
        changes=len(director.reigns) - 1,
        on_standby=len(standbys),
        on_replaced=len(replaced),
        not_replica=len(masters),
        failed=len(load.errors),
        hang=hang,
        errors=dict(Counter(load.errors)),
        problems=tuple(problems),
    )


def _unseen(leases: Sequence[Lease], reigns: Sequence[Reign]) -> Iterator[str]:
    for number, reign in enumerate(reigns):
        if not any(
            not lease.read_only and lease.port == reign.port and reign.begin < lease.at < reign.end
            for lease in leases
        ):
            yield f"there was no lease of master {number + 1} of {len(reigns)}"


def _is_right(lease: Lease, director: _Director, passage: Passage) -> bool:
    until = lease.answered if passage.outlives_servers else lease.at
    if passage.unknown_for and any(
        event.moved and event.at <= until and lease.at <= event.at + passage.unknown_for + _LATE
        for event in director.events
    ):
        return True
    for reign in director.reigns:
        # What is certain from the end of a reign on may reach a busy machine later.
        if lease.port == reign.port and reign.begin <= until and lease.at < reign.end + _LATE:
            ended = reign.end < float("inf")
            if not lease.in_recovery or (passage.outlives_servers and ended):
                return True
    return False


def is_stale(lease: Lease, reigns: Sequence[Reign], grace: float) -> bool:
    """Tell whether a lease of a replica was handed out on a server that had long been a master.

    What was promoted between the lease and its answer was a standby when it was handed out, whether
    or not it had been a master before.
    """
    mine = [each.begin for each in reigns if each.port == lease.port]
    begun = [begin for begin in mine if begin < lease.answered]
    return not lease.in_recovery and bool(begun) and lease.at > max(begun) + grace


def _tell(what: str, leases: Sequence[Lease], events: Sequence[Event]) -> Iterator[str]:
    """Say how many leases were wrong, and how long after which event."""
    after: dict[str, list[float]] = {}
    for lease in leases:
        event = max((each for each in events if each.at <= lease.at), default=None)
        if event is not None:
            after.setdefault(event.what, []).append(lease.at - event.at)
        else:
            after.setdefault("the beginning", []).append(0.0)
    for event_name, delays in after.items():
        yield (
            f"{len(delays)} leases {what}, {min(delays):.3f} to {max(delays):.3f} s after "
            f"{event_name}"
        )
