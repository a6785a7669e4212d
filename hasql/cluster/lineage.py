"""Lineage: where each timeline of a cluster left the one before it, as far as that was seen.

A standby that is promoted begins a new timeline at the position up to which it has replayed the
old one: its switch position. What the old one holds beyond that is not in the new one's history.
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
    "keep_newest_followed",
    "switch_of",
    "switches_from",
    "with_switch",
)

#: Every history begins with this timeline.
FIRST_TIMELINE: Final = 1
#: How many switches of one cluster are kept: those of the newest timelines.
_SWITCHES_KEPT: Final = 16


@dataclass(frozen=True, slots=True)
class Switch:
    """Where a timeline began, as told by the server that was promoted to it."""

    host: HostSpec
    #: The new timeline.
    timeline: int
    #: The position, in bytes, up to which its history holds the timeline before it.
    position: int
    #: When the last transaction in that history had ended, in microseconds since 1970, by the clock
    #: of the server that ran it. None: the promoted server has replayed none since its start.
    last_ended: int | None
    #: The newest earlier timeline that is known to be in its history. It need not be the one that
    #: it left: several may lie between.
    ancestor: int = FIRST_TIMELINE


def switch_of(host: HostSpec, reading: Reading, before: Reading | None) -> Switch | None:
    """Return the switch that a master reports, if it has been promoted since its start.

    Args:
        host: The host of the server.
        reading: What it says.
        before: What was read from that host before.
    """
    if reading.role is not Role.MASTER or not reading.was_standby:
        return None
    timeline, position = reading.timeline, reading.recovered_to
    if timeline is None or position is None:
        return None
    ancestor = FIRST_TIMELINE
    # A running server only goes forward: what it has followed as a standby is in its history.
    # (At the very moment of its promotion a standby may name the new timeline.)
    same = before is not None and _server(before) == _server(reading) is not None
    if same and before is not None and before.followed is not None and before.followed < timeline:
        ancestor = max(ancestor, before.followed)
    return Switch(host, timeline, position, reading.last_replayed, ancestor)


def keep_newest_followed(reading: Reading, before: Reading | None) -> Reading:
    """Keep the newest timeline that a replica has reported to follow, if it reports less now.

    A replica reports less once it no longer receives anything.
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


def with_switch(
    switches: Mapping[int, tuple[Switch, ...]],
    host: HostSpec,
    reading: Reading,
    before: Reading | None,
) -> Mapping[int, tuple[Switch, ...]]:
    """Add the switch that a master reports to the known ones, by system identifier.

    Known switches stay. There may be several for one timeline, if servers have begun timelines of
    the same number without knowing of each other.
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
    return {**switches, reading.system_id: tuple(newest[:_SWITCHES_KEPT])}


def switches_from(
    timeline: int, last: Switch, switches: Iterable[Switch]
) -> tuple[Switch, ...] | None:
    """Return the switches, one of which is where a history left a timeline; None: not known.

    Args:
        timeline: The timeline that was left.
        last: Where the history's last timeline began.
        switches: All known switches of the cluster.
    """
    if last.ancestor < timeline:
        return None  # the history may have begun elsewhere, and never have held this timeline
    kept = [each for each in switches if timeline < each.timeline < last.timeline]
    if last.ancestor > timeline:
        # Whatever lies in between, the ancestor's history is part of this history.
        found: list[Switch] = []
        for parent in kept:
            if parent.timeline == last.ancestor:
                further = switches_from(timeline, parent, kept)
                if further is None:
                    return None
                found += further
        return tuple(found) or None
    # The history may have passed through each timeline in between, so each has to be known.
    between = range(timeline + 1, last.timeline)
    if {each.timeline for each in kept} != set(between):
        return None
    return (*kept, last)
