"""A failover under a web application and its real server, with HTTP load.

    make web                                                    every application once
    make web ARGS="--app fastapi --runs 5 --seconds 20"         five runs of one, with medians
    make web ARGS="--list"                                      list the applications

Clients send HTTP requests to an application of `testbed.web.apps`, half of them for writes and half
for reads on a replica, while the master is killed and a replica promoted. The table has the median
of the runs and, after a bar, the worst; times are milliseconds:

============  ==================================================================================
requests      requests that succeeded
failed        requests that did not
last failed   when the last failed request began, after the fault; if negative, before the fault
no master     from the fault until the new master says that it is writable
added         from that moment to the first write that was acknowledged over HTTP
hang          the longest write and, after a comma, the longest read
close         from SIGTERM to the server's end
lost          acknowledged writes that are missing
============  ==================================================================================

Problems are listed below the table: requests that failed although they began when the fault should
have been noticed, sessions that the server has left behind, missing acknowledged writes (commits
wait for a replica here), and an added time beyond the goal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import defaultdict
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING

from chaos.stage import set_synchronous
from chaos.table import lay_out
from hasql.testing import LocalCluster
from testbed.web.apps import WEB_APPS
from testbed.web.failover import WebOutcome, play_failover

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_GOAL = 0.06
"""The most seconds for the median of the added time; the worst may be three times as much."""

_HEAD = (
    *("app", "runs", "requests", "failed", "last failed", "no master", "added", "hang", "close"),
    "lost",
)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chaos.web",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--app", action="append", choices=WEB_APPS, metavar="NAME")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, in each run")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--list", action="store_true", help="name the applications")
    return parser.parse_args()


async def _play(options: argparse.Namespace) -> list[WebOutcome]:
    outcomes = []
    async with LocalCluster(synchronous=True) as cluster:
        for name in options.app or WEB_APPS:
            for run in range(1, options.runs + 1):
                print(f"{name}, run {run}", file=sys.stderr, flush=True)
                await asyncio.to_thread(cluster.heal)
                for node in cluster.nodes:
                    await set_synchronous(node, "ANY 1 (*)" if node is cluster.master else "")
                half = options.seconds / 2
                outcome = await play_failover(WEB_APPS[name], cluster, before=half, after=half)
                if outcome.lost:
                    outcome.problems.append(f"{outcome.lost} acknowledged writes are missing")
                for problem in outcome.problems:
                    print(f"    {problem}", file=sys.stderr, flush=True)
                outcomes.append(outcome)
    return outcomes


def table(outcomes: Sequence[WebOutcome]) -> str:
    """Lay the outcomes out, with problems and missed goals below."""
    groups: dict[str, list[WebOutcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.app].append(outcome)
    lines = lay_out([_HEAD, *(_row(group) for group in groups.values())])
    notes = [f"{name}: {said}" for name, group in groups.items() for said in problems(group)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def problems(group: Sequence[WebOutcome]) -> list[str]:
    """Return the problems in several runs of one application."""
    found = list(dict.fromkeys(x for each in group for x in each.problems))
    added = [each.added for each in group]
    if median(added) > _GOAL or max(added) > 3 * _GOAL:
        found.append(f"added is {_times(added)} ms; the goal is {_GOAL * 1000:.0f} ms")
    return found


def _row(group: Sequence[WebOutcome]) -> tuple[str, ...]:
    return (
        group[0].app,
        str(len(group)),
        f"{sum(each.requests for each in group):,}",
        f"{median(each.failed for each in group):g} | {max(each.failed for each in group)}",
        _times(each.last_failed for each in group if each.last_failed is not None),
        _times(each.without_master for each in group),
        _times(each.added for each in group),
        ", ".join(_times(x) for x in zip(*((e.hang, e.read_hang) for e in group), strict=True)),
        _times(each.closing for each in group),
        str(sum(each.lost for each in group)),
    )


def _times(seconds: Iterable[float]) -> str:
    known = [each * 1000 for each in seconds]
    return f"{median(known):,.0f} | {max(known):,.0f}" if known else "-"


def main() -> int:
    """Run everything; return 1 if anything was wrong."""
    options = _options()
    if options.list:
        for app in WEB_APPS.values():
            print(f"{app.name:15} {' '.join(app.command)}")
        return 0
    outcomes = asyncio.run(_play(options))
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        print(table(outcomes))
    names = {outcome.app for outcome in outcomes}
    return int(any(problems([x for x in outcomes if x.app == name]) for name in names))


if __name__ == "__main__":
    sys.exit(main())
