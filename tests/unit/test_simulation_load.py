"""Admission, rates and the breaker under failover, in virtual time; see `simulation`."""

from __future__ import annotations

from simulation.load import play_load

SEEDS = 12


def test_load_control_says_no_only_when_it_may_and_all_is_back_in_the_end() -> None:
    outcomes = [play_load(seed) for seed in range(SEEDS)]
    # Acquires were refused in each of the ways, and the others worked meanwhile.
    assert sum(outcome.done for outcome in outcomes) > 100 * SEEDS
    assert sum(outcome.failovers for outcome in outcomes) > SEEDS
    assert sum(outcome.overloaded for outcome in outcomes) > SEEDS
    assert sum(outcome.limited for outcome in outcomes) > SEEDS / 10
    assert sum(outcome.broken for outcome in outcomes) > SEEDS
