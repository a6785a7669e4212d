"""The report: the results of a demo, computed from the record of its run."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

__all__ = (
    "Acknowledged",
    "ErrorCount",
    "Event",
    "FailedOperation",
    "MovedName",
    "NameMove",
    "Outage",
    "Report",
    "Rows",
    "RunRecord",
    "TimedFailure",
)

_LATE = 1.0
"""Seconds beyond the TTL for which an old address may still be used, on a busy machine."""


class Acknowledged(NamedTuple):
    """A row whose insert has returned."""

    client: int
    sequence: int
    #: When it returned, in monotonic seconds.
    at: float
    #: The address of the server that wrote it, if that matters.
    address: str = ""


class FailedOperation(NamedTuple):
    """An operation that raised; times are monotonic seconds."""

    task: str
    error: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Event:
    """One step of the scenario, `at` seconds after the load began (negative if before it)."""

    at: float
    what: str


class NameMove(NamedTuple):
    """The move of a host's name from one address to another, at `at` in monotonic seconds."""

    name: str
    left: str
    to: str
    #: Seconds for which a client that has looked the name up may go on using the old address.
    ttl: int
    at: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The record of a run. All times are seconds of the same monotonic clock."""

    fault: str
    postgresql: str
    #: True if no acknowledged row may be missing, because the master was stopped cleanly or not at
    #: all.
    lossless: bool
    began: float
    ended: float
    struck: float
    #: When the new master began to accept writes; None if the master stayed the same.
    writable: float | None
    #: When all three hosts served again; None if they did not.
    whole: float | None
    acknowledged: Sequence[Acknowledged]
    reads: Sequence[tuple[float, float]]
    failed: Sequence[FailedOperation]
    hung: int
    #: Client and sequence of every row on the last master.
    present: Collection[tuple[int, int]]
    #: How long each acquire that had to wait has waited, and how many attempts of acquires failed.
    waits: Sequence[float] = ()
    retries: int = 0
    events: Sequence[Event] = ()
    #: The move of the master's name, if it has moved.
    move: NameMove | None = None
    #: The face of hasql that the application used: ``async`` or ``sync``.
    face: str = "async"


@dataclass(frozen=True, slots=True)
class Outage:
    """How many seconds nothing was written, and what caused them."""

    #: From the last write acknowledged before the fault to the first one after it.
    without_writes: float
    #: From the fault to the moment when the new master itself said that it accepts writes.
    without_master: float
    #: From that moment to the first write acknowledged through the pool manager.
    added_by_hasql: float


@dataclass(frozen=True, slots=True)
class MovedName:
    """How many seconds the old address of a moved name was used."""

    name: str
    left: str
    to: str
    ttl: int
    #: From the move to the last write by the old address (0 if there was none), and from the move
    #: to the first write by the new one (None if there was none).
    old_for: float
    new_after: float | None


@dataclass(frozen=True, slots=True)
class Rows:
    """Acknowledged rows, looked for on the last master."""

    acknowledged: int
    present: int
    #: Missing because the old master, which had acknowledged them, died before it shipped them.
    not_shipped: int
    #: Missing for any other reason.
    lost: int


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """How often operations of one kind failed with one error."""

    operation: str
    error: str
    count: int


@dataclass(frozen=True, slots=True)
class TimedFailure:
    """A failed operation; `began` and `ended` are seconds after the fault."""

    task: str
    error: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one demo. Durations are seconds."""

    fault: str
    postgresql: str
    load_seconds: float
    writes: int
    reads: int
    #: None if the fault did not take the master away, or if no write followed.
    outage: Outage | None
    #: None if no name has moved.
    moved: MovedName | None
    #: The longest time after the fault in which no read ended, and in which no write ended.
    longest_pause_in_reads: float
    longest_pause_in_writes: float
    slowest_read: float
    #: From the fault until every host served again; None if that did not happen.
    whole_again_after: float | None
    failed: int
    most_failures_of_one_task: int
    hung: int
    errors: tuple[ErrorCount, ...]
    failures: tuple[TimedFailure, ...]
    rows: Rows
    #: The acquires that had to wait for a connection or a host, the longest such wait, and the
    #: failed attempts. The application saw all of these as time, not as errors.
    waits: int
    longest_wait: float
    retries: int
    #: Why the demo has not shown what it should; empty if it has.
    problems: tuple[str, ...] = field(default=())
    events: tuple[Event, ...] = field(default=())
    #: The face of hasql that the application used: ``async`` or ``sync``.
    face: str = "async"

    @classmethod
    def of(cls, evidence: RunRecord) -> "Report":
        """Compute the report of a run from its record."""
        struck = evidence.struck
        failures = tuple(
            TimedFailure(each.task, each.error, each.began - struck, each.ended - struck)
            for each in evidence.failed
        )
        per_task = Counter(each.task for each in failures)
        writes = [row.at for row in evidence.acknowledged]
        outage, moved, rows = _outage(evidence), _moved(evidence), _rows(evidence)
        return cls(
            fault=evidence.fault,
            postgresql=evidence.postgresql,
            load_seconds=evidence.ended - evidence.began,
            writes=len(writes),
            reads=len(evidence.reads),
            outage=outage,
            moved=moved,
            longest_pause_in_reads=_longest_pause(evidence, (end for _, end in evidence.reads)),
            longest_pause_in_writes=_longest_pause(evidence, writes),
            slowest_read=max((end - began for began, end in evidence.reads), default=0.0),
            whole_again_after=None if evidence.whole is None else evidence.whole - struck,
            failed=len(failures),
            most_failures_of_one_task=max(per_task.values(), default=0),
            hung=evidence.hung,
            errors=_count(failures),
            failures=failures,
            rows=rows,
            waits=len(evidence.waits),
            longest_wait=max(evidence.waits, default=0.0),
            retries=evidence.retries,
            problems=(*_problems(evidence, outage, rows), *_problems_of_move(moved)),
            events=tuple(evidence.events),
            face=evidence.face,
        )

    @property
    def ok(self) -> bool:
        """Whether service came back, and no row is missing that hasql could have preserved."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the report as values that `json.dumps` accepts."""
        return {"ok": self.ok, **asdict(self)}


def _outage(evidence: RunRecord) -> Outage | None:
    if evidence.writable is None:
        return None
    before = [row.at for row in evidence.acknowledged if row.at < evidence.writable]
    after = [row.at for row in evidence.acknowledged if row.at >= evidence.writable]
    if not before or not after:
        return None
    return Outage(
        without_writes=min(after) - max(before),
        without_master=evidence.writable - evidence.struck,
        added_by_hasql=min(after) - evidence.writable,
    )


def _moved(evidence: RunRecord) -> MovedName | None:
    move = evidence.move
    if move is None:
        return None
    since = [(row.at - move.at, row.address) for row in evidence.acknowledged if row.at > move.at]
    return MovedName(
        name=move.name,
        left=move.left,
        to=move.to,
        ttl=move.ttl,
        old_for=max((after for after, address in since if address == move.left), default=0.0),
        new_after=min((after for after, address in since if address == move.to), default=None),
    )


def _rows(evidence: RunRecord) -> Rows:
    present = set(evidence.present)
    missing = [row for row in evidence.acknowledged if (row.client, row.sequence) not in present]
    # Until the new master accepted writes, only the old one can have acknowledged rows. After that,
    # hasql must prevent writes to any server but the new master, so a missing row has no excuse.
    excused = evidence.writable if not evidence.lossless else None
    not_shipped = sum(1 for row in missing if excused is not None and row.at < excused)
    return Rows(
        acknowledged=len(evidence.acknowledged),
        present=len(evidence.acknowledged) - len(missing),
        not_shipped=not_shipped,
        lost=len(missing) - not_shipped,
    )


def _problems(evidence: RunRecord, outage: Outage | None, rows: Rows) -> Iterable[str]:
    if rows.lost:
        yield f"{rows.lost} acknowledged rows are lost"
    if evidence.writable is not None and outage is None:
        yield "no write was acknowledged after the fault"
    if not any(row.at > evidence.struck for row in evidence.acknowledged):
        yield "writing did not resume"
    if not any(end > evidence.struck for _, end in evidence.reads):
        yield "reading did not resume"
    if evidence.whole is None:
        yield "the cluster was not whole again: one master and two replicas in routing"
    if evidence.hung:
        yield f"{evidence.hung} operations hung"


def _problems_of_move(moved: MovedName | None) -> Iterable[str]:
    if moved is None:
        return
    if moved.new_after is None:
        yield f"no write was made through the new address of {moved.name}"
    if moved.old_for > moved.ttl + _LATE:
        yield f"the address that {moved.name} had left was used for {moved.old_for:.1f} s more"


def _longest_pause(evidence: RunRecord, ends: Iterable[float]) -> float:
    moments = [evidence.struck, *sorted(end for end in ends if end > evidence.struck)]
    moments.append(max(evidence.ended, evidence.struck))
    return max(later - earlier for earlier, later in pairwise(moments))


def _count(failures: Iterable[TimedFailure]) -> tuple[ErrorCount, ...]:
    counts = Counter((each.task.partition(" ")[0], each.error) for each in failures)
    names = {"writer": "write", "reader": "read"}
    return tuple(
        ErrorCount(names.get(task, task), error, count)
        for (task, error), count in counts.most_common()
    )
