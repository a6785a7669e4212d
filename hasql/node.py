"""A node at run time: a host, the driver's pool on it, and the count of what is handed out."""

from collections import deque
from statistics import median
from time import monotonic
from typing import Generic

from hasql.cluster.dsn import HostSpec
from hasql.driver import ConnT, DriverPool, PoolSizes, PoolT

__all__ = ("Node",)


class Node(Generic[PoolT, ConnT]):
    """One host of the cluster as the hot path sees it.

    Its counts are changed by the router and the checkout, its routing flags by the supervisor,
    its pool and response times by its monitor. All of that happens in one event loop, between
    two awaits.
    """

    __slots__ = (
        "_limited_at",
        "_median",
        "_response_times",
        "as_master",
        "as_replica",
        "dsn",
        "flag_lies",
        "host",
        "in_flight",
        "limit",
        "pool",
        "position",
        "shared",
        "sizes",
    )

    def __init__(
        self, host: HostSpec, dsn: str, position: int, sizes: PoolSizes, window: int
    ) -> None:
        self.host = host
        #: With the password: never shown.
        self.dsn = dsn
        self.position = position
        self.sizes = sizes
        #: None until the host has answered for the first time.
        self.pool: DriverPool[PoolT, ConnT] | None = None
        #: Leases out, being taken, or being given back.
        self.in_flight = 0
        #: How many leases may be out: the pool's maximum, or less after trouble.
        self.limit = sizes.maximum
        self._limited_at = float("-inf")
        #: Whether the application was given the driver's pool itself and may take connections
        #: behind the back of our count.
        self.shared = False
        self.as_master = False
        self.as_replica = False
        #: Its in_hot_standby flag was caught contradicting SQL: a pooler answers from memory.
        self.flag_lies = False
        self._response_times: deque[float] = deque(maxlen=window)
        self._median: float | None = None

    def __repr__(self) -> str:
        role = "master" if self.as_master else "replica" if self.as_replica else "out"
        return f"<Node {self.host} {role} {self.in_flight}/{self.limit} in flight>"

    @property
    def free(self) -> int:
        """How many more leases it can hand out."""
        return self.limit - self.in_flight

    @property
    def response_time(self) -> float | None:
        """Median round trip of the last probes in seconds, None before the first."""
        if self._median is None and self._response_times:
            self._median = median(self._response_times)
        return self._median

    def record_response_time(self, seconds: float) -> None:
        """Take in how long one probe's answer took."""
        self._response_times.append(seconds)
        self._median = None

    def connect_failed(self) -> None:
        """Offer no more than the open connections until a new probe has been answered."""
        self._limit_to(self.pool.size if self.pool is not None else 0)

    def hold(self) -> None:
        """Offer nothing until a new probe has been answered."""
        self._limit_to(0)

    def _limit_to(self, places: int) -> None:
        self.limit = min(self.limit, places)
        self._limited_at = monotonic()

    def host_answered(self, began: float) -> None:
        """Take note of an answered probe: if begun after trouble, offer all again."""
        if began > self._limited_at:
            self.limit = self.sizes.maximum
        if self.pool is not None:
            self.pool.host_answers()
