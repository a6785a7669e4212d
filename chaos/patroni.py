"""`python -m chaos.patroni`: measures what a change of leader costs under a real Patroni.

    make patroni                                          every fault, every driver, once
    make patroni ARGS="--runs 5 --fault switchover"       five runs of one, with medians
    make patroni ARGS="--driver psycopg3 --loop uvloop"
    make patroni ARGS="--hosts dsn --hosts rest"          the hosts in the DSN, and found by REST

One driver after the other has eight writers and eight readers on a cluster of three members with
synchronous replication (`testbed.patroni`). The columns, with times in milliseconds:

==========  ====================================================================================
no master   from the fault to the moment the new master itself says that it is writable (a process
            of its own asks it every 2 ms): Patroni's part
added       from that moment to the first write acknowledged through the pool manager
no writes   the longest time without an acknowledged write, and likewise for reads
failed      operations that raised, of all tasks
per task    the most failed operations of one task
lost        acknowledged rows that are not on the final leader
==========  ====================================================================================

The table gives the median of the runs and, after a bar, the worst. The exit code is 1 if a row was
lost, an operation hung, a task failed more than once, or the cluster did not become whole again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

import uvloop

from testbed.kits import KITS
from testbed.patroni import PatroniCluster, PatroniUnavailableError, Programs
from testbed.patroni_scenes import Fault, Hosts, perform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hasql.cli.report import Report

_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

_TASKS = 8

_COLUMNS = ("no master", "added", "no writes", "no reads", "failed", "per task", "lost")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="patroni", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", action="append", choices=[fault.value for fault in Fault])
    parser.add_argument("--driver", action="append", choices=[kit.name for kit in KITS])
    parser.add_argument("--hosts", action="append", choices=[hosts.value for hosts in Hosts])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--loop", choices=_LOOPS, default="asyncio")
    return parser.parse_args()


def _figures(report: Report) -> tuple[float | None, ...]:
    outage = report.outage
    return (
        None if outage is None else outage.without_master * 1000,
        None if outage is None else outage.added_by_hasql * 1000,
        report.longest_pause_in_writes * 1000,
        report.longest_pause_in_reads * 1000,
        report.failed,
        report.most_failures_of_one_task,
        report.rows.lost,
    )


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    middle, worst = median(known), max(known)
    return f"{middle:,.0f}" if len(known) == 1 else f"{middle:,.0f} / {worst:,.0f}"


def _wrong(report: Report) -> list[str]:
    wrong = list(report.problems)
    if report.most_failures_of_one_task > 1:
        wrong.append(f"{report.most_failures_of_one_task} failures of one task")
    return wrong


def main() -> int:
    """Run everything; return 1 if anything was wrong."""
    options = _options()
    faults = [Fault(value) for value in options.fault or Fault]
    kits = [kit for kit in KITS if not options.driver or kit.name in options.driver]
    # In turn, so that other load on the machine affects all of them alike.
    turns = [(kit, Hosts(hosts)) for kit in kits for hosts in options.hosts or [Hosts.DSN]]
    try:
        programs = Programs.find()
    except PatroniUnavailableError as error:
        sys.exit(f"patroni: {error}")
    results: dict[tuple[str, str], list[Report]] = defaultdict(list)
    with PatroniCluster(programs) as cluster:
        for fault in faults:
            for kit, hosts in turns * options.runs:
                with asyncio.Runner(loop_factory=_LOOPS[options.loop]) as runner:
                    reports = runner.run(perform(cluster, [kit], fault, _TASKS, hosts))
                report, name = reports[kit.name], f"{kit.name}, {hosts}"
                results[fault.value, name].append(report)
                for each in (*_wrong(report), *report.errors):
                    print(f"{fault.value}, {name}: {each}", file=sys.stderr, flush=True)
    print(f"{'':24} {'':24} ", *(f"{name:>15}" for name in _COLUMNS))
    for (fault_name, name), of_runs in results.items():
        columns = zip(*map(_figures, of_runs), strict=True)
        print(f"{fault_name:24} {name:24} ", *(f"{_cell(column):>15}" for column in columns))
    return any(_wrong(report) for of_runs in results.values() for report in of_runs)


if __name__ == "__main__":
    sys.exit(main())
