"""What the routing observes by itself: whether a host that answers probes can serve by now."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from hasql.cluster.host import HostSpec
from hasql.driver import DriverPool

__all__ = ("HostWarm", "PoolOpened", "PoolRefused", "RoutingObservation")


@dataclass(frozen=True, slots=True)
class PoolOpened:
    """A host's pool has opened."""

    host: HostSpec
    pool: DriverPool[Any, Any]


@dataclass(frozen=True, slots=True)
class PoolRefused:
    """A host answers probes, but refuses what its pool asks of it; waiting does not help."""

    host: HostSpec
    error: Exception


@dataclass(frozen=True, slots=True)
class HostWarm:
    """A host that is back has had the time to open a first connection."""

    host: HostSpec


RoutingObservation: TypeAlias = PoolOpened | PoolRefused | HostWarm
