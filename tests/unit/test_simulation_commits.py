"""What `run` says about commits, in virtual time and in the stories of many seeds.

See `simulation`.
"""

from __future__ import annotations

import pytest

from simulation.commits import play_commits
from simulation.record import StoryFailed

#: `python -m simulation --commits --seeds 5000` plays more.
SEEDS = 400
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_20_no_fault_around_commit_makes_an_outcome_wrong(part: int) -> None:
    outcomes = [play_commits(seed) for seed in range(part, SEEDS, PARTS)]
    # The stories were eventful: answers were lost, and ids were given to other transactions.
    assert sum(outcome.done for outcome in outcomes) > 10 * SEEDS / PARTS
    assert sum(outcome.failovers for outcome in outcomes) > SEEDS / PARTS / 2
    assert sum(outcome.reused for outcome in outcomes) > SEEDS / PARTS / 2
    assert sum(outcome.found for outcome in outcomes) > SEEDS / PARTS / 20
    assert sum(outcome.unknown for outcome in outcomes) < SEEDS / PARTS


def test_a_seed_gives_the_same_story_of_commits_again() -> None:
    assert [play_commits(seed).digest for seed in range(4)] == [
        play_commits(seed).digest for seed in range(4)
    ]


def test_a_wrong_outcome_is_found() -> None:
    # Servers that wrongly claim to have flushed their WAL mislead the rule; that is detected.
    with pytest.raises(StoryFailed, match="is said to be done, and who said so does not have it"):
        for seed in range(40, 200):
            play_commits(seed, honest=False)
