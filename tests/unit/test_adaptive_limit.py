"""How near the adaptive limit comes to the best, with simulated servers whose best is known."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING

import pytest

from hasql.resilience.adaptive_limit import AdaptiveLimit

if TYPE_CHECKING:
    from collections.abc import Callable


def alike(_: Random) -> float:
    return 1.0


def by_chance(chance: Random) -> float:
    """Draw from an exponential distribution with the mean 1."""
    return chance.expovariate(1.0)


def mixed(chance: Random) -> float:
    """Draw from a mix with the mean 1: one of ten leases is fifty times as long as the others."""
    return 50 / 5.9 if chance.random() < 0.1 else 1 / 5.9


class Servers:
    """Simulated servers that serve a number of leases at full speed; more leases slow each other.

    Args:
        knee: How many leases they serve at full speed.
        seconds: What a lease takes then, on average.
        met: The fraction by which each lease beyond the knee slows down all of them in addition.
        length: Draws the relative length of a lease; its mean is 1.
    """

    def __init__(  # noqa: PLR0913  # the properties of the servers
        self,
        knee: int,
        seconds: float = 0.01,
        highest: int = 100,
        met: float = 0.0,
        length: Callable[[Random], float] = alike,
        reserve: float = 0.0,
    ) -> None:
        self.knee, self.seconds, self.met = knee, seconds, met
        self._length = length
        self._chance = Random(7)  # noqa: S311  # no secret
        self.now = 0.0
        self.limit = AdaptiveLimit(highest, lambda: self.now, reserve)
        self._out: list[tuple[float, int, float]] = []
        self._number = 0

    def play(self, seconds: float, demand: int, *, critical: bool = False) -> list[int]:
        """Keep as many leases out as the demand and the limit allow.

        Either all of them are critical, or none. Return the limit at the end of each lease.
        """
        until, limits = self.now + seconds, []
        while True:
            while len(self._out) < min(self._may(critical=critical), demand):
                self._begin()
            if self._out[0][0] > until:
                break
            self.now, _, took = heappop(self._out)
            self.limit.note(took, len(self._out) + 1)
            limits.append(self.limit.limit)
        self.now = until
        return limits

    def share_of_best(self, seconds: float) -> float:
        """Play more demand than the servers can serve; return the share of the best throughput."""
        return len(self.play(seconds, 400)) / seconds / (self.knee / self.seconds)

    def _may(self, *, critical: bool) -> int:
        return self.limit.limit if critical else self.limit.open_limit

    def _begin(self) -> None:
        more = max(0, len(self._out) + 1 - self.knee)
        took = self.seconds * self._length(self._chance)
        took *= (1 + more / self.knee) * (1 + self.met * more)
        self._number += 1
        heappush(self._out, (self.now + took, self._number, took))


def mean(limits: list[int]) -> float:
    return sum(limits) / len(limits)


@pytest.mark.parametrize("length", [alike, by_chance, mixed])
@pytest.mark.parametrize(("knee", "met"), [(4, 0.03), (10, 0.03), (40, 0.01)])
def test_in_an_overload_from_the_beginning_it_does_nine_tenths_of_the_best(
    knee: int, met: float, length: Callable[[Random], float]
) -> None:
    servers = Servers(knee, 0.02, met=met, length=length)
    servers.play(10, demand=400)
    assert servers.share_of_best(40) > 0.9


@pytest.mark.parametrize("length", [alike, by_chance, mixed])
def test_in_an_overload_that_comes_later_too(length: Callable[[Random], float]) -> None:
    servers = Servers(10, 0.02, met=0.03, length=length)
    servers.play(5, demand=3)
    servers.play(5, demand=400)
    assert servers.share_of_best(60) > 0.9


def test_the_limit_goes_down_to_what_servers_do_well_and_stays_there() -> None:
    servers = Servers(10)
    servers.play(5, demand=8)  # little load: the limit learns what a lease takes at best
    servers.play(5, demand=400)
    limits = servers.play(100, demand=400)
    assert 9 <= mean(limits) <= 14
    assert max(limits) <= 16, "however long an overload lasts"


def test_it_grows_by_no_more_than_half_beyond_what_servers_do_well() -> None:
    servers = Servers(10, 0.05, met=0.03)
    most = 0
    for _ in range(50):
        servers.play(0.1, demand=400)
        most = max(most, servers.limit.open_limit)
    assert 10 < most <= 15


def test_a_test_of_the_limit_takes_nothing_from_what_is_critical() -> None:
    servers, tested = Servers(40, 0.02, met=0.01), 0
    servers.play(5, demand=400)
    for _ in range(1000):
        servers.play(0.02, demand=400)
        assert servers.limit.limit > 35
        tested += servers.limit.open_limit < 0.7 * servers.limit.limit
    assert tested, "there was none"


@pytest.mark.parametrize("length", [alike, by_chance])
def test_where_all_is_critical_it_learns_as_well(length: Callable[[Random], float]) -> None:
    servers = Servers(10, 0.02, met=0.03, length=length)
    servers.play(10, demand=400, critical=True)
    assert 8 < mean(servers.play(40, demand=400, critical=True)) < 16
    servers.seconds = 0.1
    servers.play(30, demand=9, critical=True)
    assert mean(servers.play(40, demand=400, critical=True)) > 8, "no overload, but longer work"


def test_servers_that_are_no_match_for_the_least_of_it_are_found_out() -> None:
    servers = Servers(2, 0.02, met=0.1)
    servers.play(10, demand=400)
    assert mean(servers.play(60, demand=400)) < 4


def test_work_that_becomes_longer_is_no_overload_for_long() -> None:
    servers = Servers(1000, 0.05)
    servers.play(20, demand=90)
    servers.seconds = 0.5
    servers.play(60, demand=90)
    assert mean(servers.play(60, demand=90)) > 70


def test_after_a_standstill_it_is_soon_what_it_was() -> None:
    servers = Servers(40, 0.02, met=0.01)
    servers.play(20, demand=400)
    servers.seconds = 1.0
    servers.play(2, demand=400)
    servers.seconds = 0.02
    servers.play(5, demand=400)
    assert servers.share_of_best(10) > 0.9


def test_without_demand_it_stays_where_it_is() -> None:
    servers = Servers(1000)
    servers.play(10, demand=1)
    before = servers.limit.limit
    servers.seconds = 0.1
    servers.play(10, demand=1)
    assert servers.limit.limit == before


def test_what_is_kept_for_others_does_not_keep_it_from_growing() -> None:
    servers = Servers(1000, highest=50, reserve=0.5)
    for _ in range(100):
        servers.play(0.1, demand=(servers.limit.limit + 1) // 2)
    assert servers.limit.limit == 50


def test_it_is_never_less_than_one_nor_more_than_the_highest() -> None:
    servers = Servers(1, highest=4)
    servers.play(1, demand=1)
    for _ in range(20):
        servers.seconds *= 1.5
        assert {*servers.play(5, demand=50)} <= {1, 2, 3, 4}


def test_leases_that_take_no_time_do_no_harm() -> None:
    servers = Servers(10, seconds=1e-9)
    limit = servers.limit
    for _ in range(20):
        servers.now += 0.2
        for _ in range(40):
            limit.note(0.0, limit.limit)
    assert limit.limit == 100
