"""Stories of load: more tasks than there is room for, and a master that fails meanwhile.

Admission, rates and the breaker say no here, and it is checked that they do so when they may, and
only then; and that each permit is back in the end, whatever was cancelled.
"""

from __future__ import annotations

import asyncio
import logging
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
from simulation.checks import check_closed, check_counts, check_quiet
from simulation.cluster import Cluster
from simulation.driver import SimulatedDriver, SimulatedManager
from simulation.knowledge import Knowledge
from simulation.record import Complaints, Record, StoryFailed
from simulation.virtual_time import VirtualClock, run

if TYPE_CHECKING:
    from hasql.metrics import Metrics

__all__ = ("LoadOutcome", "play_load")

log = logging.getLogger("hasql")

#: Seconds after which a master that serves must be let through to.
_CALM = 3.0
_ERRORS = (ConnectionError, TimeoutError)


@dataclass(frozen=True)
class LoadOutcome:
    """What a story has come to."""

    seed: int
    digest: str
    lines: list[str]
    seconds: float
    failovers: int
    done: int
    #: Acquires that were refused: by admission, by the rate, and by the breaker.
    overloaded: int
    limited: int
    broken: int


def play_load(seed: int) -> LoadOutcome:
    """Play the story of a seed. Raises StoryFailed with what must not have happened."""
    record = Record(VirtualClock())
    story = _Story(seed, record)
    handler = Complaints(record)
    log.addHandler(handler)
    try:
        run(story.play(), record.clock)
    except Exception as error:
        record.violated("the story", repr(error))
        raise StoryFailed(record.told(seed, "--load ")) from error
    finally:
        log.removeHandler(handler)
    if record.violations:
        raise StoryFailed(record.told(seed, "--load "))
    return story.outcome()


class _Story:
    def __init__(self, seed: int, record: Record) -> None:
        self._seed = seed
        self._record = record
        self._chance = chance = Random(f"{seed} load")
        self._limit, self._queue = chance.choice([2, 3, 5]), chance.choice([1, 3, 8])
        self._rate = chance.choice([None, 30, 200])
        self._cluster = Cluster("abc", record, chance)
        self._manager: SimulatedManager
        self._stopped = False
        #: How many leases are out, and when each was lent.
        self._out = 0
        self._lent: list[float] = []
        self._done = self._overloaded = self._limited = self._broken = 0

    def outcome(self) -> LoadOutcome:
        return LoadOutcome(
            seed=self._seed,
            digest=self._record.digest,
            lines=self._record.lines,
            seconds=self._record.clock.now,
            failovers=self._cluster.failovers,
            done=self._done,
            overloaded=self._overloaded,
            limited=self._limited,
            broken=self._broken,
        )

    async def play(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._record.loop_failed)
        me = {task for task in asyncio.all_tasks() if task is asyncio.current_task()}
        chance, clock = self._chance, self._record.clock
        knowledge = Knowledge("manager", self._record)
        driver = SimulatedDriver(self._cluster.servers, knowledge, Random(f"{self._seed} driver"))
        origin = chance.uniform(1e3, 1e6)
        manager = self._manager = SimulatedManager(
            driver,
            None,
            lambda: clock.now + origin,
            Random(f"{self._seed} manager"),
            pool_factory_kwargs={"min_size": 0, "max_size": self._limit},
            admission=Admission(self._limit, queue=self._queue, reserve=chance.choice([0.0, 0.5])),
            rate_limit=RateLimit(f"{self._rate}/second") if self._rate else None,
            breaker=Breaker(threshold=3, recovery=chance.choice([0.5, 30.0])),
        )
        running = [loop.create_task(self._work(Random(f"{self._seed} {n}"))) for n in range(10)]
        await self._cluster.master_story(chance.uniform(2.0, 5.0))
        check_counts(manager, self._record, len(running))
        await self._cluster.mend()
        await asyncio.sleep(_CALM + 1.0)
        self._stopped = True
        _, left = await asyncio.wait(running, timeout=20.0)
        for each in running:
            if each in left or each.exception() is not None:
                self._record.violated("task", "does not end" if each in left else f"{each!r}")
        await asyncio.sleep(2.0)
        check_quiet(manager, self._record, self._cluster)
        self._check_end(manager.metrics())
        await manager.close(1.0)
        await asyncio.sleep(0.5)
        check_closed(self._record, self._cluster, me)

    async def _work(self, chance: Random) -> None:
        while not (self._stopped or self._record.violations):
            await asyncio.sleep(chance.expovariate(8.0))
            use = asyncio.get_running_loop().create_task(self._use(chance))
            if chance.random() < 0.2:
                await asyncio.wait([use], timeout=chance.expovariate(50.0))
                use.cancel()
            await asyncio.wait([use])
            if not use.cancelled():
                use.result()

    async def _use(self, chance: Random) -> None:
        manager, began = self._manager, self._record.clock.now
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
            if self._record.clock.now - began < timeout - 1e-6:
                self._record.violated("task", "was told before the deadline that there is nothing")
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
        now = self._record.clock.now
        self._lent.append(now)
        if self._out > self._limit:
            self._record.violated("admission", f"{self._out} leases are out, of {self._limit}")
        if self._rate is not None:
            lately = sum(at > now - 1.0 for at in self._lent)
            if lately > 2 * self._rate:
                self._record.violated("rate", f"{lately} leases within a second")

    def _check_breaker(self, began: float) -> None:
        if self._record.clock.now - began > 1e-6:
            self._record.violated("breaker", "has let somebody wait, and then refused")
        since = self._cluster.master_serves_since()
        if since is not None and began - since > _CALM:
            self._record.violated("breaker", f"refuses, and a master serves since {since:.6f}")

    def _check_end(self, metrics: Metrics) -> None:
        gate, breaker = metrics.admission, metrics.breaker
        assert gate is not None
        assert breaker is not None
        if gate.waiting or gate.in_use:
            self._record.violated("admission", f"not all is back: {gate}")
        if gate.refusals + gate.timeouts < self._overloaded:
            self._record.violated("admission", f"{gate} counts less than were refused")
        if breaker.state is not BreakerState.CLOSED:
            self._record.violated("breaker", f"is not closed again: {breaker}")
        if breaker.refusals != self._broken:
            self._record.violated("breaker", f"{breaker} counts other refusals than were met")
