"""The drain report: what a manager that was drained had to break."""

from dataclasses import dataclass

from hasql.diagnostics import LeaseInfo

__all__ = ("DrainReport",)


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How the draining of a manager has ended."""

    #: Seconds that it took, with the closing of the pools.
    seconds: float = 0.0
    #: What was in use still, and was broken; the oldest first. Empty: all work has ended well.
    broken: tuple[LeaseInfo, ...] = ()
