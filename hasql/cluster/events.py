"""Events: what happens to the hosts of a cluster, told once for each change."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from hasql.cluster.dsn import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health, NodeState

__all__ = (
    "Event",
    "HostAdmitted",
    "HostDown",
    "HostExcluded",
    "HostFenced",
    "HostUp",
    "RoleChanged",
    "events_between",
)


@dataclass(frozen=True, slots=True)
class HostUp:
    """A host answers: for the first time, or again after it was down."""

    host: HostSpec
    role: Role


@dataclass(frozen=True, slots=True)
class HostDown:
    """A host has failed: it refuses, is unreachable, or was silent for `refresh_timeout`."""

    host: HostSpec
    #: What the last probe met, as the driver says it.
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """A host answers in another role than it had when it answered last."""

    host: HostSpec
    before: Role
    after: Role


@dataclass(frozen=True, slots=True)
class HostExcluded:
    """A host is kept out of routing although it may answer."""

    host: HostSpec
    #: Why; another reason than before is told again.
    exclusion: Exclusion


@dataclass(frozen=True, slots=True)
class HostFenced(HostExcluded):
    """A host is kept out because of another master: it is fenced, or the masters are split.

    What it acknowledges may be lost. A `HostExcluded` like the others, and told in its place.
    """


@dataclass(frozen=True, slots=True)
class HostAdmitted:
    """A host that was excluded may serve again, when it answers."""

    host: HostSpec
    #: Why it was excluded.
    exclusion: Exclusion


Event: TypeAlias = HostUp | HostDown | RoleChanged | HostExcluded | HostAdmitted

_BY_ANOTHER_MASTER = frozenset({Exclusion.FENCED, Exclusion.SPLIT})


def events_between(before: NodeState, after: NodeState) -> Iterator[Event]:
    """Tell what has happened to a node between two states that follow each other."""
    if after.health is Health.DOWN and before.health is not Health.DOWN:
        yield HostDown(after.host, after.error)
    if after.health is Health.UP and before.health in {Health.STARTING, Health.DOWN}:
        yield HostUp(after.host, after.role)
    # Against its last answer: a host that was down in between may return as another.
    last = Role.UNKNOWN if before.reading is None else before.reading.role
    if Role.UNKNOWN not in {last, after.role} and last is not after.role:
        yield RoleChanged(after.host, last, after.role)
    if after.exclusion is before.exclusion:
        return
    if after.exclusion is not None:
        kind = HostFenced if after.exclusion in _BY_ANOTHER_MASTER else HostExcluded
        yield kind(after.host, after.exclusion)
    elif before.exclusion is not None:
        yield HostAdmitted(after.host, before.exclusion)
