"""What admission is worth under four times the load that servers can do (invariant 19).

Unless a test says otherwise, the servers do ten requests at once in 20 ms each. More requests share
that capacity and slow each other down in addition, like the processes of a database. Requests
arrive at random, and each has half a second. The time is virtual.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from statistics import quantiles
from typing import Any

import pytest

from hasql.cluster.host import parse_host
from hasql.errors import NotAvailableError, OverloadedError
from hasql.resilience import Admission, Priority, priority
from simulation.virtual_time import VirtualClock, run
from testbed.fake_driver import FakeManager, FakeServer

AT_ONCE, SERVICE, DEADLINE = 10, 0.02, 0.5
BEST = AT_ONCE / SERVICE
"""The most requests that the servers can do in a second."""
SECONDS = 5.0
CRITICAL_SHARE = 0.05


@dataclass
class Story:
    """The results of all requests."""

    good: int = 0
    seconds: float = 0.0
    refused: int = 0
    critical: list[float] = field(default_factory=list)
    #: The longest time for which a request has waited for its connection, or for its refusal.
    longest_wait: float = 0.0
    working: int = 0
    most_at_once: int = 0

    @property
    def goodput(self) -> float:
        return self.good / self.seconds

    @property
    def critical_p99(self) -> float:
        return quantiles(self.critical, n=100)[98]


@dataclass(frozen=True)
class Work:
    """The capacity of the servers: requests at once, and the time of each; and how long to play."""

    at_once: int = AT_ONCE
    service: float = SERVICE
    seconds: float = SECONDS
    #: How much the time of requests varies: the standard deviation of its logarithm.
    spread: float = 0.0

    @property
    def best(self) -> float:
        return self.at_once / self.service


WORK = Work()


def play(
    times: float, work: Work = WORK, critical_share: float = CRITICAL_SHARE, **kwargs: Any
) -> Story:
    """Play `times` times the load that the servers can do."""
    clock, story = VirtualClock(), Story(seconds=work.seconds)
    chance, length = Random(5), Random(6)  # noqa: S311  # no secret
    server = FakeServer(parse_host("a"), master=True, clock=clock)
    manager = FakeManager(
        {server.host: server},
        clock=clock,
        acquire_timeout=DEADLINE,
        pool_factory_kwargs={"max_size": 200},
        **kwargs,
    )

    async def request(level: Priority) -> None:
        began = clock()
        try:
            with priority(level):
                async with manager.acquire_master():
                    story.longest_wait = max(story.longest_wait, clock() - began)
                    await serve()
        except NotAvailableError as error:
            story.longest_wait = max(story.longest_wait, clock() - began)
            story.refused += isinstance(error, OverloadedError)
            return
        took = clock() - began
        story.good += took <= DEADLINE
        if level is Priority.CRITICAL:
            story.critical.append(took)

    async def serve() -> None:
        story.working += 1
        story.most_at_once = max(story.most_at_once, story.working)
        more = max(0, story.working - work.at_once)
        took = work.service * length.lognormvariate(-(work.spread**2) / 2, work.spread)
        await asyncio.sleep(took * (1 + more / work.at_once) * (1 + 0.03 * more))
        story.working -= 1

    async def main() -> None:
        async with manager:
            await manager.ready(1, 0)
            tasks, ends = [], clock() + work.seconds
            while clock() < ends:
                critical = chance.random() < critical_share
                level = Priority.CRITICAL if critical else Priority.NORMAL
                tasks.append(asyncio.create_task(request(level)))
                await asyncio.sleep(chance.expovariate(times * work.best))
            await asyncio.gather(*tasks)

    run(main(), clock)
    return story


def play_unloaded(work: Work = WORK) -> Story:
    """Play only critical requests, as many as there are in an overload."""
    return play(4.0 * CRITICAL_SHARE, work, critical_share=1.0)


def test_19_without_admission_an_overload_does_less_than_the_servers_can() -> None:
    story = play(4.0)
    assert story.goodput < 0.5 * BEST
    assert story.critical_p99 > 10 * SERVICE


def test_19_with_admission_an_overload_does_what_the_servers_can_and_what_is_critical_first() -> (
    None
):
    unloaded = play_unloaded()
    story = play(4.0, admission=Admission(12, queue=20, reserve=0.2))
    assert story.goodput > 0.9 * BEST
    assert story.critical_p99 < 2 * unloaded.critical_p99
    assert len(story.critical) > 0.95 * CRITICAL_SHARE * 4 * BEST * SECONDS, "none is refused"
    assert story.longest_wait <= DEADLINE + 1e-6
    assert story.most_at_once == 12
    assert story.refused > 0


@pytest.mark.parametrize(
    "work",
    [
        WORK,
        Work(service=0.05, seconds=10.0),
        Work(service=0.05, seconds=10.0, spread=0.1),
        Work(at_once=20, service=0.05, seconds=10.0),
        Work(seconds=10.0, spread=0.5),
    ],
    ids=["", "longer", "longer, by chance", "more at once", "more by chance"],
)
def test_19_a_limit_that_adapts_finds_that_by_itself(work: Work) -> None:
    unloaded = play_unloaded(work)
    story = play(4.0, work, admission=Admission(150, queue=2 * work.at_once, adaptive=True))
    assert story.goodput > 0.9 * work.best
    assert story.critical_p99 < 2 * unloaded.critical_p99, "with what it takes to learn"
    assert story.longest_wait <= DEADLINE + 1e-6
    assert story.most_at_once <= 2 * work.at_once


@pytest.mark.parametrize("admission", [None, Admission(12, queue=20)])
def test_19_without_an_overload_admission_takes_nothing_away(admission: Admission | None) -> None:
    story = play(0.5, admission=admission)
    assert story.goodput > 0.45 * BEST
    assert story.refused == 0
