"""The names of the servers: their addresses change, and the nameserver may be away for a while.

A server stays reachable at every address that its name has had; hasql has to leave the old ones.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hasql.dns import Answer

if TYPE_CHECKING:
    from random import Random

    from simulation.connections import Connection
    from simulation.record import Record
    from simulation.servers import Server

__all__ = ("Names",)

#: The most seconds that a look-up takes.
_LOOKUP = 0.02
#: Seconds after which no lease may lead to an address that a name has left: the name's TTL, but at
#: least the first of these; and the second on top, for the look-up and everything that follows.
_SHORTEST, _SOME = 1.0, 0.1


class Names:
    """The nameserver of the servers' names."""

    def __init__(self, servers: list[Server], record: Record, chance: Random) -> None:
        self._record = record
        self._chance = chance
        self._servers = servers
        self._numbers = {server.host.host: [1] for server in servers}
        self._ttls = {server.host.host: chance.choice([0.0, 0.5, 2.0]) for server in servers}
        #: When each address was left by its name.
        self._left: dict[str, float] = {}
        #: Names to which an address has come back: a missing address may come back again.
        self._rotating: set[str] = set()
        self._away = False
        #: Until when managers may not have heard of a change.
        self._unheard_until = 0.0

    async def lookup_async(self, host: str) -> Answer:
        await asyncio.sleep(self._chance.uniform(0.0, _LOOKUP))
        if self._away:
            msg = "no nameserver answers"
            raise OSError(msg)
        return Answer(tuple(self._address(host, x) for x in self._numbers[host]), self._ttls[host])

    def expire(self, host: str) -> None:
        """Do nothing: no answer is cached."""

    def _address(self, host: str, number: int) -> str:
        return f"10.0.{list(self._numbers).index(host)}.{number}"

    async def story(self, seconds: float) -> None:
        """Cause one event after the other for the names."""
        until = self._record.clock.now + seconds
        while self._record.clock.now < until and not self._record.violations:
            await asyncio.sleep(self._chance.expovariate(1.0))
            if self._chance.random() < 0.2:
                await self._go_away()
            else:
                self._move(self._chance.choice(self._servers).host.host)

    def _move(self, host: str) -> None:
        """Move a name, give it one address more or less, or move it back."""
        before, free = self._numbers[host], range(1, 250)
        fresh = max(before) + 1 if self._chance.random() < 0.9 else self._chance.choice(free)
        kept = [x for x in before if self._chance.random() < 0.2]
        now = self._numbers[host] = list(dict.fromkeys([fresh, *kept]))
        for number in set(before) - set(now):
            self._left[self._address(host, number)] = self._record.clock.now
        for number in now:
            if self._left.pop(self._address(host, number), None) is not None:
                self._rotating.add(host)
        self._record.note(host, f"leads to {[self._address(host, x) for x in now]}")

    async def _go_away(self) -> None:
        self._away = True
        self._record.note("nameserver", "is away")
        await asyncio.sleep(self._chance.uniform(0.0, 4.0))
        self._away = False
        self._record.note("nameserver", "is back")
        # hasql asks again after pauses that double, beginning with one second.
        self._unheard_until = self._record.clock.now + 8.0

    def mend(self) -> None:
        """Make the nameserver answer again."""
        self._away = False

    def is_stale(self, connection: Connection, stalled_at: float) -> bool:
        """Tell whether a connection leads to an address that its name left too long ago."""
        host, now = connection.server.host.host, self._record.clock.now
        left = self._left.get(connection.address or "")
        if left is None or host in self._rotating or self._away or now < self._unheard_until:
            return False
        return now - max(left, stalled_at) > max(_SHORTEST, self._ttls[host]) + _LOOKUP + _SOME
