"""Scenarios: what happens to a cluster, and how its HA manager reacts.

A scenario does not clean up: `LocalCluster.heal` repairs the cluster afterwards.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from chaos.application import LEASE_ABORT_AFTER, Load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from chaos.stage import Stage
    from hasql.testing import LocalNode

__all__ = ("SCENARIOS", "Goal", "Network", "Scenario")


_LOAD = Load()


class Network:
    """The kind of network between the application and the servers."""

    NONE, PROXIES, WIRES = "none", "proxies", "wires"


@dataclass(frozen=True, slots=True)
class Goal:
    """Bounds for the median of the runs, in seconds; the worst may be three times as much."""

    added: float | None = None
    #: The longest write, beyond the time without a master.
    hang: float | None = None
    #: The longest read.
    read_hang: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault under load."""

    name: str
    description: str
    play: Callable[[Stage], Awaitable[None]]
    goal: Goal = Goal()
    load: Load = _LOAD
    network: str = Network.NONE
    #: How many seconds after the promotion was seen the old master may still acknowledge writes.
    wrong_for: float = 0.0
    #: Whether the old master goes on, so that writes that it acknowledges after the promotion are
    #: lost.
    splits: bool = False
    #: Whether the short form includes it.
    brief: bool = True


async def _switch_over(stage: Stage) -> None:
    await stage.strike()
    await stage.master.stop("fast")
    await stage.promote(*stage.replicas)
    await asyncio.sleep(stage.moment)


async def _demote(stage: Stage) -> None:
    """Hand the master's role over, and make the old master a standby at the same address."""
    old = stage.master
    await stage.strike()
    await old.stop("fast")
    new = await stage.promote(*stage.replicas)
    await asyncio.sleep(stage.moment)
    await old.rejoin(new)
    await asyncio.sleep(2 * stage.moment)


async def _crash(stage: Stage) -> None:
    await stage.strike(stage.master.kill)
    await asyncio.sleep(stage.moment)
    await stage.promote(*stage.replicas)
    await asyncio.sleep(stage.moment)


async def _freeze(stage: Stage) -> None:
    old = stage.master
    await stage.strike(old.freeze)
    await asyncio.sleep(stage.moment)
    await stage.promote(*stage.replicas)
    await asyncio.sleep(stage.moment)
    old.thaw()
    await asyncio.sleep(2 * stage.moment)


async def _split(stage: Stage) -> None:
    await stage.strike()
    await stage.promote(*stage.replicas)
    # Without readers only a probe can notice it, and probes are a second apart.
    await asyncio.sleep(1.5)


async def _kill_a_replica(stage: Stage) -> None:
    replica = stage.replicas[0]
    await stage.strike(replica.kill)
    await asyncio.sleep(2 * stage.moment)
    await replica.start()
    await asyncio.sleep(stage.moment)


async def _freeze_a_replica(stage: Stage) -> None:
    replica = stage.replicas[0]
    await stage.strike(replica.freeze)
    # Longer than the time after which leases are aborted: the holders of leases must be told.
    await asyncio.sleep(LEASE_ABORT_AFTER + 1)
    replica.thaw()
    await asyncio.sleep(stage.moment)


async def _freeze_both(stage: Stage) -> None:
    frozen, sound = stage.replicas
    await stage.commits_wait_for(sound)
    old = stage.master
    await stage.strike(old.freeze, frozen.freeze)
    await asyncio.sleep(stage.moment)
    await stage.promote(sound)
    # Readers have no replica now, and must not be given the master as one.
    await asyncio.sleep(stage.moment)
    frozen.thaw()
    old.thaw()
    await frozen.rejoin(sound)
    await asyncio.sleep(stage.moment)


async def _flap(stage: Stage, once: Callable[[LocalNode], Awaitable[None]]) -> None:
    replica = stage.replicas[0]
    until = time.monotonic() + (5 if stage.short else 60)
    while time.monotonic() < until:
        began = time.monotonic()
        await once(replica)
        await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))
        stage.count_objects()


async def _flap_by_crashes(stage: Stage) -> None:
    async def once(replica: LocalNode) -> None:
        await stage.strike(replica.kill)
        await replica.start()

    await _flap(stage, once)


async def _flap_by_freezes(stage: Stage) -> None:
    async def once(replica: LocalNode) -> None:
        await stage.strike(replica.freeze)
        await asyncio.sleep(0.5)
        replica.thaw()

    await _flap(stage, once)


async def _black_out(stage: Stage) -> None:
    nodes = stage.cluster.nodes
    await stage.strike(*(node.kill for node in nodes))
    await asyncio.sleep(2 * stage.moment)
    await asyncio.gather(*(node.start() for node in nodes))
    await asyncio.sleep(stage.moment)


async def _cut(stage: Stage, *, there: float, back: float) -> None:
    way = stage.ways[stage.master]
    await stage.strike(lambda: way.lose(there=there, back=back))
    await asyncio.sleep(stage.moment)
    await stage.promote(*stage.replicas)
    await asyncio.sleep(stage.moment)
    way.lose()
    await asyncio.sleep(2 * stage.moment)


async def _cut_both_ways(stage: Stage) -> None:
    await _cut(stage, there=1, back=1)


async def _cut_the_way_there(stage: Stage) -> None:
    await _cut(stage, there=1, back=0)


async def _cut_the_way_back(stage: Stage) -> None:
    await _cut(stage, there=0, back=1)


async def _lose_packets(stage: Stage) -> None:
    await stage.strike()
    stage.faults = 0
    for way in stage.ways.values():
        way.lose(there=0.1, back=0.1)
    await asyncio.sleep(2.0 if stage.short else 10.0)
    for way in stage.ways.values():
        way.lose()
    await asyncio.sleep(stage.moment)


async def _promote_one_that_lags(stage: Stage) -> None:
    late, other = stage.replicas
    await stage.commits_wait_for(late)
    await late.pause_replay()
    await asyncio.sleep(stage.moment)
    await stage.strike(stage.master.kill)
    await asyncio.sleep(stage.moment)
    await stage.promote(late)
    await asyncio.sleep(stage.moment)
    del other


async def _fill_up(stage: Stage) -> None:
    """Take all connection slots of the master that the application leaves, and ask for more."""
    held = []
    await stage.strike()
    stage.faults = 0
    try:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                held.append(await asyncpg.connect(stage.master.dsn))
        for application in stage.applications:
            application.start()
        await asyncio.sleep(3 * stage.moment)
    finally:
        for connection in held:
            connection.terminate()
    await asyncio.sleep(stage.moment)


async def _log_in_slowly(stage: Stage) -> None:
    for way in stage.ways.values():
        way.proxy.delay = 0.5
    await _crash(stage)
    for way in stage.ways.values():
        way.proxy.delay = 0.0


_FAST, _SEEN, _UNSEEN = 0.040, 0.060, 1.060
_NO_READERS = Load(readers=0)

_ALL = (
    Scenario(
        "switchover",
        "the master is stopped in order and a replica promoted",
        _switch_over,
        Goal(added=_FAST, hang=0.060),
    ),
    Scenario(
        "demotion",
        "the master hands over and is a replica at its own address a moment later",
        _demote,
        Goal(added=_FAST, hang=0.060),
        brief=False,
    ),
    Scenario(
        "crash",
        "the master is killed and a replica promoted",
        _crash,
        Goal(added=_FAST, hang=0.060),
    ),
    Scenario(
        "freeze",
        "the master freezes, is replaced, and thaws",
        _freeze,
        Goal(added=_SEEN, hang=0.100),
    ),
    Scenario(
        "freeze-unread",
        "the same without any read",
        _freeze,
        Goal(added=_UNSEEN, hang=1.100),
        _NO_READERS,
        brief=False,
    ),
    Scenario(
        "split",
        "a replica is promoted beside a living master",
        _split,
        Goal(added=_SEEN, hang=0.200),
        splits=True,
        wrong_for=_SEEN,
    ),
    Scenario(
        "split-unread",
        "the same without any read",
        _split,
        Goal(added=_UNSEEN, hang=0.200),
        _NO_READERS,
        splits=True,
        wrong_for=_UNSEEN,
        brief=False,
    ),
    Scenario(
        "replica-killed",
        "a replica is killed and comes back",
        _kill_a_replica,
        Goal(read_hang=0.050),
        brief=False,
    ),
    Scenario(
        "replica-frozen",
        "a replica freezes and thaws",
        _freeze_a_replica,
    ),
    Scenario(
        "both-frozen",
        "the master and a replica freeze, the other one is promoted",
        _freeze_both,
        Goal(added=_UNSEEN),
    ),
    Scenario(
        "flap-killed",
        "a replica is killed and started every second for a minute",
        _flap_by_crashes,
    ),
    Scenario(
        "flap-frozen",
        "a replica freezes and thaws every second for a minute",
        _flap_by_freezes,
        brief=False,
    ),
    Scenario(
        "blackout",
        "all hosts are killed and started again",
        _black_out,
    ),
    Scenario(
        "exhausted",
        "a switchover while 24 tasks want the 4 places of each pool",
        _switch_over,
        Goal(added=_FAST),
        Load(writers=16, readers=8, places=4),
    ),
    Scenario(
        "cut",
        "the master cannot be reached, is replaced, and can be again",
        _cut_both_ways,
        Goal(added=_UNSEEN),
        network=Network.PROXIES,
    ),
    Scenario(
        "cut-there",
        "nothing gets to the master any more, but answers come",
        _cut_the_way_there,
        Goal(added=_UNSEEN),
        network=Network.PROXIES,
        brief=False,
    ),
    Scenario(
        "cut-back",
        "the master hears everything and cannot be heard",
        _cut_the_way_back,
        Goal(added=_UNSEEN),
        network=Network.PROXIES,
        brief=False,
    ),
    Scenario(
        "silence",
        "packets to and from the master get lost, as in `cut`",
        _cut_both_ways,
        Goal(added=_UNSEEN),
        network=Network.WIRES,
        brief=False,
    ),
    Scenario(
        "silence-back",
        "packets from the master get lost, as in `cut-back`",
        _cut_the_way_back,
        Goal(added=_UNSEEN),
        network=Network.WIRES,
        brief=False,
    ),
    Scenario(
        "loss",
        "every tenth packet of all gets lost",
        _lose_packets,
        network=Network.WIRES,
    ),
    Scenario(
        "lag",
        "the master is killed and a replica promoted that had not replayed",
        _promote_one_that_lags,
        Goal(added=_FAST),
        brief=False,
    ),
    Scenario(
        "full",
        "the master has no connection slot left, and twice as many tasks want one",
        _fill_up,
    ),
    Scenario(
        "slow-login",
        "the master is killed and a replica promoted while logins take half a second",
        _log_in_slowly,
        Goal(added=_UNSEEN),
        network=Network.PROXIES,
        brief=False,
    ),
)

SCENARIOS = {scenario.name: scenario for scenario in _ALL}
