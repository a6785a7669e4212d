"""The arithmetic of a failover, from its clients' records. Times are monotonic seconds."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ("Aftermath", "Failed", "Notes", "Read", "Scene", "Written")


class Written(NamedTuple):
    """A row whose insert has returned, and the server that acknowledged it."""

    client: int
    number: int
    server: str
    began: float
    ended: float


class Read(NamedTuple):
    """A read that has returned, and the server that answered it."""

    client: int
    server: str
    began: float
    ended: float


class Failed(NamedTuple):
    """An operation that raised."""

    task: str
    error: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Notes:
    """The records of an application."""

    written: Sequence[Written]
    read: Sequence[Read]
    failed: Sequence[Failed]
    #: Tasks whose operation had not ended long after the end, and when the operation began.
    hung: Sequence[tuple[str, float]]
    #: Seconds that closing the manager took; None if it did not end.
    closed: float | None
    #: When each lease was broken, in a storm.
    broken: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """What happened to the servers."""

    struck: float
    ended: float
    #: The server that is the master at the end.
    master: str
    #: When that server said that it was a master; None if it was the master all the time.
    writable: float | None
    #: Client and number of the rows on that server.
    present: Collection[tuple[int, int]]
    #: Whether no row acknowledged before that may be missing there.
    lossless: bool


@dataclass(frozen=True, slots=True)
class Aftermath:
    """The cost of a failover. Durations are seconds."""

    #: From when the new master says that it accepts writes to the first write it acknowledges.
    added: float | None
    without_master: float
    failed: int
    most_failures_of_one_task: int
    #: The longest operation of those that ended after the fault.
    longest_hang: float
    #: Operations that never ended.
    hung: int
    #: Writes that another server acknowledged once the new master was one.
    wrong: int
    #: When the last of these was acknowledged, counted from that time.
    last_wrong: float
    #: Missing writes that the former master acknowledged before: replication is asynchronous.
    not_shipped: int
    #: Writes that are missing for any other reason.
    lost: int
    closed: float | None
    #: Leases broken per second: in the last second before the fault, and after the fault.
    broken_before: int
    broken_after: float

    @classmethod
    def of(cls, scene: Scene, notes: Notes) -> "Aftermath":
        """Compute the cost."""
        writable = scene.struck if scene.writable is None else scene.writable
        done: list[Written | Read | Failed] = [*notes.written, *notes.read, *notes.failed]
        hangs = [each.ended - each.began for each in done if each.ended > scene.struck]
        hangs += [scene.ended - began for _, began in notes.hung]
        per_task = Counter(each.task for each in notes.failed)
        wrong = [
            each for each in notes.written if each.server != scene.master and each.ended > writable
        ]
        lost = [each for each in notes.written if (each.client, each.number) not in scene.present]
        excused = 0 if scene.lossless else sum(each.ended <= writable for each in lost)
        return cls(
            added=_added(scene, notes),
            without_master=writable - scene.struck,
            failed=len(notes.failed),
            most_failures_of_one_task=max(per_task.values(), default=0),
            longest_hang=max(hangs, default=0.0),
            hung=len(notes.hung),
            wrong=len(wrong),
            last_wrong=max((each.ended - writable for each in wrong), default=0.0),
            not_shipped=excused,
            lost=len(lost) - excused,
            closed=notes.closed,
            broken_before=sum(scene.struck - 1 < each <= scene.struck for each in notes.broken),
            broken_after=sum(scene.struck < each <= scene.ended for each in notes.broken)
            / (scene.ended - scene.struck),
        )


def _added(scene: Scene, notes: Notes) -> float | None:
    if scene.writable is None:
        return None
    firsts = [
        each.ended
        for each in notes.written
        if each.server == scene.master and each.ended >= scene.writable
    ]
    return min(firsts) - scene.writable if firsts else float("inf")
