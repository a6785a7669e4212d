"""`python -m simulation`: plays the stories of many seeds, or of one, and prints its events."""

from __future__ import annotations

import argparse
import sys
from time import perf_counter
from typing import TYPE_CHECKING

import simulation
from simulation.commits import CommitOutcome, play_commits
from simulation.load import LoadOutcome, play_load
from simulation.play import Outcome, play
from simulation.record import StoryFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Any = Outcome | CommitOutcome | LoadOutcome


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="simulation",
        description=simulation.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--commits", action="store_true", help="play the stories of commits")
    parser.add_argument("--load", action="store_true", help="play those of load control")
    parser.add_argument("--seed", type=int, help="play this one alone and tell what happens")
    parser.add_argument("--seeds", type=int, default=200, help="how many to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--go-on", action="store_true", help="play on after one has failed")
    return parser.parse_args()


def _play(options: argparse.Namespace) -> Callable[[int], _Any]:
    if options.load:
        return play_load
    return play_commits if options.commits else play


def _tell(options: argparse.Namespace) -> int:
    try:
        outcome = _play(options)(options.seed)
    except StoryFailed as error:
        print(error)
        return 1
    print("\n".join(outcome.lines))
    print(f"digest {outcome.digest}")
    return 0


def _sum_up(outcomes: Sequence[_Any]) -> str:
    told = [each for each in outcomes if isinstance(each, Outcome)]
    found = [each for each in outcomes if isinstance(each, CommitOutcome)]
    load = [each for each in outcomes if isinstance(each, LoadOutcome)]
    failovers, done = (sum(getattr(x, name) for x in outcomes) for name in ("failovers", "done"))
    if found:
        what = (
            f"{done} units done, {sum(x.found for x in found)} commits found out, "
            f"{sum(x.unknown for x in found)} that nobody knew of, "
            f"{sum(x.reused for x in found)} ids given away again"
        )
    elif load:
        what = (
            f"{done} uses, refused: {sum(x.overloaded for x in load)} by admission, "
            f"{sum(x.limited for x in load)} by the rate, "
            f"{sum(x.broken for x in load)} by the breaker"
        )
    else:
        longest = max((x.longest for x in told), default=0.0)
        what = (
            f"{done} uses, {sum(x.failed for x in told)} errors, "
            f"the longest without a write beside a master: {longest:.3f} s"
        )
    return (
        f"{failovers} failovers, {what}, in {sum(x.seconds for x in outcomes):.0f} s of the stories"
    )


def main() -> int:
    """Play the stories; the exit status tells whether everything that must hold has held."""
    options = _options()
    if options.seed is not None:
        return _tell(options)
    began, failed, play_one = perf_counter(), 0, _play(options)
    outcomes = []
    for seed in range(options.first, options.first + options.seeds):
        try:
            outcomes.append(play_one(seed))
        except StoryFailed as error:
            failed += 1
            print(error, end="\n\n", flush=True)
            if not options.go_on:
                break
    print(f"{failed} failed; {_sum_up(outcomes)} and {perf_counter() - began:.1f} s of ours")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
