"""`python -m simulation`: play the stories of many seeds, or tell that of one."""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

import simulation
from simulation.play import StoryFailed, play


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="simulation",
        description=simulation.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="play this one alone and tell what happens")
    parser.add_argument("--seeds", type=int, default=200, help="how many to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--go-on", action="store_true", help="play on after one has failed")
    return parser.parse_args()


def _tell(seed: int) -> int:
    try:
        outcome = play(seed)
    except StoryFailed as error:
        print(error)
        return 1
    print("\n".join(outcome.lines))
    print(f"digest {outcome.digest}")
    return 0


def main() -> int:
    """Play; the exit status tells whether all that must hold has held."""
    options = _options()
    if options.seed is not None:
        return _tell(options.seed)
    began, failed = perf_counter(), 0
    seconds = longest = 0.0
    failovers = done = errors = 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            outcome = play(seed)
        except StoryFailed as error:
            failed += 1
            print(error, end="\n\n", flush=True)
            if not options.go_on:
                break
            continue
        seconds += outcome.seconds
        longest = max(longest, outcome.longest)
        failovers += outcome.failovers
        done += outcome.done
        errors += outcome.failed
    print(
        f"{failed} failed; {failovers} failovers, {done} uses, {errors} errors, "
        f"in {seconds:.0f} s of the stories and {perf_counter() - began:.1f} s of ours; "
        f"the longest without a write beside a master: {longest:.3f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
