"""Leases of a master while servers are promoted, killed and moved behind middle men.

Each lease is asked which server it is on, and judged by what the scene knows. A lease of a master
is always wrong on a standby. On a replaced master it is wrong if it was handed out after hasql
could have known of the replacement; each passage (`chaos.passages`) says when that is.

Behind a pooler a client's connection outlives the server: a statement waits until some server can
answer it, which may be a former master that has come back as a standby, or the next master. There a
lease is right if it was right at any time between being handed out and the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.application import LONGEST
from chaos.failures import Stopwatch
from chaos.lease_load import LeaseLoad
from chaos.lease_process import play_in_process
from chaos.lease_verdict import LATE, Event, History, Reign, judge
from chaos.passages import (
    OddDefaults,
    Poolers,
    PoolersThatMove,
    Proxies,
    Records,
    Services,
    UncutProxies,
    UncutServices,
)
from chaos.stage import set_synchronous
from testbed.odd_defaults import ENVIRONMENT
from testbed.scene import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chaos.lease_verdict import LeaseOutcome
    from chaos.passages import Passage
    from hasql.testing import LocalCluster, LocalNode
    from testbed.kits.base import LoadKit

__all__ = ("LEASE_SCENES", "LeaseScene", "play_leases")

_SHORT, _LONG = (500, 3, 6), (10_000, 3, 40)
"""The wanted number of leases of a master, the fewest changes of master, and the most."""


@dataclass(frozen=True, slots=True)
class LeaseScene:
    """A passage between the application and the servers, and what it needs."""

    name: str
    description: str
    passage: type[Passage]
    #: The program without which the scene cannot be played.
    program: str | None = None
    #: The environment that the application's process needs.
    environment: Mapping[str, str] = field(default_factory=dict)


_ALL = (
    LeaseScene(
        "haproxy",
        "masters change behind HAProxy, which cuts sessions",
        Proxies,
        "haproxy",
    ),
    LeaseScene(
        "haproxy-uncut",
        "masters change behind HAProxy, which cuts nothing",
        UncutProxies,
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
    LeaseScene(
        "odd-defaults",
        "masters change under a role, a database and an environment full of odd defaults",
        OddDefaults,
        # It asks servers for the opposite of what a lease of a master needs.
        environment={
            **ENVIRONMENT,
            "PGTARGETSESSIONATTRS": "standby",
            "PGCLIENTENCODING": "LATIN1",
        },
    ),
)

LEASE_SCENES = {scene.name: scene for scene in _ALL}


class _Director:
    """Plays the HA manager, and records the true states of the servers."""

    def __init__(
        self, cluster: LocalCluster, passage: Passage, loads: Sequence[LeaseLoad], moment: float
    ) -> None:
        self._cluster = cluster
        self._passage = passage
        self._loads = loads
        self._moment = moment
        self._master = cluster.master
        self.history = History([Reign(self._master.port, time.monotonic())])

    async def change(self, number: int) -> None:
        """Change the master in one of several ways, in turn, and leave a whole cluster."""
        old, new = self._master, self._cluster.replicas[0]
        await (self._replace, self._crash, self._hand_over)[number % 3](old, new)
        await asyncio.sleep(self._moment)
        if self._passage.finds_each:
            await self._until_found(new)
        for node in self._passage.others(new):
            await node.rejoin(new)
        self._note("the old master has come back as a standby")
        await self._passage.joined(old)
        await asyncio.sleep(self._moment)

    async def _replace(self, old: LocalNode, new: LocalNode) -> None:
        """Promote a standby while the old master lives on, and then move the names."""
        watch = Stopwatch()
        await self._promote(old, new, "a standby was promoted beside a living master")
        if self._passage.known_after_loss is not None:
            await asyncio.gather(*(load.lose_session() for load in self._loads))
            self._note("each driver lost a session in use")
            self._end_reign(time.monotonic() + self._passage.known_after_loss)
        # The old master lives on, and flows to it may, too, until a lease there becomes wrong. Wait
        # longer than that: on a busy machine hasql notices the replacement later.
        known = self.history.reigns[-2].end
        await asyncio.sleep(max(self._moment, known + LATE - time.monotonic()))
        starved = watch.starved
        self._end_reign(known + starved)
        await asyncio.sleep(starved)

    async def _crash(self, old: LocalNode, new: LocalNode) -> None:
        self._note("the master was killed")
        old.kill()
        await asyncio.sleep(self._moment / 2)
        await self._promote(old, new, "a standby was promoted after a crash")

    async def _hand_over(self, old: LocalNode, new: LocalNode) -> None:
        """Stop the master cleanly, and move the names before the standby is promoted."""
        self._note("the master was stopped")
        await old.stop()
        await self._passage.early(new)
        self._note("the names moved to a standby", moved=True)
        await asyncio.sleep(self._moment / 2)
        await self._promote(old, new, "the standby to which the names led was promoted")

    async def _promote(self, old: LocalNode, new: LocalNode, what: str) -> None:
        began = time.monotonic()
        self.history.reigns.append(Reign(new.port, began))
        await new.promote()
        self._master = new
        self._note(what)
        known = await self._passage.moved(old, new)
        self._note("the names moved to the new master", moved=True)
        self._end_reign(known)

    async def _until_found(self, new: LocalNode) -> None:
        """Wait until each driver has leased the new master, or until it should have."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST):
                await until(lambda: all(load.has_leased(new) for load in self._loads))

    def _end_reign(self, at: float) -> None:
        """Set the end of the reign before the current one."""
        reigns = self.history.reigns
        reigns[-2] = reigns[-2]._replace(end=at)

    def _note(self, what: str, *, moved: bool = False) -> None:
        self.history.events.append(Event(time.monotonic(), what, moved))


async def play_leases(
    scene: LeaseScene, cluster: LocalCluster, kits: Sequence[LoadKit], *, short: bool
) -> list[LeaseOutcome]:
    """Play a scene to all these drivers at once, and return the outcome for each of them.

    The short form takes 500 leases of all drivers together, and changes the master once in each
    way; the long form takes 10,000 leases of each driver. The scene ends early if hasql finds no
    master any more. If this process lacks the environment of the scene, another process that has it
    plays the scene.
    """
    if not scene.environment.items() <= os.environ.items():
        return await play_in_process(scene.name, scene.environment, cluster, kits, short=short)
    await asyncio.to_thread(cluster.heal)
    for node in cluster.nodes:
        await set_synchronous(node, "")
    async with AsyncExitStack() as stack:
        passage = await stack.enter_async_context(scene.passage(cluster))
        loads = [LeaseLoad(kit, passage, 0.05 if short else 0.002) for kit in kits]
        for load in loads:
            stack.push_async_callback(load.manager.terminate)
        await asyncio.gather(*(load.manager.ready(1, 1) for load in loads))
        director = _Director(cluster, passage, loads, 0.6 if short else 1.2)
        for load in loads:
            load.start()
        leases, fewest, most = _SHORT if short else _LONG
        wanted = leases // len(loads) if short else leases
        for number in range(most):
            if number >= fewest and min(load.masters for load in loads) >= wanted:
                break
            await director.change(number)
        await asyncio.gather(*(load.stop() for load in loads))
    return [judge(scene.name, load, director.history, passage, wanted) for load in loads]
