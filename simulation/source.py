"""A discovery source in which replicas come and go, and which fails now and then."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from hasql.discovery import Discovered, Discovery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from random import Random

    from hasql.cluster.host import HostSpec
    from simulation.cluster import Cluster
    from simulation.record import Record

__all__ = ("Source",)

#: Seconds without a change of the master after which the source may leave replicas out; otherwise
#: a manager could not know the server that is promoted.
_CALM = 1.5


class Source(Discovery):
    """Names the master, a standby and some of the others, until it has to name all hosts."""

    def __init__(self, cluster: Cluster, record: Record, chance: Random) -> None:
        self._cluster, self._record, self._chance = cluster, record, chance
        self._again = asyncio.Event()
        self._names_all = False
        #: Whether it names every host from now on.
        self.settled = False

    async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
        while True:
            # It fails only after it has named all hosts, because a manager cannot know others.
            if not self.settled and self._names_all and self._chance.random() < 0.1:
                self._record.note("source", "fails")
                raise OSError("the source has failed")
            hosts = self._named()
            self._names_all = len(hosts) == len(self._cluster.all)
            self._record.note("source", f"names {', '.join(host.host for host in hosts)}")
            yield tuple(map(Discovered, hosts))
            self._again.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._chance.uniform(0.05, 0.4)):
                    await self._again.wait()

    def refresh(self) -> None:
        self._again.set()

    def _named(self) -> list[HostSpec]:
        master, now = self._cluster.master, self._record.clock.now
        servers = list(self._cluster.all)
        if not self.settled and master.serves and now - master.calm_since > _CALM:
            standbys = [server for server in servers if server.serves and server is not master]
            kept = {master, *sorted(standbys, key=lambda server: server.calm_since)[:1]}
            servers = [each for each in servers if each in kept or self._chance.random() < 0.6]
        self._chance.shuffle(servers)
        return [server.host for server in servers]
