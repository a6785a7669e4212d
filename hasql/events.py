"""Events: what happens to the hosts of a cluster, reported once for each change."""

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
    """A host has failed: it refused, was unreachable, or was silent for `refresh_timeout`."""

    host: HostSpec
    #: The error of the last probe, as the driver raised it.
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """A host answers in another role than in its last answer."""

    host: HostSpec
    before: Role
    after: Role


@dataclass(frozen=True, slots=True)
class HostExcluded:
    """A host is kept out of routing although it may answer."""

    host: HostSpec
    #: The reason. If the reason changes, there is another event.
    exclusion: Exclusion


@dataclass(frozen=True, slots=True)
class HostFenced(HostExcluded):
    """A host is kept out because of another master: it is fenced, or the masters are split.

    What it acknowledges may be lost. This is a `HostExcluded`, and is reported in place of one.
    """


@dataclass(frozen=True, slots=True)
class HostAdmitted:
    """A host that was excluded may serve again, provided that it answers."""

    host: HostSpec
    #: Why it was excluded.
    exclusion: Exclusion


@dataclass(frozen=True, slots=True)
class DiscoveryFailed:
    """The source of hosts has failed; the hosts stay as they are, and the source is asked again.

    Reported once, however often it fails after that; `Metrics.discovery` shows the last error.
    """

    #: The source, as `str()` has it.
    source: str
    error: str


@dataclass(frozen=True, slots=True)
class DiscoveryRecovered:
    """The source of hosts, which had failed, answers again."""

    source: str


@dataclass(frozen=True, slots=True)
class BreakerOpened:
    """The breaker refuses acquires of a master: too many have failed, or its trial failed."""

    #: How many acquires have failed in a row.
    failures: int
    #: The error of the last one.
    error: BaseException


@dataclass(frozen=True, slots=True)
class BreakerClosed:
    """The breaker's trial succeeded: it lets all acquires of a master through again."""


@dataclass(frozen=True, slots=True)
class LeaseOverdue:
    """A lease has been out for longer than `Lifecycle.leak_threshold`; one event for each lease."""

    host: HostSpec
    lease: LeaseInfo
    #: Whether its connection was broken for that reason, by `leak_action="terminate"`.
    terminated: bool


@dataclass(frozen=True, slots=True)
class LeaseDropped:
    """The application dropped a connection without giving it back; hasql has given it back.

    Only a manager with `lifecycle` reports it, and only where the driver's objects make it visible.
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
