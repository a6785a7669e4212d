"""Judges leases: compares each with which server was the master at that time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from chaos.application import LONGEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chaos.lease_load import Lease, LeaseLoad
    from chaos.passages import Passage

__all__ = ("LATE", "Event", "History", "LeaseOutcome", "Reign", "is_stale", "judge")

LATE = 0.5
"""Seconds by which a busy machine may miss a bound: all drivers run at the same time here."""


class Reign(NamedTuple):
    """The time during which a lease of a master may be on a server."""

    port: int
    begin: float
    end: float = float("inf")


class Event(NamedTuple):
    """An action on the servers, or on the names and poolers that lead to them."""

    at: float
    what: str
    #: Whether names or poolers were pointed elsewhere.
    moved: bool


@dataclass(slots=True)
class History:
    """The true states of a scene's servers, recorded as they change."""

    reigns: list[Reign]
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LeaseOutcome:
    """The outcome for one driver."""

    scenario: str
    driver: str
    #: Leases of a master, and changes of master.
    leases: int
    changes: int
    #: Leases of a master that were on a standby, and on a replaced master; leases of a replica that
    #: were on a master.
    on_standby: int
    on_replaced: int
    not_replica: int
    #: Operations that raised, and how long the longest of all took, in seconds.
    failed: int
    hang: float
    errors: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def judge(
    scenario: str, load: LeaseLoad, history: History, passage: Passage, wanted: int
) -> LeaseOutcome:
    """Return the outcome for a driver of which `wanted` leases of a master were expected."""
    standbys: list[Lease] = []
    replaced: list[Lease] = []
    masters: list[Lease] = []
    known: set[tuple[int, int]] = set()
    for lease in load.leases:
        if lease.read_only:
            late = is_stale(lease, history.reigns, passage.stale_for + LATE)
            if late and (not passage.keeps_readers or (lease.port, lease.pid) in known):
                masters.append(lease)
            if not lease.in_recovery:
                known.add((lease.port, lease.pid))
        elif not _is_right(lease, history, passage):
            (standbys if lease.in_recovery else replaced).append(lease)
    problems = [
        *_tell("of a master on a standby", standbys, history.events),
        *_tell("of a master on a replaced one", replaced, history.events),
        *_tell("of a replica on a master", masters, history.events),
    ]
    last = max(event.at for event in history.events)
    if not any(lease.answered > last for lease in load.leases if not lease.read_only):
        problems.append("there was no lease of a master any more in the end")
    if passage.finds_each:
        problems += _unseen(load.leases, history.reigns)
    hang = max(load.hangs, default=0.0)
    if load.stuck or hang > LONGEST:
        problems.append(f"{load.stuck} operations did not end, the longest took {hang:.1f} s")
    if load.masters < wanted:
        problems.append(f"there were but {load.masters} leases of a master")
    return LeaseOutcome(
        scenario=scenario,
        driver=load.kit.name,
        leases=load.masters,
        changes=len(history.reigns) - 1,
        on_standby=len(standbys),
        on_replaced=len(replaced),
        not_replica=len(masters),
        failed=len(load.errors),
        hang=hang,
        errors=dict(Counter(load.errors)),
        problems=tuple(problems),
    )


def _unseen(leases: Sequence[Lease], reigns: Sequence[Reign]) -> Iterator[str]:
    for number, reign in enumerate(reigns):
        if not any(
            not lease.read_only and lease.port == reign.port and reign.begin < lease.at < reign.end
            for lease in leases
        ):
            yield f"there was no lease of master {number + 1} of {len(reigns)}"


def _is_right(lease: Lease, history: History, passage: Passage) -> bool:
    until = lease.answered if passage.outlives_servers else lease.at
    if passage.unknown_for and any(
        event.moved and event.at <= until and lease.at <= event.at + passage.unknown_for + LATE
        for event in history.events
    ):
        return True
    for reign in history.reigns:
        # A busy machine may notice the end of a reign a little later.
        if lease.port == reign.port and reign.begin <= until and lease.at < reign.end + LATE:
            ended = reign.end < float("inf")
            if not lease.in_recovery or (passage.outlives_servers and ended):
                return True
    return False


def is_stale(lease: Lease, reigns: Sequence[Reign], grace: float) -> bool:
    """Tell whether a lease of a replica was handed out on a server that had long been a master.

    A server that was promoted between the lease and its answer was a standby when the lease was
    handed out, even if it had been a master before that.
    """
    mine = [each.begin for each in reigns if each.port == lease.port]
    begun = [begin for begin in mine if begin < lease.answered]
    return not lease.in_recovery and bool(begun) and lease.at > max(begun) + grace


def _tell(what: str, leases: Sequence[Lease], events: Sequence[Event]) -> Iterator[str]:
    """Tell how many leases were wrong, and how long after which event."""
    after: dict[str, list[float]] = {}
    for lease in leases:
        event = max((each for each in events if each.at <= lease.at), default=None)
        if event is not None:
            after.setdefault(event.what, []).append(lease.at - event.at)
        else:
            after.setdefault("the beginning", []).append(0.0)
    for event_name, delays in after.items():
        yield (
            f"{len(delays)} leases {what}, {min(delays):.3f} to {max(delays):.3f} s after "
            f"{event_name}"
        )
