"""The breaker of a cluster's masters."""

from dataclasses import dataclass

from hasql.cluster.checks import check_count, check_seconds

__all__ = ("Breaker",)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Stops acquires of a master once too many have failed in a row.

    Args:
        threshold: After so many infrastructure errors in a row it opens.
        recovery: After so many seconds, or as soon as a master is seen, one trial goes through.
    """

    threshold: int = 5
    recovery: float = 30.0

    def __post_init__(self) -> None:
        check_count("threshold", self.threshold, minimum=1)
        check_seconds("recovery", self.recovery)
