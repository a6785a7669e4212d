"""`python -m chaos`: play scenarios and print what they cost."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import uvloop

import chaos
from chaos.leases import LEASE_SCENES, LeaseScene, play_leases
from chaos.run import perform, why_not
from chaos.scenarios import SCENARIOS
from chaos.table import lease_table, table
from hasql.testing import LocalCluster
from testbed.kits import KITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.leases import LeaseOutcome
    from chaos.scenarios import Scenario
    from chaos.verdict import Outcome
    from testbed.kits.base import Kit

_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chaos",
        description=chaos.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--fault", action="append", choices=[*SCENARIOS, *LEASE_SCENES], metavar="NAME"
    )
    parser.add_argument("--driver", action="append", metavar="NAME")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--loop", choices=_LOOPS, default="asyncio")
    parser.add_argument("--version", type=int, help="PostgreSQL's major version")
    parser.add_argument("--short", action="store_true", help="as `make test` has it")
    parser.add_argument("--together", action="store_true", help="all drivers at once")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--list", action="store_true", help="name the faults and drivers")
    return parser.parse_args()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _tell_problems(outcomes: Sequence[Outcome | LeaseOutcome]) -> None:
    for outcome in outcomes:
        for problem in outcome.problems:
            _tell(f"    {outcome.driver}: {problem}")


async def _run(
    options: argparse.Namespace,
    scenes: Sequence[Scenario | LeaseScene],
    groups: Sequence[Sequence[Kit]],
    outcomes: list[Outcome],
    leases: list[LeaseOutcome],
) -> None:
    """Play everything, and add what came of each run to `outcomes` or `leases`."""
    async with LocalCluster(synchronous=True, version=options.version) as cluster:
        for scene in scenes:
            for kits in groups:
                for run in range(1, options.runs + 1):
                    names = ", ".join(kit.name for kit in kits)
                    _tell(f"{scene.name}, {names}, run {run}: {scene.description}")
                    if isinstance(scene, LeaseScene):
                        leases += await play_leases(scene, cluster, kits, short=options.short)
                        _tell_problems(leases[-len(kits) :])
                    else:
                        outcomes += await perform(scene, cluster, kits, short=options.short)
                        _tell_problems(outcomes[-len(kits) :])


def main() -> int:
    """Run; 1 if anything was as it must not be."""
    options = _options()
    # What is logged as an error is reported, and what is below is in the way.
    logging.lastResort = None
    known: dict[str, Scenario | LeaseScene] = {**SCENARIOS, **LEASE_SCENES}
    scenes = [known[name] for name in options.fault or known]
    kits = [kit for kit in KITS if not options.driver or kit.name in options.driver]
    if options.list:
        for scene in scenes:
            print(f"{scene.name:15} {scene.description}")
        print("drivers here:", ", ".join(kit.name for kit in kits))
        return 0
    if not kits:
        # `make chaos` has two environments, and asks both of them.
        _tell(f"no such driver here: {', '.join(options.driver)}")
        return 0
    reasons = {scene.name: why_not(scene) for scene in scenes}
    for name, reason in reasons.items():
        if reason is not None:
            _tell(f"{name} is left out: {reason}")
    scenes = [scene for scene in scenes if reasons[scene.name] is None]
    groups = [kits] if options.together else [[kit] for kit in kits]
    outcomes: list[Outcome] = []
    leases: list[LeaseOutcome] = []
    interrupted = False
    # Who has no more time, as under timeout(1), has waited for what has been measured until then.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with asyncio.Runner(loop_factory=_LOOPS[options.loop]) as runner:
            runner.run(_run(options, scenes, groups, outcomes, leases))
    except KeyboardInterrupt:
        interrupted = True
        _tell("interrupted: what follows is of the runs that had ended")
    both: list[Outcome | LeaseOutcome] = [*outcomes, *leases]
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in both], indent=2))
    else:
        print("\n\n".join(filter(None, (table(outcomes), lease_table(leases)))))
    return int(interrupted or any(outcome.problems for outcome in both))


if __name__ == "__main__":
    sys.exit(main())
