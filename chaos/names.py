"""Names that move, rotate and cannot be looked up, while an application of each driver works.

Each server of the cluster has a name, which our own nameserver (`testbed.nameserver`) resolves, and
listens at several addresses. So the address of a name can change while every server goes on: no
operation may fail, and the server itself tells which address a lease has led to.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from chaos.application import LONGEST
from chaos.name_load import NameLoad
from chaos.name_verdict import Move, NameOutcome, added, latest, overdue, renewed
from chaos.stage import set_synchronous
from testbed.moving_server import listen_at
from testbed.nameserver import Fault, NameServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import LoadKit

__all__ = ("NAME_SCENES", "NameScene", "play_names")

_ADDRESSES = "127.0.0.61", "127.0.0.62", "127.0.0.63", "127.0.0.64"

_TTLS = 1, 0, 2
"""The TTLs of the three servers' names, in seconds."""

_LATE = 0.5
"""Seconds by which a busy machine may miss a bound: all drivers run at the same time there."""

_SLOWER = 0.001
"""Seconds that an acquire may take longer while the nameserver is away."""


@dataclass(frozen=True, slots=True)
class NameScene:
    """A scene: what happens to the names."""

    name: str
    description: str
    play: Callable[[_NameStage], Awaitable[None]]
    #: Whether acquires are compared with those of a manager whose names are answered.
    compared: bool = False
    #: Whether all drivers run at once, because the scene takes long.
    together: bool = False


class _NameStage:
    """The servers, names and applications of a scene."""

    def __init__(
        self,
        nodes: Sequence[LocalNode],
        nameserver: NameServer,
        loads: Sequence[NameLoad],
        *,
        short: bool,
    ) -> None:
        self.nodes = nodes
        self.nameserver = nameserver
        self.loads = loads
        self.short = short
        self.moves: list[Move] = []
        #: The time from which on no connection may be renewed.
        self.settled: float | None = None
        # No name comes back to an address that it has left: hasql would take it for a rotating
        # name, which leaves an address only after a minute.
        self._addresses = {node: deque(_ADDRESSES) for node in nodes}
        self._ttls = dict(zip(nodes, _TTLS, strict=True))

    def names(self, node: LocalNode) -> Iterator[str]:
        """Yield the applications' names for a server."""
        for load in self.loads:
            yield load.name(node)

    async def move(self, *nodes: LocalNode) -> None:
        """Move the names of these servers to their next address, and record the moves."""
        for node in nodes:
            left, ttl = self._addresses[node].popleft(), self._ttls[node]
            self.moves.append(Move(node.port, left, time.monotonic(), ttl))
            for name in self.names(node):
                self.nameserver.set(name, self._addresses[node][0], ttl=ttl)
        await asyncio.sleep(max(move.due for move in self.moves) - time.monotonic() + _LATE)

    async def asked(self, node: LocalNode, *, times: int = 1) -> None:
        """Wait until each application has looked a server's name up that often from now on."""
        wanted = {name: self.nameserver.count(name, "A") + times for name in self.names(node)}
        async with asyncio.timeout(LONGEST):
            while any(self.nameserver.count(name, "A") < at for name, at in wanted.items()):  # noqa: ASYNC110 - a thread's word
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # until the answer has arrived and was used

    def address(self, node: LocalNode) -> str:
        """Return the address that the name of a server leads to."""
        return self._addresses[node][0]


async def _move(stage: _NameStage) -> None:
    await asyncio.sleep(0.3)
    if not stage.short:
        for node in (*stage.nodes, *stage.nodes):
            await stage.move(node)
    await stage.move(*stage.nodes)


async def _flap(stage: _NameStage) -> None:
    """Rotate one name, move one back and forth, and make one unknown half of the time."""
    rotating, moving, failing = stage.nodes
    for name in stage.names(rotating):
        stage.nameserver.rotate(name, *_ADDRESSES[:2], ttl=0)

    async def go(number: int) -> None:
        for name in stage.names(moving):
            stage.nameserver.set(name, _ADDRESSES[number % 2], ttl=0)
        await stage.asked(moving)

    async def flap() -> None:
        for number in count(1):
            await go(number)
            for name in stage.names(failing):
                if number % 2:
                    stage.nameserver.fail(Fault.NXDOMAIN, name=name)
                else:
                    stage.nameserver.heal()

    async def come_and_go() -> None:
        await go(1)
        await go(2)

    # Until each name has come back to an old address: that shows hasql that it rotates.
    await asyncio.gather(stage.asked(rotating, times=3), come_and_go())
    await asyncio.gather(*(load.use_places() for load in stage.loads))
    stage.settled = time.monotonic()
    flapping = asyncio.create_task(flap())
    try:
        await asyncio.sleep(2.0 if stage.short else 60.0)
    finally:
        flapping.cancel()


async def _be_away(stage: _NameStage) -> None:
    """Make the nameserver silent, refusing, and gone, in turn."""
    await asyncio.sleep(0.3)
    for load in stage.loads:
        load.waits.clear()
        load.waits_beside.clear()
    moment = 0.8 if stage.short else 100.0
    stage.nameserver.fail(Fault.SILENT)
    await asyncio.sleep(moment)
    for load in stage.loads:
        await load.open_more()
    stage.nameserver.fail(Fault.SERVFAIL)
    await asyncio.sleep(moment)
    await asyncio.to_thread(stage.nameserver.stop)
    await asyncio.sleep(moment)


_ALL = (
    NameScene(
        "name-moves",
        "the names of the hosts lead to other addresses, one after the other or all at once",
        _move,
    ),
    NameScene(
        "name-flaps",
        "a name rotates, one goes to and fro, and one is unknown half the time",
        _flap,
    ),
    NameScene(
        "name-unanswered",
        "the nameserver is silent, fails and is gone, for five minutes",
        _be_away,
        compared=True,
        together=True,
    ),
)

NAME_SCENES = {scene.name: scene for scene in _ALL}


async def play_names(
    scene: NameScene, cluster: LocalCluster, kits: Sequence[LoadKit], *, short: bool
) -> list[NameOutcome]:
    """Play a scene to all these drivers at once, and return the outcome for each of them."""
    await asyncio.to_thread(cluster.heal)
    for node in cluster.nodes:
        await set_synchronous(node, "")
        await listen_at(node, _ADDRESSES)
    async with AsyncExitStack() as stack:
        nameserver = stack.enter_context(NameServer())
        sound = stack.enter_context(NameServer()) if scene.compared else None
        loads = [NameLoad(kit, cluster, nameserver, sound, short=short) for kit in kits]
        for server in filter(None, (nameserver, sound)):
            for node, ttl in zip(cluster.nodes, _TTLS, strict=True):
                for load in loads:
                    server.set(load.name(node), _ADDRESSES[0], ttl=ttl)
        for load in loads:
            stack.push_async_callback(load.terminate)
        await asyncio.gather(*(load.prepare() for load in loads))
        stage = _NameStage(cluster.nodes, nameserver, loads, short=short)
        for load in loads:
            load.start()
        await scene.play(stage)
        await asyncio.gather(*(load.stop() for load in loads))
        rows = await asyncio.gather(*(load.rows() for load in loads))
    return [_judge(scene, load, stage, present) for load, present in zip(loads, rows, strict=True)]


def _judge(scene: NameScene, load: NameLoad, stage: _NameStage, present: int) -> NameOutcome:
    slower = added(load.waits, load.waits_beside) if scene.compared else None
    outcome = NameOutcome(
        scenario=scene.name,
        driver=load.kit.name,
        leases=len(load.leases),
        moves=len(stage.moves),
        old_for=latest(load.leases, stage.moves),
        overdue=overdue(load.leases, stage.moves),
        renewed=None if stage.settled is None else renewed(load.leases, stage.settled),
        added=None if slower is None else slower[0],
        added_of_slowest=None if slower is None else slower[1],
        failed=len(load.errors),
        lost=len(load.acknowledged) - present,
        hang=max(load.hangs, default=0.0),
    )
    return replace(outcome, problems=tuple(_problems(outcome, load, stage)))


def _problems(outcome: NameOutcome, load: NameLoad, stage: _NameStage) -> Iterator[str]:
    late = _LATE if stage.short else 0.0
    if load.errors:
        yield f"{outcome.failed} operations failed: {dict(Counter(load.errors))}"
    if outcome.lost:
        yield f"{outcome.lost} acknowledged rows are missing"
    if load.stuck or outcome.hang > LONGEST:
        yield f"{load.stuck} operations did not end, the longest took {outcome.hang:.1f} s"
    if (outcome.overdue or 0.0) > late:
        yield (
            f"an address served for {outcome.old_for:.3f} s after it was left, "
            f"{outcome.overdue:.3f} s too long"
        )
    for node in stage.nodes:
        at = stage.address(node)
        if stage.moves and all((x.port, x.address) != (node.port, at) for x in load.leases):
            yield f"no lease led to {node.name} at its last address"
    if outcome.renewed:
        yield f"{outcome.renewed} connections were renewed although names only rotate"
    if (outcome.added or 0.0) > _SLOWER or (outcome.added_of_slowest or 0.0) > _SLOWER + late:
        yield (
            f"an acquire takes {outcome.added:.6f} s more while the nameserver is away, "
            f"the slowest {outcome.added_of_slowest:.6f} s"
        )
