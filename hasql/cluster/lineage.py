"""Lineage: where each timeline of a cluster has left the one before, as far as that was seen.

A standby that is promoted begins a new timeline at the position up to which it has replayed the
old one, its switch position. What the old one holds beyond that is not in the new one's history.
https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Reading, Role

__all__ = (
    "FIRST_TIMELINE",
    "Switch",
    "remembered",
    "switch_of",
    "switches_from",
    "with_what_was_followed",
)

#: Every history begins with it.
FIRST_TIMELINE: Final = 1
#: How many switches of one cluster are kept, of the newest timelines.
_KEPT: Final = 16


@dataclass(frozen=True, slots=True)
class Switch:
    """Where a timeline began, as the server has told that was promoted to it."""

    host: HostSpec
    #: The new one.
    timeline: int
    #: Up to where the timeline before is in its history, in bytes.
    position: int
    #: When the last transaction had ended that is in that history, by the clock of the server that
    #: had run it, in microseconds since 1970. None: it has replayed none since its start.
    last_ended: int | None
    #: The newest timeline before it that is known to be in its history. It need not be the one that
    #: it has left: several may lie between.
    ancestor: int = FIRST_TIMELINE


def switch_of(host: HostSpec, reading: Reading, before: Reading | None) -> Switch | None:
    """Return the switch that a master tells of, if it has been promoted since its start.

    Args:
        host: Where the server is.
        reading: What it says.
        before: What was read there before.
    """
    if reading.role is not Role.MASTER or not reading.was_standby:
        return None
    timeline, position = reading.timeline, reading.recovered_to
    if timeline is None or position is None:
        return None
    ancestor = FIRST_TIMELINE
    # A server only goes forward while it runs: what it has followed as a standby is in its history.
    # (At the very moment of its promotion a standby may name the new timeline.)
    same = before is not None and _server(before) == _server(reading) is not None
    if same and before is not None and before.followed is not None and before.followed < timeline:
        ancestor = max(ancestor, before.followed)
    return Switch(host, timeline, position, reading.last_replayed, ancestor)


def with_what_was_followed(reading: Reading, before: Reading | None) -> Reading:
    """Add to what a replica says the newest timeline that it has said before to have followed.

    It says less once it receives nothing any more.
    """
    if before is None or before.followed is None or reading.role is not Role.REPLICA:
        return reading
    if (reading.followed or 0) >= before.followed or _server(reading) != _server(before):
        return reading
    return replace(reading, followed=before.followed)


def _server(reading: Reading) -> tuple[int, int] | None:
    if reading.system_id is None or reading.started_at is None:
        return None
    return reading.system_id, reading.started_at


def remembered(
    switches: Mapping[int, tuple[Switch, ...]],
    host: HostSpec,
    reading: Reading,
    before: Reading | None,
) -> Mapping[int, tuple[Switch, ...]]:
    """Add the switch that a master tells of to those that are known, by system identifier.

    What is known stays known. There may be several for one timeline: of servers that have begun one
    of the same number without knowing of each other.
    """
    switch = switch_of(host, reading, before)
    if switch is None or reading.system_id is None:
        return switches
    kept = switches.get(reading.system_id, ())
    known = next((each for each in kept if replace(each, ancestor=switch.ancestor) == switch), None)
    if known and known.ancestor >= switch.ancestor:
        return switches
    rest = (each for each in kept if each is not known)
    newest = sorted((*rest, switch), key=lambda each: each.timeline, reverse=True)
    return {**switches, reading.system_id: tuple(newest[:_KEPT])}


def switches_from(
    timeline: int, last: Switch, switches: Iterable[Switch]
) -> tuple[Switch, ...] | None:
    """Return the switches by one of which a history has left a timeline; None: it is not known.

    Args:
        timeline: The one that was left.
        last: Where the history's last timeline began.
        switches: All that is known of the cluster.
    """
    if last.ancestor < timeline:
        return None  # it may have begun elsewhere, and never have held this timeline
    kept = [each for each in switches if timeline < each.timeline < last.timeline]
    if last.ancestor > timeline:
        # Whatever lies between the ancestor and the last, the ancestor's history is part of it.
        found: list[Switch] = []
        for parent in kept:
            if parent.timeline == last.ancestor:
                further = switches_from(timeline, parent, kept)
                if further is None:
                    return None
                found += further
        return tuple(found) or None
    # The history may have gone over each of the timelines between, so each has to be known.
    between = range(timeline + 1, last.timeline)
    if {each.timeline for each in kept} != set(between):
        return None
    return (*kept, last)
