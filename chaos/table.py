"""The tables: medians of the runs, and beside each the worst value."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from chaos.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.commits import CommitOutcome
    from chaos.lease_verdict import LeaseOutcome
    from chaos.name_verdict import NameOutcome
    from chaos.soak import SoakOutcome
    from chaos.storm import StormOutcome
    from chaos.verdict import Outcome

__all__ = (
    "commit_table",
    "lay_out",
    "lease_table",
    "name_table",
    "run_table",
    "soak_table",
    "storm_table",
    "table",
)

_HEAD = (
    *("fault", "driver", "runs", "added", "no master", "failed", "per task"),
    *("hang", "read hang", "wrong", "lost", "stale", "close"),
)

_LEASE_HEAD = (
    *("passage", "driver", "leases", "changes", "on standby", "on replaced"),
    *("not replica", "failed", "hang"),
)

_NAME_HEAD = (
    *("names", "driver", "leases", "moves", "old for", "overdue", "renewed"),
    *("added", "of slowest", "failed", "lost", "hang"),
)

_COMMIT_HEAD = ("commits", "driver", "moments", "done", "found", "unknown", "longest")

_RUN_HEAD = (
    *("fault", "driver", "by", "runs", "done", "retried", "found", "unknown", "failed"),
    *("added", "longest", "of reads"),
)

_STORM_HEAD = (
    *("storm", "driver", "leases", "acquires", "changes", "refused", "failed", "longest"),
    *("late", "waits", "per second"),
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Lay the outcomes out, with problems and missed goals below."""
    if not outcomes:
        return ""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.scenario, outcome.driver].append(outcome)
    lines = lay_out([_HEAD, *(_row(group) for group in groups.values())])
    notes = []
    for (scenario, driver), group in groups.items():
        said = [*_missed(group), *dict.fromkeys(x for each in group for x in each.problems)]
        notes += [f"{scenario}, {driver}: {text}" for text in said]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def run_table(outcomes: Sequence[Outcome]) -> str:
    """Do the same for units of work, with one line for all runs of a fault; they have no goals."""
    if not outcomes:
        return ""
    groups: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.scenario, outcome.driver, outcome.uses].append(outcome)
    rows = [
        (
            *(*names, str(len(group)), f"{sum(x.writes + x.reads for x in group):,}"),
            *(str(sum(x.retried for x in group)), str(sum(x.found for x in group))),
            str(sum(x.unknown for x in group)),
            str(sum(x.failed - x.unknown for x in group)),
            *(_times([x.added for x in group]), _times([x.hang for x in group])),
            _times([x.read_hang for x in group]),
        )
        for names, group in groups.items()
    ]
    notes = [f"{each.scenario}, {each.driver}: {x}" for each in outcomes for x in each.problems]
    return "\n".join([*lay_out([_RUN_HEAD, *rows]), *([""] if notes else []), *notes])


def lease_table(outcomes: Sequence[LeaseOutcome]) -> str:
    """Do the same for leases behind middle men, with a line for each run."""
    if not outcomes:
        return ""
    rows = [
        (
            *(each.scenario, each.driver),
            *map(str, (each.leases, each.changes, each.on_standby, each.on_replaced)),
            *map(str, (each.not_replica, each.failed)),
            f"{each.hang * 1000:,.0f}",
        )
        for each in outcomes
    ]
    notes = [f"{each.scenario}, {each.driver}: {x}" for each in outcomes for x in each.problems]
    return "\n".join([*lay_out([_LEASE_HEAD, *rows]), *([""] if notes else []), *notes])


def name_table(outcomes: Sequence[NameOutcome]) -> str:
    """Do the same for names that move, with a line for each run."""
    if not outcomes:
        return ""
    rows = [
        (
            *(each.scenario, each.driver, str(each.leases), str(each.moves)),
            *map(_times, ([each.old_for], [each.overdue])),
            "-" if each.renewed is None else str(each.renewed),
            *map(_microseconds, (each.added, each.added_of_slowest)),
            *map(str, (each.failed, each.lost)),
            f"{each.hang * 1000:,.0f}",
        )
        for each in outcomes
    ]
    notes = [f"{each.scenario}, {each.driver}: {x}" for each in outcomes for x in each.problems]
    return "\n".join([*lay_out([_NAME_HEAD, *rows]), *([""] if notes else []), *notes])


def storm_table(outcomes: Sequence[StormOutcome]) -> str:
    """Do the same for storms, with a line for each run."""
    if not outcomes:
        return ""
    rows = [
        (
            *(each.scenario, each.driver),
            *map(str, (each.leases, each.acquires, each.changes, each.refused, each.failed)),
            *map(_times, ([each.longest], [each.late])),
            *(str(each.waits), f"{each.rate:,.0f}"),
        )
        for each in outcomes
    ]
    told = [(each, x) for each in outcomes for x in (*each.problems, each.refusal) if x]
    notes = [f"{each.scenario}, {each.driver}: {x}" for each, x in told]
    return "\n".join([*lay_out([_STORM_HEAD, *rows]), *([""] if notes else []), *notes])


def commit_table(outcomes: Sequence[CommitOutcome]) -> str:
    """Do the same for the outcomes of commits, with a line for each run."""
    if not outcomes:
        return ""
    rows = [
        (
            *(each.scenario, each.driver),
            *map(str, (each.moments, each.done, each.found, each.unknown)),
            _times([each.longest]),
        )
        for each in outcomes
    ]
    notes = [f"{each.scenario}, {each.driver}: {x}" for each in outcomes for x in each.problems]
    return "\n".join([*lay_out([_COMMIT_HEAD, *rows]), *([""] if notes else []), *notes])


def lay_out(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lay rows out in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(x, widths, strict=True)) for x in rows
    ]


def _row(group: list[Outcome]) -> tuple[str, ...]:
    return (
        group[0].scenario,
        group[0].driver,
        str(len(group)),
        _times([each.added for each in group]),
        _times([each.without_master for each in group]),
        _counts([each.failed for each in group]),
        _counts([each.failed_of_one_task for each in group]),
        _times([each.hang for each in group]),
        _times([each.read_hang for each in group]),
        _counts([each.wrong for each in group]),
        _counts([each.lost for each in group]),
        _counts([each.stale for each in group]),
        _times([each.closing for each in group]),
    )


def _times(seconds: Sequence[float | None]) -> str:
    known = [each * 1000 for each in seconds if each is not None]
    if not known:
        return "-"
    if len(known) == 1:
        return f"{known[0]:,.0f}"
    return f"{median(known):,.0f} | {max(known):,.0f}"


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:+,.0f} us"


def _counts(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    return f"{median(numbers):g} | {max(numbers)}"


def _missed(group: list[Outcome]) -> list[str]:
    """Return the goals that the median misses, or that the worst misses threefold."""
    scenario = SCENARIOS[group[0].scenario]
    goal = scenario.goal
    measured = (
        ("added", goal.added, [each.added for each in group]),
        ("hang", goal.hang, [each.hang - (each.without_master or 0.0) for each in group]),
        ("wrong for", scenario.wrong_for, [each.wrong_for for each in group]),
        ("read hang", goal.read_hang, [each.read_hang for each in group]),
    )
    missed = []
    for name, limit, values in measured:
        known = [each for each in values if each is not None]
        if limit is None or not known:
            continue
        if median(known) > limit or max(known) > 3 * limit:
            missed.append(
                f"{name} is {median(known) * 1000:.0f} ms, worst {max(known) * 1000:.0f} ms; "
                f"the goal is {limit * 1000:.0f} ms"
            )
    return missed


_SOAK_HEAD = (
    *("soak", "driver", "leases", "seconds", "refused", "failed", "overdue", "changes"),
    *("objects", "MB", "sessions"),
)


def soak_table(outcomes: Sequence[SoakOutcome]) -> str:
    """Do the same for soaks, with the memory after the second part and after the last."""
    if not outcomes:
        return ""
    rows = [
        (
            *(each.scenario, each.driver, f"{each.leases:,}", f"{each.seconds:,.0f}"),
            *map(str, (each.refused, each.failed, each.overdue, each.changes)),
            " → ".join(f"{count:,}" for count in each.objects[1 :: max(1, len(each.objects) - 2)]),
            " → ".join(
                f"{size:,.0f}" for size in each.megabytes[1 :: max(1, len(each.megabytes) - 2)]
            ),
            str(each.sessions),
        )
        for each in outcomes
    ]
    notes = [f"{each.scenario}, {each.driver}: {x}" for each in outcomes for x in each.problems]
    return "\n".join([*lay_out([_SOAK_HEAD, *rows]), *([""] if notes else []), *notes])


def _first_and_last(sizes: Sequence[float]) -> str:
    return " → ".join(f"{size:,.0f}" for size in (*sizes[:1], *sizes[-1:]))
