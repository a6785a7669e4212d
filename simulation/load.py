"""Stories of load: more tasks than there is room for, and a master that fails meanwhile.

Admission, rate limits and the breaker refuse acquires here. The checks are that they do so only
when they may, and that each permit is back at the end, whatever was cancelled.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from hasql.errors import (
    BreakerOpenError,
    NotAvailableError,
    OverloadedError,
    RateLimitedError,
)
from hasql.metrics import BreakerState
from hasql.resilience import Admission, Breaker, Priority, RateLimit, priority
from simulation.checks import check_counts, check_quiet
from simulation.cluster import Cluster
from simulation.story import StoryOfSeed, StoryOutcome, play_story

if TYPE_CHECKING:
    from hasql.metrics import Metrics
    from simulation.driver import SimulatedManager
    from simulation.record import Record

__all__ = ("LoadOutcome", "play_load")

#: Seconds after which acquires must be let through to a master that serves.
_CALM = 3.0
_ERRORS = (ConnectionError, TimeoutError)


@dataclass(frozen=True)
class LoadOutcome(StoryOutcome):
    """The outcome of a story."""

    #: Acquires that were refused: by admission, by the rate limit, and by the breaker.
    overloaded: int
    limited: int
    broken: int


def play_load(seed: int) -> LoadOutcome:
    """Play the story of a seed. Raises StoryFailed, with the reason, if anything was wrong."""
    return play_story(lambda record: _Story(seed, record), "--load ")


class _Story(StoryOfSeed[LoadOutcome]):
    def __init__(self, seed: int, record: Record) -> None:
        super().__init__(seed, record)
        self._chance = chance = Random(f"{seed} load")
        self._limit, self._queue = chance.choice([2, 3, 5]), chance.choice([1, 3, 8])
        self._rate = chance.choice([None, 30, 200])
        self.cluster = Cluster("abc", record, chance)
        self._manager: SimulatedManager
        self._stopped = False
        #: How many leases are out, and when each was lent.
        self._out = 0
        self._lent: list[float] = []
        self._done = self._overloaded = self._limited = self._broken = 0

    def outcome(self) -> LoadOutcome:
        return LoadOutcome(
            **self.told,
            done=self._done,
            overloaded=self._overloaded,
            limited=self._limited,
            broken=self._broken,
        )

    async def happens(self) -> None:
        loop, chance = asyncio.get_running_loop(), self._chance
        manager = self._manager = self.new_manager(
            pool_factory_kwargs={"min_size": 0, "max_size": self._limit},
            admission=Admission(self._limit, queue=self._queue, reserve=chance.choice([0.0, 0.5])),
            rate_limit=RateLimit(f"{self._rate}/second") if self._rate else None,
            breaker=Breaker(threshold=3, recovery=chance.choice([0.5, 30.0])),
        )
        running = [loop.create_task(self._work(Random(f"{self.seed} {n}"))) for n in range(10)]
        await self.cluster.master_story(chance.uniform(2.0, 5.0))
        check_counts(manager, self.record, len(running))
        await self.cluster.mend()
        await asyncio.sleep(_CALM + 1.0)
        self._stopped = True
        await self.await_end(running, 20.0)
        await asyncio.sleep(2.0)
        check_quiet(manager, self.record, self.cluster)
        self._check_end(manager.metrics())
        await manager.close(1.0)
        await asyncio.sleep(0.5)

    async def _work(self, chance: Random) -> None:
        while not (self._stopped or self.record.violations):
            await asyncio.sleep(chance.expovariate(8.0))
            use = asyncio.get_running_loop().create_task(self._use(chance))
            if chance.random() < 0.2:
                await asyncio.wait([use], timeout=chance.expovariate(50.0))
                use.cancel()
            await asyncio.wait([use])
            if not use.cancelled():
                use.result()

    async def _use(self, chance: Random) -> None:
        manager, began = self._manager, self.record.clock.now
        timeout = chance.choice([0.05, 0.3, 1.0])
        acquire = manager.acquire_replica if chance.random() < 0.5 else manager.acquire_master
        lease: Any = acquire(timeout=timeout)
        try:
            with priority(chance.choice([*Priority])):
                async with lease as connection:
                    await self._hold(connection, chance)
            self._done += 1
        except BreakerOpenError:
            self._broken += 1
            self._check_breaker(began)
        except OverloadedError:
            self._overloaded += 1
        except RateLimitedError:
            self._limited += 1
        except NotAvailableError:
            if self.record.clock.now - began < timeout - 1e-6:
                self.record.violated("task", "was told before the deadline that there is nothing")
        except _ERRORS:
            pass

    async def _hold(self, connection: Any, chance: Random) -> None:  # one of these servers'
        self._lend()
        try:
            await connection.execute()
            await asyncio.sleep(chance.expovariate(20.0))
        finally:
            self._out -= 1

    # What must hold

    def _lend(self) -> None:
        self._out += 1
        now = self.record.clock.now
        self._lent.append(now)
        if self._out > self._limit:
            self.record.violated("admission", f"{self._out} leases are out, of {self._limit}")
        if self._rate is not None:
            lately = sum(at > now - 1.0 for at in self._lent)
            if lately > 2 * self._rate:
                self.record.violated("rate", f"{lately} leases within a second")

    def _check_breaker(self, began: float) -> None:
        if self.record.clock.now - began > 1e-6:
            self.record.violated("breaker", "has let somebody wait, and then refused")
        since = self.cluster.master_serves_since()
        if since is not None and began - since > _CALM:
            self.record.violated("breaker", f"refuses, and a master serves since {since:.6f}")

    def _check_end(self, metrics: Metrics) -> None:
        gate, breaker = metrics.admission, metrics.breaker
        assert gate is not None
        assert breaker is not None
        if gate.waiting or gate.in_use:
            self.record.violated("admission", f"not all is back: {gate}")
        if gate.refusals + gate.timeouts < self._overloaded:
            self.record.violated("admission", f"{gate} counts less than were refused")
        if breaker.state is not BreakerState.CLOSED:
            self.record.violated("breaker", f"is not closed again: {breaker}")
        if breaker.refusals != self._broken:
            self.record.violated("breaker", f"{breaker} counts other refusals than were met")
