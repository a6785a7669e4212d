"""Events: what happens to the hosts of a cluster, told once for each change."""

from dataclasses import dataclass
from typing import TypeAlias

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role
from hasql.cluster.state import Exclusion
from hasql.diagnostics import LeaseInfo

__all__ = (
    "BreakerClosed",
    "BreakerOpened",
    "DiscoveryFailed",
    "DiscoveryRecovered",
    "Event",
    "HostAdmitted",
    "HostDown",
    "HostExcluded",
    "HostFenced",
    "HostUp",
    "LeaseDropped",
    "LeaseOverdue",
    "RoleChanged",
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


@dataclass(frozen=True, slots=True)
class DiscoveryFailed:
    """The source of hosts has failed; the hosts stay as they are, and it is asked again.

    Told once, however often it goes on failing; `Metrics.discovery` shows the last error.
    """

    #: The source, as `str()` has it.
    source: str
    error: str


@dataclass(frozen=True, slots=True)
class DiscoveryRecovered:
    """The source of hosts has failed, and answers again."""

    source: str


@dataclass(frozen=True, slots=True)
class BreakerOpened:
    """The breaker refuses acquires of a master: too many have failed, or its trial has."""

    #: How many have failed in a row.
    failures: int
    #: What the last one met.
    error: BaseException


@dataclass(frozen=True, slots=True)
class BreakerClosed:
    """The breaker's trial has gone well: it lets all acquires of a master through again."""


@dataclass(frozen=True, slots=True)
class LeaseOverdue:
    """A lease has been out for longer than `Lifecycle.leak_threshold`; told once for each."""

    host: HostSpec
    lease: LeaseInfo
    #: Whether its connection was broken for that, by `leak_action="terminate"`.
    terminated: bool


@dataclass(frozen=True, slots=True)
class LeaseDropped:
    """The application has dropped a connection without giving it back; hasql has done that.

    Told by a manager with `lifecycle`, where the driver's objects can tell.
    """

    host: HostSpec
    lease: LeaseInfo


Event: TypeAlias = (
    HostUp
    | HostDown
    | RoleChanged
    | HostExcluded
    | HostAdmitted
    | DiscoveryFailed
    | DiscoveryRecovered
    | BreakerOpened
    | BreakerClosed
    | LeaseOverdue
    | LeaseDropped
)
