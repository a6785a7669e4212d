"""The drain report: what a manager that was drained had to break."""

from dataclasses import dataclass

from hasql.diagnostics import LeaseInfo

__all__ = ("DrainReport",)


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How the draining of a manager has ended."""

    #: How many seconds the draining took, including the closing of the pools.
    seconds: float = 0.0
    #: The leases that were still out and were broken, the oldest first. Empty: all ended in time.
    broken: tuple[LeaseInfo, ...] = ()
