"""The verdict: the measurements of a run, and what was wrong with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from chaos.application import Acknowledged, Application, Operation
    from chaos.scenarios import Scenario
    from chaos.stage import Stage

__all__ = ("Aftermath", "Outcome", "judge")

_STALE_FOR = 0.5
"""Seconds after a promotion during which a lease of a replica may be on the new master."""

_LATE = 1.0
"""Seconds by which a busy machine may miss the bounds for an idle one."""

_CROWDED = 1.0
"""Further seconds if applications of several drivers share the machine and the interpreter."""

_GROWTH = 300
"""How many objects per application the means of two stretches may differ by, because sessions and
tasks come and go."""

_STRETCH = 10
"""The least number of counts that a mean is made of."""

_READ_ONLY = "read-only transaction"
"""PostgreSQL's message for a write on a replica (SQLSTATE 25006)."""


@dataclass(frozen=True, slots=True)
class Aftermath:
    """The state after the load has ended."""

    #: Client and number of every row on the final master.
    present: set[tuple[int, int]]
    #: What was wrong.
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run with one driver. Durations are seconds; None if there was no promotion."""

    scenario: str
    driver: str
    #: What the operations use: leases, units of work with `run`, or sessions that do the same.
    uses: str
    #: The name of the event loop, or threads.
    loop: str
    writes: int
    reads: int
    without_master: float | None
    added: float | None
    failed: int
    failed_of_one_task: int
    #: The same for operations that began during the repair of the cluster, or later.
    failed_mending: int
    #: The longest write and the longest read that the fault may have delayed.
    hang: float
    read_hang: float
    #: Writes that a server other than the new master acknowledged after the new master had been
    #: asked to become one, and how long after the visible promotion the last of them came.
    wrong: int
    wrong_for: float
    #: Writes acknowledged before that which are missing.
    lost: int
    #: Leases of a replica that were on the new master, and how long after its promotion the last
    #: one was.
    stale: int
    stale_for: float
    closing: float
    #: For units of work: how often one was tried again, the commits whose answer was lost and whose
    #: outcome was found out, and those that raised CommitUnknownError.
    retried: int = 0
    found: int = 0
    unknown: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def judge(
    scenario: Scenario, stage: Stage, application: Application, aftermath: Aftermath
) -> Outcome:
    """Compute the outcome."""
    assert stage.struck is not None
    acknowledged, operations = application.acknowledged, application.operations
    failures = [each for each in operations if each.error is not None]
    missing = [row for row in acknowledged if row[:2] not in aftermath.present]
    asked, writable = stage.asked or float("inf"), stage.writable
    runs = application.manager.metrics().runs
    wrong = [row.at for row in missing if row.at >= asked]
    stale = [
        read.at
        for read in application.reads
        if not read.in_recovery and read.port == stage.master.port
    ]
    outcome = Outcome(
        scenario=scenario.name,
        driver=application.kit.name,
        uses=application.uses,
        loop=application.workers.kind,
        writes=len(acknowledged),
        reads=len(application.reads),
        without_master=None if writable is None else writable - stage.struck,
        added=None if writable is None else _added(acknowledged, aftermath.present, writable),
        failed=len(failures),
        failed_of_one_task=_most_of_one_task(x for x in failures if x.began < stage.played),
        failed_mending=_most_of_one_task(x for x in failures if x.began >= stage.played),
        hang=_longest(operations, "writer", stage),
        read_hang=_longest(operations, "reader", stage),
        wrong=len(wrong),
        wrong_for=max(wrong, default=0.0) - (writable or 0.0) if wrong else 0.0,
        lost=len(missing) - len(wrong),
        stale=len(stale),
        stale_for=max(stale) - writable if stale and writable is not None else 0.0,
        closing=application.closing,
        retried=runs.retries_infrastructure + runs.retries_overload + runs.retries_conflict,
        found=runs.commits_found,
        unknown=runs.commits_unknown,
        errors=dict(Counter(f"{x.task.partition(' ')[0]}: {x.error}" for x in failures)),
    )
    problems = (*_problems(outcome, scenario, stage, application), *aftermath.problems)
    return replace(outcome, problems=problems)


def _added(
    acknowledged: Iterable[Acknowledged], present: set[tuple[int, int]], writable: float
) -> float | None:
    """Return the time to the first write that the new master has acknowledged."""
    after = [row.at for row in acknowledged if row.at >= writable and row[:2] in present]
    return min(after) - writable if after else None


def _most_of_one_task(operations: Iterable[Operation]) -> int:
    return max(Counter(each.task for each in operations).values(), default=0)


def _longest(operations: Iterable[Operation], kind: str, stage: Stage) -> float:
    # Leave out operations that began during the repair, when replicas are restarted in turn.
    assert stage.struck is not None
    return max(
        (
            each.ended - each.began
            for each in operations
            if each.ended > stage.struck
            and each.began < stage.played
            and each.task.startswith(kind)
        ),
        default=0.0,
    )


def _problems(
    outcome: Outcome, scenario: Scenario, stage: Stage, application: Application
) -> Iterable[str]:
    # The short form, which also has several applications, has a light load.
    late = _CROWDED if len(stage.applications) > 1 and not stage.short else 0.0
    yield from _wrong_servers(outcome, scenario, stage, late)
    longest = max((each.ended - each.began for each in application.operations), default=0.0)
    if longest > application.longest or application.stuck:
        yield f"{application.stuck} operations did not end, the longest other took {longest:.1f} s"
    if outcome.failed_of_one_task > stage.faults:
        yield (
            f"a task failed {outcome.failed_of_one_task} times at {stage.faults} faults: "
            f"{outcome.errors}"
        )
    if outcome.failed_mending > len(stage.cluster.nodes):  # each node is restarted once
        yield f"a task failed {outcome.failed_mending} times in the mending: {outcome.errors}"
    if _grow(stage.objects, _GROWTH * len(stage.applications)):
        yield f"memory grew: objects from one fault to the next were {stage.objects}"
    last = stage.writable or stage.struck or 0.0
    if not any(row.at > last for row in application.acknowledged):
        yield "writing did not go on"
    if scenario.load.readers and not any(read.at > last for read in application.reads):
        yield "reading did not go on"


def _grow(counts: Sequence[int], allowed: int) -> bool:
    """Tell whether the last third of the counts is above the middle third, if there are enough.

    In the first third, caches and histories fill; a leak goes on.
    """
    third = len(counts) // 3
    return third >= _STRETCH and mean(counts[-third:]) > mean(counts[third:-third]) + allowed


def _wrong_servers(
    outcome: Outcome, scenario: Scenario, stage: Stage, late: float
) -> Iterable[str]:
    if outcome.lost:
        yield f"{outcome.lost} acknowledged rows are missing"
    if outcome.wrong and not scenario.splits:
        yield f"{outcome.wrong} writes were acknowledged by a deposed master"
    if outcome.wrong_for > scenario.wrong_for + _LATE + late:
        yield f"a deposed master acknowledged writes {outcome.wrong_for:.3f} s after its fall"
    if any(_READ_ONLY in error for error in outcome.errors):
        yield "a lease of a master was on a replica"
    if outcome.stale and stage.writable is None:
        yield "a lease of a replica was on the master"
    # The short form runs while other tests run.
    if outcome.stale_for > _STALE_FOR + (_LATE if stage.short else late):
        yield f"leases of a replica were on the new master for {outcome.stale_for:.3f} s"
