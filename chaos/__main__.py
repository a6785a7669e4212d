"""`python -m chaos`: plays scenarios and prints what they cost."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import uvloop

import chaos
from chaos.application import Application
from chaos.commits import CommitScene, play_commits
from chaos.leases import LeaseScene, play_leases
from chaos.load_control import WithLoadControl
from chaos.names import NameScene, play_names
from chaos.plays import SCENES, chosen
from chaos.run import perform, why_not
from chaos.soak import SoakScene, play_soak
from chaos.storm import StormScene, play_storm
from chaos.table import (
    commit_table,
    lease_table,
    name_table,
    run_table,
    soak_table,
    storm_table,
    table,
)
from chaos.units import UnitsOfWork
from hasql.testing import LocalCluster
from testbed.kits import KITS, THREAD_KITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.commits import CommitOutcome
    from chaos.lease_verdict import LeaseOutcome
    from chaos.name_verdict import NameOutcome
    from chaos.plays import Play
    from chaos.soak import SoakOutcome
    from chaos.storm import StormOutcome
    from chaos.verdict import Outcome
    from testbed.kits.base import LoadKit


_AnyOutcome: TypeAlias = (
    "Outcome | LeaseOutcome | NameOutcome | StormOutcome | CommitOutcome | SoakOutcome"
)


@dataclass(frozen=True, slots=True)
class _Played:
    """The outcomes of everything played so far."""

    faults: list[Outcome] = field(default_factory=list)
    leases: list[LeaseOutcome] = field(default_factory=list)
    names: list[NameOutcome] = field(default_factory=list)
    storms: list[StormOutcome] = field(default_factory=list)
    commits: list[CommitOutcome] = field(default_factory=list)
    soaks: list[SoakOutcome] = field(default_factory=list)

    @property
    def every(self) -> list[_AnyOutcome]:
        of_faults: list[_AnyOutcome] = [*self.faults, *self.leases, *self.names]
        return [*of_faults, *self.storms, *self.commits, *self.soaks]

    def __str__(self) -> str:
        of_leases = [each for each in self.faults if each.uses == Application.uses]
        of_runs = [each for each in self.faults if each.uses != Application.uses]
        tables = (
            *(table(of_leases), run_table(of_runs), lease_table(self.leases)),
            *(name_table(self.names), storm_table(self.storms)),
            *(commit_table(self.commits), soak_table(self.soaks)),
        )
        return "\n\n".join(filter(None, tables))


_WITH_SESSIONS = {"hasql.asyncsqlalchemy", "hasql.sync.sqlalchemy"}
_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chaos",
        description=chaos.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--fault",
        action="append",
        choices=SCENES,
        metavar="NAME",
    )
    parser.add_argument("--driver", action="append", metavar="NAME")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--loop", choices=_LOOPS, default="asyncio")
    parser.add_argument("--version", type=int, help="PostgreSQL's major version")
    parser.add_argument("--short", action="store_true", help="as `make test` has it")
    parser.add_argument("--together", action="store_true", help="all drivers at once")
    parser.add_argument("--units", action="store_true", help="of work, by run, and nothing else")
    parser.add_argument("--load-control", action="store_true", help="admission and such are on")
    parser.add_argument(
        "--sessions", action="store_true", help="of SQLAlchemy that route themselves"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--list", action="store_true", help="name the faults and drivers")
    return parser.parse_args()


def _class_of(options: argparse.Namespace) -> type[Application]:
    if options.sessions:
        from chaos.sessions import RoutedSessions  # noqa: PLC0415 - not every driver has SQLAlchemy

        return RoutedSessions
    if options.units:
        return UnitsOfWork
    return WithLoadControl if options.load_control else Application


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _tell_problems(outcomes: Sequence[_AnyOutcome]) -> None:
    for outcome in outcomes:
        for problem in outcome.problems:
            _tell(f"    {outcome.driver}: {problem}")


async def _run(
    options: argparse.Namespace,
    plays: Sequence[Play],
    kits: Sequence[LoadKit],
    played: _Played,
) -> None:
    """Play everything, and add the outcome of each run to `played`."""
    async with LocalCluster(synchronous=True, version=options.version) as cluster:
        for play in plays:
            for group in [kits] if options.together else play.groups(kits):
                for run in range(1, options.runs + 1):
                    drivers = ", ".join(kit.name for kit in group)
                    _tell(f"{play.name}, {drivers}, run {run}: {play.scene.description}")
                    _tell_problems(await _add(played, play, cluster, group, short=options.short))


async def _add(
    played: _Played, play: Play, cluster: LocalCluster, group: Sequence[LoadKit], *, short: bool
) -> Sequence[_AnyOutcome]:
    """Play a scene once, add its outcomes to `played`, and return them."""
    scene = play.scene
    if isinstance(scene, LeaseScene):
        played.leases.extend(leases := await play_leases(scene, cluster, group, short=short))
        return leases
    if isinstance(scene, NameScene):
        played.names.extend(names := await play_names(scene, cluster, group, short=short))
        return names
    if isinstance(scene, CommitScene):
        played.commits.extend(commits := await play_commits(scene, cluster, group, short=short))
        return commits
    if isinstance(scene, StormScene):
        played.storms.extend(storms := await play_storm(cluster, group, short=short))
        return storms
    if isinstance(scene, SoakScene):
        played.soaks.extend(soaks := await play_soak(cluster, group, short=short, tell=_tell))
        return soaks
    faults = await perform(scene, cluster, group, short=short, of_class=play.application)
    played.faults.extend(faults)
    return faults


def main() -> int:
    """Run everything; return 1 if anything was wrong."""
    options = _options()
    # Errors in the log are reported, and other log lines would be in the way.
    logging.lastResort = None
    here: list[LoadKit] = [*KITS, *THREAD_KITS]
    kits = [kit for kit in here if not options.driver or kit.name in options.driver]
    if options.sessions:
        kits = [kit for kit in kits if kit.module in _WITH_SESSIONS]
    if options.list:
        for scene in SCENES.values():
            print(f"{scene.name:15} {scene.description}")
        print("drivers here:", ", ".join(kit.name for kit in kits))
        return 0
    if not kits:
        # `make chaos` runs in two environments, each of which has other drivers.
        _tell(f"no such driver here: {', '.join(options.driver)}")
        return 0
    plays = chosen(options.fault or (), _class_of(options))
    reasons = {play.scene.name: why_not(play.scene) for play in plays}
    for name, reason in reasons.items():
        if reason is not None:
            _tell(f"{name} is left out: {reason}")
    plays = [play for play in plays if reasons[play.scene.name] is None]
    played = _Played()
    interrupted = False
    # Treat SIGTERM, for example from timeout(1), like Ctrl-C: print what was measured until then.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with asyncio.Runner(loop_factory=_LOOPS[options.loop]) as runner:
            runner.run(_run(options, plays, kits, played))
    except KeyboardInterrupt:
        interrupted = True
        _tell("interrupted: what follows is of the runs that had ended")
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in played.every], indent=2))
    else:
        print(played)
    return int(interrupted or any(outcome.problems for outcome in played.every))


if __name__ == "__main__":
    sys.exit(main())
