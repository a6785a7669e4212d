"""Admission: how many leases there may be at once, and who waits for one."""

from dataclasses import dataclass

from hasql.cluster.checks import check_count, check_flag, check_share
from hasql.errors import ConfigurationError

__all__ = ("Admission",)


@dataclass(frozen=True, slots=True)
class Admission:
    """At most so many leases at once; others wait, first come first served within a priority.

    Args:
        limit: How many leases there may be at once.
        replica_limit: How many of replicas, which are counted apart then. None: together. What
            asks for a replica and falls back to a master counts as one of a replica.
        queue: How many acquires may wait; with `replica_limit` as many of replicas besides. One
            more is refused at once with OverloadedError; or else the last of those that count less.
        adaptive: Whether the limit moves between 1 and `limit` with the latency that is measured.
        reserve: The share of the places, rounded down, that is kept for `Priority.CRITICAL`.
    """

    limit: int
    replica_limit: int | None = None
    queue: int = 100
    adaptive: bool = False
    reserve: float = 0.1

    def __post_init__(self) -> None:
        check_count("limit", self.limit, minimum=1)
        if self.replica_limit is not None:
            check_count("replica_limit", self.replica_limit, minimum=1)
        check_count("queue", self.queue, minimum=0)
        check_flag("adaptive", self.adaptive)
        if check_share("reserve", self.reserve) == 1:
            msg = "reserve must be less than 1: else nothing but what is critical is ever let in"
            raise ConfigurationError(msg)
