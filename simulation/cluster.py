"""The cluster as it really is, and what happens to it: faults, and an HA manager's actions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hasql.cluster.host import HostSpec
from simulation.attempts import Ledger
from simulation.servers import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from simulation.record import Record

__all__ = ("Cluster",)

#: Seconds within which a new master must be in use: if the loss of the old one was noticed before,
#: so that hasql was looking for it; and if not, so that a steady probe had to find it.
NOTICED, NOT_NOTICED = 0.6, 1.6
#: The same after it has refused logins: attempts to log in then become less and less frequent.
AFTER_REFUSALS = 3.0
#: Seconds within which the end of a process is noticed.
_SOCKETS_CLOSE = 0.05
#: The least seconds that a server takes to start: see `hasql.resilience.commit_rule`.
_START = 0.02


class Cluster:
    """The servers; one of them is the right master: the one with the newest timeline."""

    def __init__(self, names: str, record: Record, chance: Random) -> None:
        self._record = record
        self._chance = chance
        #: The outcomes of the units of work.
        self.ledger = Ledger(record)
        hosts = [HostSpec(name, 5432) for name in names]
        self.servers = {
            host: Server(host, record, self.ledger, chance, master=host is hosts[0])
            for host in hosts
        }
        self.all = list(self.servers.values())
        for server in self.all:
            server.knows([other for other in self.all if other is not server])
            if not server.master:
                server.follow(self.all[0], rewinds=False)
        self.master = self.all[0]
        #: Changes of the master so far.
        self.failovers = 0
        #: Whether connections may go silent, so that statements on them never end.
        self.may_deafen = chance.random() < 0.25
        #: Seconds within which an undisturbed master must be in use.
        self.bound = NOT_NOTICED
        self.stalled_at = 0.0

    def master_serves_since(self) -> float | None:
        """Since when there has been an undisturbed master; None if there is none now."""
        if not self.master.serves:
            return None
        return max(self.master.calm_since, self.stalled_at)

    def replica_serves_since(self) -> float | None:
        """Since when an undisturbed standby has been serving."""
        since = [x.calm_since for x in self.all if x.serves and not x.master]
        return max(min(since), self.stalled_at) if since else None

    # The actions of an HA manager

    def promote(self) -> None:
        """Make a working standby the master, as an HA manager does."""
        now = self._record.clock.now
        fit = [each for each in self.all if each.serves and self.may_succeed(each)]
        if not fit:
            revived = self._chance.choice([x for x in self.all if x is not self.master])
            self.start_as_standby(revived)
            fit = [revived]
        noticed = self.master.alive is False and now - self.master.calm_since > _SOCKETS_CLOSE
        self.bound = NOTICED if noticed else NOT_NOTICED
        self.succeed(self._chance.choice(fit))

    def may_succeed(self, server: Server) -> bool:
        """Tell whether everything that a standby has is in the right master's history."""
        return not server.master and server.wal.is_part_of(self.master.wal)

    def succeed(self, server: Server) -> None:
        """Make a standby the master, and make those servers follow it that can."""
        self.master = server
        self.failovers += 1
        server.promote_to(max(each.timeline for each in self.all) + 1)
        for other in self.all:
            if other.alive and not other.master:
                other.follow(server, rewinds=False)

    def start_as_standby(self, server: Server) -> None:
        """Start a server as a standby of the right master, with the master's history."""
        server.start(master=False)
        server.follow(self.master, rewinds=True)

    async def start_as_master(self, server: Server) -> None:
        """Start a server as a master, as if nothing had happened, as soon as it can start."""
        rest = server.ended_at + _START - self._record.clock.now
        if rest > 0:
            await asyncio.sleep(rest)
        server.start(master=True)

    def rejoin(self) -> None:
        """Start every server that is neither the right master nor its standby as a standby."""
        for server in self.all:
            if server is not self.master and (
                server.master or not server.alive or server.upstream is not self.master
            ):
                self.start_as_standby(server)

    async def mend(self) -> None:
        """Repair everything."""
        for server in self.all:
            server.round_trip = 0.0005
            if server.frozen:
                server.thaw()
            if server.login_error is not None:
                server.refuse_logins(None)
        if not self.master.alive:
            await self.start_as_master(self.master)
        self.rejoin()

    # What happens to the master

    async def master_story(self, seconds: float) -> None:
        """Cause one event after the other for the master."""
        scenes: list[Callable[[], Awaitable[None]]] = [
            self._crash,
            self._crash,
            self._freeze,
            self._promote_beside,
            self._switch_over,
            self._crash_and_restart,
            self._short_freeze,
        ]
        until = self._record.clock.now + seconds
        while self._record.clock.now < until and not self._record.violations:
            await asyncio.sleep(self._chance.uniform(0.3, 3.0))
            await self._chance.choice(scenes)()
            if self._chance.random() < 0.5:
                await asyncio.sleep(self._chance.uniform(0.0, 2.0))
                self.rejoin()

    async def _some_time(self, most: float) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, most))

    async def _crash(self) -> None:
        self.master.kill()
        await self._some_time(2.0)
        self.promote()
        old = [x for x in self.all if not x.alive and x.master]
        if old and self._chance.random() < 0.3:  # the old master comes back as a master
            await self._some_time(1.0)
            await self.start_as_master(old[0])

    async def _freeze(self) -> None:
        old = self.master
        old.freeze()
        await self._some_time(2.0)
        self.promote()
        if self._chance.random() < 0.7:  # the old master goes on writing
            await self._some_time(3.0)
            if old.frozen:
                old.thaw()

    async def _promote_beside(self) -> None:
        self.promote()

    async def _switch_over(self) -> None:
        old = self.master
        old.kill()
        await self._some_time(0.1)
        self.promote()
        self.start_as_standby(old)

    async def _crash_and_restart(self) -> None:
        self.master.kill()
        await self._some_time(1.0)
        await self.start_as_master(self.master)

    async def _short_freeze(self) -> None:
        self.master.freeze()
        await self._some_time(1.5)
        self.master.thaw()

    # What happens besides

    async def noise(self, seconds: float) -> None:
        """Cause one event after the other for any server."""
        scenes: list[Callable[[Server], Awaitable[None]]] = [
            self._replica_gone,
            self._replica_frozen,
            self._dropped,
            self._dropped,
            self._logins_refused,
            self._slow,
            self._stall,
            self._deaf,
            self._dropped_and_frozen,
        ]
        if self.may_deafen:
            scenes += [self._deaf] * 4
        until = self._record.clock.now + seconds
        while self._record.clock.now < until and not self._record.violations:
            await asyncio.sleep(self._chance.uniform(0.1, 2.5))
            await self._chance.choice(scenes)(self._chance.choice(self.all))

    async def _replica_gone(self, server: Server) -> None:
        if server.master or not server.alive:
            return
        server.kill()
        await self._some_time(2.0)
        if not server.alive and server is not self.master:
            self.start_as_standby(server)

    async def _replica_frozen(self, server: Server) -> None:
        if server.master or server.frozen:
            return
        server.freeze()
        await self._some_time(3.0)
        if server.frozen:
            server.thaw()

    async def _dropped(self, server: Server) -> None:
        server.drop(reserved=self._chance.random() < 0.5)

    async def _deaf(self, server: Server) -> None:
        server.deafen(reserved=not self.may_deafen or self._chance.random() < 0.5)

    async def _dropped_and_frozen(self, server: Server) -> None:
        server.drop(reserved=False)
        await self._replica_frozen(server)

    async def _logins_refused(self, server: Server) -> None:
        self.bound = AFTER_REFUSALS
        server.refuse_logins(self._chance.choice(["53300", "57P03"]))
        await self._some_time(1.0)
        if server.login_error is not None:
            server.refuse_logins(None)

    async def _slow(self, server: Server) -> None:
        server.round_trip = self._chance.choice([0.0002, 0.0005, 0.002, 0.01])
        self._record.note(server, f"answers in {server.round_trip} s")

    async def _stall(self, _: Server) -> None:
        seconds = self._chance.choice([0.02, 0.2, 0.8, 1.5])
        self._record.clock.stall(seconds)
        self.stalled_at = self._record.clock.now
        self._record.note("event loop", f"was blocked for {seconds} s")
