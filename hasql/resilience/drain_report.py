"""The drain report: what a manager that was drained had to break."""

from dataclasses import dataclass

from hasql.cluster.host import HostSpec
from hasql.cluster.probe import Role

__all__ = ("BrokenLease", "DrainReport")


@dataclass(frozen=True, slots=True)
class BrokenLease:
    """A lease that was not given back in time, so that its connection was broken."""

    host: HostSpec
    #: What the host was when it was broken.
    role: Role
    #: Seconds for which it was out.
    seconds: float

    def __str__(self) -> str:
        return f"{self.host} ({self.role.value}) out for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How the draining of a manager has ended."""

    #: Seconds that it took, with the closing of the pools.
    seconds: float = 0.0
    #: What was in use still, and was broken; the longest first. Empty: all work has ended well.
    broken: tuple[BrokenLease, ...] = ()
