"""Admission: how many leases there may be at once, and how many acquires may wait for one."""

from dataclasses import dataclass

from hasql.cluster.checks import check_count, check_flag, check_share
from hasql.errors import ConfigurationError

__all__ = ("Admission",)


@dataclass(frozen=True, slots=True)
class Admission:
    """Limits the leases at once; other acquires wait, first come first served per priority.

    Args:
        limit: How many leases there may be at once.
        replica_limit: How many leases of replicas there may be at once. They are then counted
            separately from the others. None: all leases are counted together. An acquire that asks
            for a replica and falls back to a master counts as one of a replica.
        queue: How many acquires may wait. With `replica_limit`, as many acquires of replicas may
            wait besides. If the queue is full when one more comes, the last waiting acquire of the
            lowest priority below the new one's is refused with OverloadedError; if there is none,
            the new one is.
        adaptive: Whether the limit moves between 1 and `limit` with the measured latency.
        reserve: The share of the places, from 0 to less than 1 and rounded down to whole places,
            that is kept for `Priority.CRITICAL`.
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
            msg = "reserve must be less than 1: otherwise only critical work would ever be let in"
            raise ConfigurationError(msg)
