"""Measures what acquire and release add to the driver's own pool, here and in the published hasql.

    make bench ARGS="acquire --rounds 60"
    python benchmarks/acquire.py [--peer .venv-peer/bin/python] [--rounds 60] [--save FILE]

For each driver and event loop, a process with this hasql and one with the published hasql (the
peer) take turns on the same servers. In each round each process runs a lap with the driver's pool
alone and a lap through hasql, of a few milliseconds each; which goes first changes from round to
round.

If the server takes part in what is measured, all connections are opened anew several times: two
pools that differ only in their connections differ by up to a fifth, depending on which processor
the kernel has given to each session's process.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from laps import Lap, added, share_of_added, times_bare

from hasql.testing import LocalCluster

__all__ = ("Case", "Stable", "main")

_HEAD = """
Two figures each: the median over the rounds, and the ratio of the shortest laps. `times bare` is
acquire and release through hasql over the same with the driver's pool; `of the peer's` is what
ours adds to it over what the peer adds.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of lap."""

    tasks: int
    size: int
    select: bool
    reset: bool
    replica: bool = False

    def __str__(self) -> str:
        words = [f"{self.tasks} of {self.size}", "SELECT 1" if self.select else "empty"]
        words += [] if self.reset else ["no reset"]
        words += ["replica"] if self.replica else []
        return ", ".join(words)

    @property
    def openings(self) -> int:
        """How many times the connections are opened anew."""
        return 5 if self.select or self.reset else 1

    @property
    def operations(self) -> int:
        """The number of operations in a lap, which should last some milliseconds."""
        return 100 if self.select or self.reset else 200


def cases(driver: str) -> Iterator[Case]:
    """Yield the cases to measure for a driver."""
    resets = (True,) if driver == "psycopg3" else (False, True)
    for reset in resets:
        for select in (False, True):
            for tasks, size in ((1, 10), (50, 50), (50, 10)):
                yield Case(tasks, size, select, reset)
    yield Case(1, 10, select=False, reset=resets[0], replica=True)


class Stable:
    """A process that runs laps."""

    def __init__(self, python: str, driver: str, loop: str) -> None:
        # The peer's environment must not contain anything of ours.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("lap.py")), driver, loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.version = self._answer()

    def do(self, order: str, argument: object = None) -> Any:
        """Give an order and return the answer."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        print(json.dumps({order: argument}), file=self._process.stdin, flush=True)
        return self._answer()

    def lap(self, first: str) -> Lap:
        """Run one lap of each kind."""
        times = self.do("lap", first)
        return Lap(times["bare"] / 1e9, times["managed"] / 1e9)

    def end(self) -> None:
        """End the process."""
        self._process.communicate(timeout=20)

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a process that measures has ended: see above")
        return json.loads(line)


@contextmanager
def stables(pythons: dict[str, str], driver: str, loop: str) -> Iterator[dict[str, Stable]]:
    """Start a process for each environment."""
    with ExitStack() as stack:
        started = {}
        for name, python in pythons.items():
            started[name] = Stable(python, driver, loop)
            stack.callback(started[name].end)
        yield started


def race(
    stables: dict[str, Stable], cluster: LocalCluster, case: Case, rounds: int, clock: str
) -> dict[str, list[Lap]]:
    """Run all rounds of one case and return each process's laps."""
    master, *replicas = cluster.nodes
    hosts = {"dsn": cluster.dsn, "replicas": len(replicas), "operations": case.operations}
    hosts["clock"] = clock
    hosts["host"] = (replicas[0] if case.replica else master).dsn
    laps: dict[str, list[Lap]] = {name: [] for name in stables}
    for opening in range(case.openings):
        for stable in stables.values():
            stable.do("open", asdict(case) | hosts)
        for number in range(opening, rounds, case.openings):
            first = "bare" if number % 2 else "managed"
            for name in sorted(stables, reverse=number % 4 > 1):
                laps[name].append(stables[name].lap(first))
        for stable in stables.values():
            stable.do("shut")
    return laps


def report(case: Case, laps: dict[str, list[Lap]]) -> dict[str, Any]:
    """Compute the results of a case."""
    result: dict[str, Any] = {"bare_us": min(lap.bare for lap in laps["ours"]) * 1e6}
    for name, each in laps.items():
        result[name] = asdict(times_bare(each)) | {"added_us": added(each) * 1e6}
    if "peer" in laps and not case.select:  # else the added time is below the noise
        result["share"] = asdict(share_of_added(laps["ours"], laps["peer"]))
    return result


def _line(case: Case, result: dict[str, Any]) -> str:
    def pair(ratio: dict[str, float] | None) -> str:
        return "" if ratio is None else f"{ratio['median']:7.2f} {ratio['of_minima']:6.2f}"

    shown = [pair(result.get(name)) for name in ("ours", "peer", "share")]
    return f"  {case!s:34} {result['bare_us']:7.1f} " + " ".join(f"{each:>15}" for each in shown)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peer", metavar="PYTHON", help="that of the published hasql")
    parser.add_argument("--driver", action="append", choices=("asyncpg", "psycopg3", "sqlalchemy"))
    parser.add_argument("--loop", action="append", choices=("asyncio", "uvloop"))
    parser.add_argument("--case", help="only those whose names contain this")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: of the process alone, for cases without statements on a busy machine",
    )
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    pythons = {"ours": sys.executable} | ({"peer": options.peer} if options.peer else {})
    results = []
    print(_HEAD)
    # Fifty connections for each of four pools, and the managers' reserved connections.
    with LocalCluster(settings={"max_connections": "300"}) as cluster:
        for driver in options.driver or ("asyncpg", "psycopg3", "sqlalchemy"):
            for loop in options.loop or ("asyncio", "uvloop"):
                with stables(pythons, driver, loop) as running:
                    versions = {name: stable.version for name, stable in running.items()}
                    print(f"{driver}, {loop}; hasql {versions}")
                    heads = "bare, us", "ours times bare", "peer times bare", "of the peer's"
                    print(f"  {'tasks of connections':34}", *(f"{head:>15}" for head in heads))
                    for case in cases(driver):
                        if options.case and options.case not in str(case):
                            continue
                        result = report(
                            case, race(running, cluster, case, options.rounds, options.clock)
                        )
                        print(_line(case, result), flush=True)
                        results.append(
                            {"driver": driver, "loop": loop, "case": str(case), **result}
                        )
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
