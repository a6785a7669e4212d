"""Plays the story of a seed from beginning to end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from hasql.balancer_policy import (
    GreedyBalancerPolicy,
    RandomWeightedBalancerPolicy,
    RoundRobinBalancerPolicy,
)
from hasql.events import HostDown
from hasql.resilience import Admission, Breaker, RateLimit
from simulation.applications import Task, Writer
from simulation.checks import check_counts, check_permits, check_quiet
from simulation.cluster import Cluster
from simulation.names import Names
from simulation.source import Source
from simulation.story import StoryOfSeed, StoryOutcome, play_story
from simulation.units import UnitsOfWork

if TYPE_CHECKING:
    from hasql.events import Event
    from simulation.driver import SimulatedManager
    from simulation.knowledge import Knowledge
    from simulation.record import Record

__all__ = ("Outcome", "play")

_NAMES: dict[type[Task], str] = {Writer: "writer", Task: "task", UnitsOfWork: "unit"}
_POLICIES = [GreedyBalancerPolicy, RandomWeightedBalancerPolicy, RoundRobinBalancerPolicy]


@dataclass(frozen=True)
class Outcome(StoryOutcome):
    """The outcome of a story."""

    failed: int
    #: The longest time, in seconds, for which writing was impossible although there was a master.
    longest: float


def play(seed: int) -> Outcome:
    """Play the story of a seed. Raises StoryFailed, with the reason, if anything was wrong."""
    return play_story(lambda record: _Story(seed, record))


def _load_control(chance: Random, tasks: int) -> dict[str, Any]:
    """Make every second manager count all of its leases, and refuse none: see `check_permits`."""
    if chance.random() < 0.5:
        return {}
    apart = chance.choice([None, 2 * tasks])
    return {
        "admission": Admission(2 * tasks + 8, replica_limit=apart, reserve=0.0),
        "rate_limit": RateLimit("1000000/second"),
        "breaker": Breaker(threshold=1_000_000),
    }


class _Story(StoryOfSeed[Outcome]):
    def __init__(self, seed: int, record: Record) -> None:
        super().__init__(seed, record)
        # Each part has its own source of chance, so that a change in one part does not change the
        # whole story.
        self._chance = Random(f"{seed} story")
        #: None if the hosts' names never change their addresses.
        self._names: Names | None = None
        self._managers: list[SimulatedManager] = []
        self._sources: list[Source] = []
        self._tasks: list[Task] = []
        self._writers: list[Writer] = []
        self._running: list[asyncio.Task[None]] = []

    def outcome(self) -> Outcome:
        return Outcome(
            **self.told,
            done=sum(task.done for task in self._tasks),
            failed=sum(task.failed for task in self._tasks),
            longest=max(writer.longest for writer in self._writers),
        )

    async def happens(self) -> None:
        chance = self._chance
        names = "abcd"[: chance.choice([2, 3, 3, 4])]
        self.cluster = Cluster(names, self.record, Random(f"{self.seed} cluster"))
        if chance.random() < 0.5:
            chance_of_names = Random(f"{self.seed} names")
            self._names = Names(self.cluster.all, self.record, chance_of_names)
        for number in range(chance.choice([1, 1, 2])):
            await self._start(number)
        seconds = chance.uniform(3.0, 9.0)
        stories = [self.cluster.master_story(seconds), self.cluster.noise(seconds)]
        if self._names is not None:
            stories.append(self._names.story(seconds))
        await asyncio.gather(*stories, self._watch(seconds))
        if chance.random() < 0.3:
            await self._close_in_the_storm()
        else:
            await self._close_in_quiet()
        self.cluster.ledger.check(self.cluster.master, nothing_is_lost=False)

    async def _start(self, number: int) -> None:
        chance, seed = self._chance, f"{self.seed} {number}"
        # If connections may go silent, they stay in use for long although nothing uses them.
        roomy = chance.random() < 0.6 and not self.cluster.may_deafen
        tasks = chance.choice([3, 4, 6] if roomy else [4, 6, 8])
        crowd: list[asyncio.Task[None]] = []
        manager = self.new_manager(
            f"manager {number}",
            f" {number}",
            names=self._names,
            discovery=self._source(Random(f"{seed} source")),
            balancer_policy=chance.choice(_POLICIES),
            pool_factory_kwargs={
                "min_size": chance.choice([0, 1, 2 if roomy else 1]),
                "max_size": tasks + 4 if roomy else chance.choice([1, 2]),
            },
            **_load_control(Random(f"{seed} load"), tasks),
        )
        knowledge = manager.driver.knowledge
        manager.add_listener(lambda event: self._heard(knowledge, event))
        self._managers.append(manager)
        kinds = [Writer, *[Task] * (tasks - 1)]
        if not self.cluster.may_deafen:  # otherwise the answer to COMMIT may never come
            kinds.append(UnitsOfWork)
        for each, kind in enumerate(kinds):
            name = f"{_NAMES[kind]} {number}.{each}"
            task = kind(
                name,
                manager,
                self.cluster,
                self.record,
                Random(f"{seed} {name}"),
                roomy=roomy,
                crowd=crowd,
            )
            self._tasks.append(task)
            if isinstance(task, Writer):
                self._writers.append(task)
            self._running.append(asyncio.get_running_loop().create_task(task.run(), name=name))
        await asyncio.sleep(0)

    def _source(self, chance: Random) -> Source | None:
        """Make the hosts of every third manager come and go."""
        if chance.random() > 1 / 3:
            return None
        self._sources.append(Source(self.cluster, self.record, chance))
        return self._sources[-1]

    def _heard(self, knowledge: Knowledge, event: Event) -> None:
        self.record.note(knowledge.name, f"tells {event!r}")
        if isinstance(event, HostDown):
            knowledge.went_down(event.host)

    async def _watch(self, seconds: float) -> None:
        """Check the counts again and again."""
        until = self.record.clock.now + seconds
        while self.record.clock.now < until and not self.record.violations:
            self._look()
            await asyncio.sleep(self._chance.expovariate(50.0))

    def _look(self) -> None:
        for manager in self._managers:
            check_counts(manager, self.record, len(self._tasks))
            check_permits(manager, self.record)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.stopped = True
        await self.await_end(self._running, 20.0)

    async def _close_in_quiet(self) -> None:
        """Repair everything, let all tasks end, check that everything is back, and close."""
        await self.cluster.mend()
        if self._names is not None:
            self._names.mend()
        for source in self._sources:
            source.settled = True
        await asyncio.sleep(2.0)
        await self._end_tasks()
        # Giving back a silent connection takes up to release_timeout.
        await asyncio.sleep(6.0 if self.cluster.may_deafen else 1.5)
        for manager in self._managers:
            check_quiet(manager, self.record, self.cluster)
            await self._take_all(manager)
        for manager in self._managers:
            await self._close(manager, 1.0)
        await asyncio.sleep(1.0)

    async def _take_all(self, manager: SimulatedManager) -> None:
        """Check that every connection can still be acquired."""
        name = manager.driver.knowledge.name
        for node in manager.metrics().nodes:
            if node.role.value == "master":
                taken = [await manager.acquire_master(timeout=1) for _ in range(node.pool_max)]
                for connection in taken:
                    await manager.release(connection)
                self.record.note(name, f"has lent all {len(taken)} places of {node.host}")

    async def _close_in_the_storm(self) -> None:
        """Close while connections are in use, and servers are down."""
        for manager in self._managers:
            await self._close(manager, self._chance.choice([0.0, 0.5, 3.0]))
        await self._end_tasks()
        for server in self.cluster.all:
            if server.frozen:
                server.thaw()
        await asyncio.sleep(2.0)

    async def _close(self, manager: SimulatedManager, timeout: float) -> None:
        clock, name = self.record.clock, manager.driver.knowledge.name
        began = clock.now
        if timeout:
            await manager.close(timeout)
        else:
            await manager.terminate()
        took = clock.now - began
        self.record.note(name, f"has closed in {took:.6f} s")
        if took > timeout + 2.5 or not manager.closed:
            self.record.violated(name, f"took {took:.6f} s to close, and was given {timeout}")
