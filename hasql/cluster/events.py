"""Events: what happens to the hosts of a cluster, told once for each change."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from hasql.cluster.dsn import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion, Health, NodeState

__all__ = ("Event", "HostDown", "HostFenced", "HostUp", "RoleChanged", "events_between")


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
class HostFenced:
    """A host is kept out of routing although it may answer."""

    host: HostSpec
    exclusion: Exclusion


Event: TypeAlias = HostUp | HostDown | RoleChanged | HostFenced


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
    if after.exclusion is not None and after.exclusion is not before.exclusion:
        yield HostFenced(after.host, after.exclusion)
