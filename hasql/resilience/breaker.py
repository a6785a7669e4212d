"""The breaker of a cluster's masters."""

from dataclasses import dataclass

from hasql.cluster.checks import check_count, check_seconds

__all__ = ("Breaker",)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Refuses acquires of a master once too many have failed in a row.

    Args:
        threshold: The breaker opens after this many infrastructure errors in a row.
        recovery: One trial is let through this many seconds after the breaker has opened, or
            earlier if a master is seen.
    """

    threshold: int = 5
    recovery: float = 30.0

    def __post_init__(self) -> None:
        check_count("threshold", self.threshold, minimum=1)
        check_seconds("recovery", self.recovery)
