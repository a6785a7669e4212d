"""Faults: what happens to the cluster, and how its HA manager would react."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from hasql.cli.host_names import HostNames
from hasql.cli.observer import Observer
from hasql.testing import ClusterError, LocalNode

__all__ = ("Fault", "Stage", "play")

_POSITION = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"


class Fault(StrEnum):
    """The faults that the demo can cause."""

    SWITCHOVER = "switchover"
    CRASH = "crash"
    FREEZE = "freeze"
    REPLICA = "replica"
    DNS = "dns"

    @property
    def minimum(self) -> float:
        """The least seconds of load that are needed to show the fault."""
        return {Fault.FREEZE: 7.0, Fault.DNS: 6.0}.get(self, 5.0)

    @property
    def lossless(self) -> bool:
        """Whether no acknowledged row may be missing, although replication is asynchronous."""
        return self in {Fault.SWITCHOVER, Fault.REPLICA, Fault.DNS}

    @property
    def description(self) -> str:
        """The fault in a few words."""
        return {
            Fault.SWITCHOVER: "the master is shut down cleanly and a replica takes over",
            Fault.CRASH: "the master is killed and a replica is promoted",
            Fault.FREEZE: "the master freezes, is replaced, and comes back",
            Fault.REPLICA: "a replica is killed and comes back",
            Fault.DNS: "the master's name moves, and then the nameserver is away",
        }[self]


class Stage:
    """The servers, and the actions that faults consist of."""

    def __init__(
        self,
        nodes: Sequence[LocalNode],
        observer: Observer,
        tell: Callable[[str], None],
        names: HostNames | None,
    ) -> None:
        #: The names of the servers, if the application connects by names.
        self.names = names
        self.master = nodes[0]
        self.replicas = list(nodes[1:])
        #: When the fault happened, and when the new master began to accept writes: monotonic
        #: seconds, None until then.
        self.struck: float | None = None
        self.writable: float | None = None
        self.tell = tell
        self._observer = observer

    async def inject(self, what: str, act: Callable[[], None]) -> None:
        """Cause the fault."""
        self._observer.watch()
        self.tell(what)
        self.struck = time.monotonic()
        await asyncio.to_thread(act)

    async def promote_replica(self) -> None:
        """Promote the replica that has the most WAL, and make the other one follow it."""
        positions = [int(await node.sql(_POSITION)) for node in self.replicas]
        new = self.replicas[positions.index(max(positions))]
        (other,) = (node for node in self.replicas if node is not new)
        self.tell(f"HA manager (played by this demo): promote {new.name}, which is furthest")
        await asyncio.to_thread(new.request_promotion)
        promotion = await self._observer.promotion(new)
        # Take the earliest possible moment, so that the uncertainty counts against hasql.
        self.writable = promotion.not_before
        self.tell(f"{new.name} says it accepts writes")
        self.master, self.replicas = new, [other]
        try:
            await other.follow(new)
        except ClusterError:
            await other.rejoin(new)
        self.tell(f"{other.name} follows {new.name}")

    async def rejoin(self, old: LocalNode) -> None:
        """Make the former master rejoin as a replica."""
        self.tell(f"HA manager: {old.name} rejoins as a replica (pg_rewind)")
        await old.rejoin(self.master)
        self.tell(f"{old.name} streams from {self.master.name}")


async def play(fault: Fault, stage: Stage) -> None:
    """Cause the fault, and repair the cluster afterwards."""
    await _SCENES[fault](stage)


async def _switch_over(stage: Stage) -> None:
    old = stage.master
    await stage.inject(f"HA manager: {old.name}, the master, is shut down cleanly", lambda: None)
    await old.stop("fast")
    await stage.promote_replica()
    await asyncio.sleep(0.5)
    await stage.rejoin(old)


async def _crash(stage: Stage) -> None:
    old = stage.master
    await stage.inject(f"{old.name}, the master, is killed (SIGKILL)", old.kill)
    await asyncio.sleep(0.5)
    await stage.promote_replica()
    await asyncio.sleep(0.7)
    await stage.rejoin(old)


async def _freeze(stage: Stage) -> None:
    old = stage.master
    await stage.inject(f"{old.name}, the master, freezes (SIGSTOP)", old.freeze)
    await asyncio.sleep(0.8)
    await stage.promote_replica()
    await asyncio.sleep(0.7)
    stage.tell(f"{old.name} thaws and still takes itself for the master: must be fenced")
    await asyncio.to_thread(old.thaw)
    await asyncio.sleep(1.5)
    await stage.rejoin(old)


async def _lose_replica(stage: Stage) -> None:
    replica = stage.replicas[0]
    await stage.inject(f"{replica.name}, a replica, is killed (SIGKILL)", replica.kill)
    await asyncio.sleep(1.5)
    stage.tell(f"{replica.name} is started again")
    await replica.start()
    stage.tell(f"{replica.name} is up")


async def _move_name(stage: Stage) -> None:
    names = stage.names
    assert names is not None  # noqa: S101 - this fault has names
    await stage.inject(
        f"{names.name(stage.master)}, the master's name, leads to {names.elsewhere} now;"
        f" it answers at {stage.master.host} as before",
        names.move_master,
    )
    await asyncio.sleep(2.0)
    stage.tell("the nameserver is stopped: no name can be looked up")
    names.nameserver.stop()
    await asyncio.sleep(1.5)
    await names.nameserver.start()
    stage.tell("the nameserver answers again")


_SCENES: dict[Fault, Callable[[Stage], Awaitable[None]]] = {
    Fault.SWITCHOVER: _switch_over,
    Fault.CRASH: _crash,
    Fault.FREEZE: _freeze,
    Fault.REPLICA: _lose_replica,
    Fault.DNS: _move_name,
}
