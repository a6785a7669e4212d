"""Four times as much as servers can do, in virtual time: what admission is worth (invariant 19).

The servers do ten requests at once in 20 ms each. More of them share that, and are in each other's
way, as processes of a database are. Requests arrive by chance, and each has half a second.
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
"""Requests in a second, at the best."""
SECONDS = 5.0
CRITICAL_SHARE = 0.05


@dataclass
class Story:
    """What became of all requests."""

    good: int = 0
    refused: int = 0
    critical: list[float] = field(default_factory=list)
    #: How long one has waited for its connection, or to be told that there is none.
    longest_wait: float = 0.0
    working: int = 0
    most_at_once: int = 0

    @property
    def goodput(self) -> float:
        return self.good / SECONDS

    @property
    def critical_p99(self) -> float:
        return quantiles(self.critical, n=100)[98]


def play(times: float, **kwargs: Any) -> Story:
    """Play so many times what the servers do at the best."""
    clock, story, chance = VirtualClock(), Story(), Random(5)  # noqa: S311  # no secret
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
        more = max(0, story.working - AT_ONCE)
        await asyncio.sleep(SERVICE * (1 + more / AT_ONCE) * (1 + 0.03 * more))
        story.working -= 1

    async def main() -> None:
        async with manager:
            await manager.ready(1, 0)
            tasks, ends = [], clock() + SECONDS
            while clock() < ends:
                critical = chance.random() < CRITICAL_SHARE
                level = Priority.CRITICAL if critical else Priority.NORMAL
                tasks.append(asyncio.create_task(request(level)))
                await asyncio.sleep(chance.expovariate(times * BEST))
            await asyncio.gather(*tasks)

    run(main(), clock)
    return story


def test_19_without_admission_an_overload_does_less_than_the_servers_can() -> None:
    story = play(4.0)
    assert story.goodput < 0.5 * BEST
    assert story.critical_p99 > 10 * SERVICE


def test_19_with_admission_an_overload_does_what_the_servers_can_and_what_is_critical_first() -> (
    None
):
    unloaded = play(0.1, admission=Admission(12, queue=20, reserve=0.2))
    story = play(4.0, admission=Admission(12, queue=20, reserve=0.2))
    assert story.goodput > 0.9 * BEST
    assert story.critical_p99 < 2 * unloaded.critical_p99
    assert len(story.critical) > 0.95 * CRITICAL_SHARE * 4 * BEST * SECONDS, "none is refused"
    assert story.longest_wait <= DEADLINE + 1e-6
    assert story.most_at_once == 12
    assert story.refused > 0


def test_19_a_limit_that_adapts_finds_that_by_itself() -> None:
    unloaded = play(0.1, admission=Admission(150, queue=20, adaptive=True))
    story = play(4.0, admission=Admission(150, queue=20, adaptive=True))
    assert story.goodput > 0.9 * BEST
    assert story.critical_p99 < 2 * unloaded.critical_p99
    assert story.longest_wait <= DEADLINE + 1e-6
    assert story.most_at_once < 50


@pytest.mark.parametrize("admission", [None, Admission(12, queue=20)])
def test_19_without_an_overload_admission_takes_nothing_away(admission: Admission | None) -> None:
    story = play(0.5, admission=admission)
    assert story.goodput > 0.45 * BEST
    assert story.refused == 0
