"""When probes are due: in the steady state, in bursts, and under signals that mean nothing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from random import Random

import pytest

from hasql._probing.schedule import Bursts, Evidence, ProbeSchedule
from hasql.cluster.host import parse_host

A, B = parse_host("a"), parse_host("b")
LOST, FLAG = Evidence.LOST, Evidence.FLAG
CHANCE = Random()  # noqa: S311  # no secret


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bursts(clock: Clock) -> Bursts:
    return Bursts(clock)


def begun_by_hints(
    bursts: Bursts, clock: Clock, seconds: float, step: float = 0.005
) -> list[float]:
    """Give hints all the time; return the times at which a hint began a burst."""
    began, start = [], clock.now
    while clock.now < start + seconds:
        if bursts.begin_by_hint(urgent=False):
            began.append(round(clock.now - start, 1))
        clock.now += step
    return began


def test_7_the_first_hint_is_acted_on_at_once_and_those_in_vain_more_and_more_seldom(
    bursts: Bursts, clock: Clock
) -> None:
    began = begun_by_hints(bursts, clock, 145)
    pauses = [later - sooner for sooner, later in itertools.pairwise(began)]
    assert began[0] == 0
    assert pauses == pytest.approx([3.5, 4, 5, 7, 11, 19, 33, 33], abs=0.05)


@pytest.mark.parametrize("seconds_later", [0.0, 2.0, 20.0])
def test_7_what_was_learnt_ends_the_quiet_time(
    bursts: Bursts, clock: Clock, seconds_later: float
) -> None:
    begun_by_hints(bursts, clock, 90)
    clock.now += seconds_later
    bursts.learned()
    assert bursts.begin() or bursts.under_way
    while bursts.under_way:
        assert not bursts.begin_by_hint(urgent=False), "that burst goes on as it is"
        clock.now += 0.1
    assert begun_by_hints(bursts, clock, 5) == [0, 3.5]


def test_7_a_lost_reserved_connection_ends_the_quiet_time_of_hints(
    bursts: Bursts, clock: Clock
) -> None:
    begun_by_hints(bursts, clock, 90)
    assert bursts.begin_by_evidence(A, LOST)
    assert bursts.under_way
    clock.now += 3.1
    assert bursts.begin_by_hint(urgent=False)


def test_7_one_that_is_lost_again_and_again_does_not(bursts: Bursts, clock: Clock) -> None:
    assert bursts.begin_by_evidence(A, LOST)
    began = []
    for _ in range(500):
        clock.now += 0.6
        assert not bursts.begin_by_evidence(A, LOST)
        if bursts.begin_by_hint(urgent=False):
            began.append(clock.now)
    pauses = [later - sooner for sooner, later in itertools.pairwise(began)]
    assert pauses[-5:] == pytest.approx([33] * 5, abs=0.6)
    assert bursts.begin_by_evidence(B, LOST), "what another host shows is another matter"
    assert bursts.begin_by_evidence(A, FLAG), "and so is what it shows besides"
    clock.now += 31
    assert bursts.begin_by_evidence(A, LOST), "nor is it in vain for ever"


def test_7_hints_are_not_in_vain_for_ever(bursts: Bursts, clock: Clock) -> None:
    begun_by_hints(bursts, clock, 90)
    clock.now += 70
    assert begun_by_hints(bursts, clock, 5) == [0, 3.5]


def test_7_without_a_master_no_hint_is_in_vain_but_no_burst_begins_within_another(
    bursts: Bursts, clock: Clock
) -> None:
    begun_by_hints(bursts, clock, 90)
    clock.now += 3.1
    began = 0
    for _ in range(1000):
        began += bursts.begin_by_hint(urgent=True)
        clock.now += 0.01
    assert began == 4


def test_7_evidence_is_acted_on_within_a_burst(bursts: Bursts, clock: Clock) -> None:
    assert bursts.begin_by_hint(urgent=False)
    clock.now += 1
    assert bursts.begin_by_evidence(A, LOST)
    assert not bursts.begin_by_evidence(A, LOST), "it was the same"
    clock.now += 2.1
    assert not bursts.under_way, "but the burst gets no longer by that"


def test_7_hints_cost_their_host_a_probe_each_half_second(bursts: Bursts, clock: Clock) -> None:
    schedule = ProbeSchedule(60, bursts, lambda: False, clock, CHANCE)
    start, due = clock.now, set()
    for _ in range(400):
        due.add(round(schedule.hint_due() - start, 3))
        clock.now += 0.005
    assert sorted(due) == [0, 0.5, 1, 1.5, 2]
    clock.now += 0.7
    assert schedule.hint_due() == clock.now, "after a pause at once"


def test_7_evidence_in_vain_has_its_host_probed_as_often_as_in_a_burst(
    bursts: Bursts, clock: Clock
) -> None:
    for refresh_delay, least, most in ((60, 50.15, 50.25), (0.05, 50.0375, 50.0625)):
        schedule = ProbeSchedule(refresh_delay, bursts, lambda: False, clock, CHANCE)
        due = {schedule.evidence_due(50) for _ in range(100)}
        assert least <= min(due) < max(due) <= most, "with jitter"


def test_7_the_schedule_is_steady_but_in_bursts_and_without_a_master(
    bursts: Bursts, clock: Clock
) -> None:
    urgent = False
    schedule = ProbeSchedule(10, bursts, lambda: urgent, clock, CHANCE)
    assert 9 <= schedule.delay() <= 11
    assert not schedule.hurries
    bursts.begin()
    assert 0.15 <= schedule.delay() <= 0.25
    assert schedule.hurries
    clock.now += 3.1
    assert 9 <= schedule.delay() <= 11
    urgent = True
    assert 0.15 <= schedule.delay() <= 0.25
    clock.now += 10
    assert 0.15 <= schedule.delay() <= 0.25
    clock.now += 1
    assert 0.3 <= schedule.delay() <= 0.5
    clock.now += 1000
    assert 0.375 <= schedule.delay() <= 0.625
    assert schedule.hurries
    assert ProbeSchedule(0.1, bursts, lambda: True, clock, CHANCE).delay() <= 0.125, (
        "never slower than steady"
    )


def test_7_a_burst_slows_down_once_a_master_has_been_found(bursts: Bursts, clock: Clock) -> None:
    urgent = True
    schedule = ProbeSchedule(10, bursts, lambda: urgent, clock, CHANCE)
    bursts.begin()
    bursts.found = True
    assert schedule.delay(answers=True) <= 0.25, "there is no master yet"
    urgent = False
    assert 0.375 <= schedule.delay(answers=True) <= 0.625
    assert schedule.delay(answers=False) <= 0.25, "a host that is missed is looked for"
    assert bursts.begin_by_evidence(A, LOST)
    assert schedule.delay(answers=True) <= 0.25, "something else has happened"
    bursts.found = True
    clock.now += 3.1
    assert 9 <= schedule.delay(answers=True) <= 11
    bursts.begin()
    assert schedule.delay(answers=True) <= 0.25, "nor has the next found anything"


def test_7_a_long_time_without_a_master_is_watched_to_its_end(bursts: Bursts, clock: Clock) -> None:
    schedule = ProbeSchedule(10, bursts, lambda: True, clock, CHANCE)
    assert 0.15 <= schedule.delay() <= 0.25
    clock.now += 1_000_000  # 2 to the power of the doublings would not fit into a float
    assert 0.375 <= schedule.delay() <= 0.625
