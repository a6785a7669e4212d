"""A node at run time: a host, the driver's pool on it, and the count of what is handed out."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic

from hasql.cluster.discovered import Discovered
from hasql.cluster.probe import Role
from hasql.cluster.state import NodeState
from hasql.cluster.topology import Answered
from hasql.driver import ConnT, DriverPool, Endpoint, PoolSizes, PoolT

if TYPE_CHECKING:
    from hasql._routing.succession import Succession

__all__ = ("Node",)

#: What a node of the same host takes over.
_INHERITED = (
    "error",
    "flag_lies",
    "label",
    "lag_seconds",
    "last_error",
    "leads_elsewhere",
    "off_at",
    "pooled",
    "priority",
    "replayed",
    "response_time",
    "server",
    "several",
    "weight",
    "without_marks",
)
_NEVER = float("-inf")
_FOREVER = float("inf")
#: Seconds until a host that let nobody connect is offered one connect again, at first and at most.
_FIRST_RETRY = 0.02
_SLOWEST_RETRY = 1.0
#: At most where connects lead to another server: each may lead to the right one.
_SLOWEST_ELSEWHERE = 0.2


class Node(Generic[PoolT, ConnT]):
    """One host of the cluster as the hot path sees it.

    Its count of leases is changed by the router alone, its limit also by what acquires meet,
    `without_marks` also by what runs meet, and all else by the routing state. All of that happens
    in one event loop, between two awaits.
    """

    __slots__ = (
        "_backoff",
        "_clock",
        "_failed_at",
        "_held_at",
        "_offered",
        "_retry_at",
        "_size_at_failure",
        "as_master",
        "as_replica",
        "awaits_answer",
        "cold",
        "endpoint",
        "error",
        "flag_lies",
        "full",
        "host",
        "in_flight",
        "in_routing",
        "label",
        "lag_seconds",
        "last_error",
        "leads_elsewhere",
        "limit",
        "off_at",
        "peak",
        "pool",
        "pooled",
        "position",
        "priority",
        "refusal",
        "replayed",
        "response_time",
        "server",
        "several",
        "sizes",
        "succession",
        "successions",
        "tells_of_drops",
        "weight",
        "without_marks",
    )

    def __init__(
        self, endpoint: Endpoint, position: int, sizes: PoolSizes, clock: Callable[[], float]
    ) -> None:
        self.host = endpoint.host
        self._clock = clock
        self.endpoint = endpoint
        self.position = position
        self.sizes = sizes
        #: None until the host has answered for the first time.
        self.pool: DriverPool[PoolT, ConnT] | None = None
        #: Whether the pool tells when the application drops what is lent.
        self.tells_of_drops = False
        #: Leases out, being taken, or being given back; and a warm-up.
        self.in_flight = 0
        #: How many of them there were at once at most, since the last report.
        self.peak = 0
        #: How many leases may be out: what is offered, or none while it is held.
        self.limit = self._offered = sizes.maximum
        #: When it was held last, by the clock, if it is still; and whether it is until a probe is
        #: answered, see `hold_until_answer`.
        self._held_at = _NEVER
        self.awaits_answer = False
        #: The pools before this one that have places out still; and what becomes of this node's own
        #: places once another one has taken its place.
        self.successions: list[Succession] = []
        self.succession: Succession | None = None
        #: From when one connect more than what is open is offered, as one has failed; never: all
        #: there is is offered.
        self._retry_at = _NEVER
        self._backoff = _FIRST_RETRY
        self._size_at_failure = 0
        #: Whether its server had no room for the connect that has failed last.
        self.full = False
        #: Why a connection, or the pool itself, could not be had the last time.
        self.error: BaseException | None = None
        self._failed_at = 0.0
        #: Why its server refuses what the pool, unlike the probes, asks of it.
        self.refusal: Exception | None = None
        #: The last failure of a probe or a connect, kept after the host has recovered.
        self.last_error: BaseException | None = None
        #: Whether it may serve at all, and as what it is offered: a suspect is in routing, but
        #: not offered as long as others can serve, unless it is known to live.
        self.in_routing = False
        self.as_master = False
        self.as_replica = False
        #: See `mark_cold`. It serves once it has been warmed up, or when no other of its role can.
        self.cold = False
        #: Its in_hot_standby flag was caught contradicting SQL: a pooler answers from memory.
        self.flag_lies = False
        #: Its last answer came through a pooler: another process gave it than had let us in.
        self.pooled = False
        #: The server that its monitor sees, and whether its name is known to lead to others, too.
        self.server: tuple[int, int] | None = None
        self.several = False
        #: When a connection said `off` though this is a replica; and whether a probe begun later
        #: has said that it is one all the same, so that some connections lead elsewhere.
        self.off_at = _FOREVER
        self.leads_elsewhere = False
        #: Whether its server tells no ids of transactions, as a run has met there.
        self.without_marks = False
        #: What a policy may go by, see `Candidate`.
        self.replayed: int | None = None
        self.lag_seconds: float | None = None
        self.label: str | None = None
        self.priority, self.weight = 0, 1
        #: Median round trip of the last probes in seconds, None before the first.
        self.response_time: float | None = None

    def __repr__(self) -> str:
        role = "master" if self.as_master else "replica" if self.as_replica else "out"
        return f"<Node {self.host} {role} {self.in_flight}/{self.limit} in flight>"

    def found_as(self, found: Discovered, position: int) -> None:
        """Take note of what its source says of it, and of its place among the hosts."""
        self.position = position
        self.priority, self.weight, self.label = found.priority, found.weight, found.label

    @property
    def free(self) -> int:
        """How many more leases it can hand out; never negative, a policy may weigh by it."""
        free = self.limit - self.in_flight
        return free if free > 0 else 0  # noqa: FURB136  # max() costs twice as much, per acquire

    @property
    def is_exhausted(self) -> bool:
        """Whether all that it may have is in use, or its server has room for no more.

        Not so where nobody could connect for another reason.
        """
        return not self.free and (self.full or self.in_flight >= self.most)

    @property
    def current(self) -> "Node[PoolT, ConnT]":
        """Itself, or the node that has taken its place, as the pool was resized."""
        node: Node[PoolT, ConnT] = self
        while node.succession is not None:
            node = node.succession.heir
        return node

    @property
    def pools(self) -> list[DriverPool[PoolT, ConnT]]:
        """Its pool, and those before it that have places out still."""
        nodes = [self, *(each.former for each in self.successions)]
        return [node.pool for node in nodes if node.pool is not None]

    @property
    def lends(self) -> bool:
        """Whether any lease is out, on this pool or one before."""
        return bool(self.in_flight) or any(each.former.in_flight for each in self.successions)

    @property
    def most(self) -> int:
        """How many leases may be out at most: what pools before this one have out is not there."""
        owed: int = sum(each.former.in_flight for each in self.successions)
        return max(0, self.sizes.maximum - owed)

    def set_sizes(self, sizes: PoolSizes) -> None:
        """Have other bounds; there is no pool yet."""
        self.sizes = sizes
        self._offer(self.most)

    def make_heir(self, pool: DriverPool[PoolT, ConnT], sizes: PoolSizes) -> "Node[PoolT, ConnT]":
        """Make a node of the same host, with all that is known of it, and another pool."""
        heir: Node[PoolT, ConnT] = Node(self.endpoint, self.position, sizes, self._clock)
        for name in _INHERITED:
            setattr(heir, name, getattr(self, name))
        heir.pool = pool
        if self.awaits_answer:
            heir.hold_until_answer()
        return heir

    def places_are_back(self) -> None:
        """Offer the places that pools before this one have back."""
        if self._retry_at == _NEVER:  # else what was the trouble says when it may have more
            self._offer(self.most)

    def _offer_open(self) -> None:
        """Offer what is open at least, or all if there is no trouble."""
        if self._retry_at == _NEVER:
            self._offer(self.most)
        elif self.pool is not None:
            self._offer(max(self._offered, min(self.pool.size, self.most)))

    def _offer(self, places: int) -> None:
        self._offered = places
        self.limit = 0 if self.awaits_answer or self._held_at != _NEVER else places

    def describe(self, now: float) -> str:
        """Say in a few words what it lends, for error messages."""
        if self.pool is None:
            words = "no pool"
        else:
            words = f"{self.in_flight} of {self.sizes.maximum} connections in use"
        if self.error is not None:
            ago = max(0.0, now - self._failed_at)
            words += f", last connect failed {ago:.1f} s ago: "
            words += f"{type(self.error).__name__}: {self.error}"
        return words

    @property
    def connects_again(self) -> bool:
        """Whether a connect has failed and one has succeeded since."""
        return (
            self._retry_at != _NEVER
            and self.pool is not None
            and self.pool.size > self._size_at_failure
        )

    def failed(self, error: BaseException) -> None:
        """Take note that a connection could not be had; `error` is shown, not judged."""
        self.error = self.last_error = error.with_traceback(None)
        self._failed_at = self._clock()

    def connect_failed(
        self, error: BaseException, *, full: bool = False, led_elsewhere: bool = False
    ) -> None:
        """Offer no more than the open connections; later, after answered probes, one more.

        The wait for that doubles with each failure: a server without free slots answers probes
        all the time, and would get a login from everyone who waits after each of them. A name that
        leads to several servers is not full, so that the wait stays short there.
        """
        self.failed(error)
        self.full = full
        self._size_at_failure = self.pool.size if self.pool is not None else 0
        self._offer(min(self._offered, self._size_at_failure))
        self._retry_at = self._clock() + self._backoff
        slowest = _SLOWEST_ELSEWHERE if led_elsewhere else _SLOWEST_RETRY
        self._backoff = min(2 * self._backoff, slowest)

    def mark_cold(self) -> None:
        """Take note that it is out of routing, and its pool empty.

        A pool that keeps connections opens them by itself when the host answers.
        """
        self.cold = self.pool is not None and self.sizes.minimum == 0

    def hold(self) -> float:
        """Offer nothing until a new probe has been answered, or `end_hold` is told of this time."""
        self._held_at, self.limit = self._clock(), 0
        return self._held_at

    def hold_until_answer(self) -> None:
        """Offer nothing until a probe is answered, whenever it was begun: its name has moved.

        A probe that was under way then goes on at the new address. Nothing else ends this.
        """
        self.awaits_answer, self.limit = True, 0

    def end_hold(self, since: float | None = None) -> bool:
        """End a hold that no probe has ended; what is open can be had again.

        `since` is when that began: one that has begun after it goes on. Whatever a connect has met
        meanwhile has no say in it. Return whether there was one.
        """
        if self._held_at == _NEVER or since not in {None, self._held_at}:
            return False
        self._held_at = _NEVER
        self._offer_open()
        return True

    def offer_all(self) -> None:
        """Offer all the pool can hold: connecting works, or the host is back."""
        self._retry_at = _NEVER
        self._backoff = _FIRST_RETRY
        self.error, self.full = None, False
        self._offer(self.most)

    def host_answered(
        self, answer: Answered, state: NodeState, *, lag_seconds: float | None
    ) -> float:
        """Take note of an answered probe; one begun after trouble lets more be offered.

        Return when the next has to begin for that, by the clock; never: infinity.
        """
        began, self.response_time = answer.began, answer.response_time
        self.pooled, self.flag_lies = answer.pooled, answer.flag_lies
        self.replayed, self.lag_seconds = answer.reading.wal_position, lag_seconds
        if state.server != self.server or state.role is not Role.MASTER:
            self.without_marks = False  # the next one may tell them
        self.server, self.several = state.server, state.several
        if began > self.off_at or state.role is not Role.REPLICA:
            self.leads_elsewhere, self.off_at = state.role is Role.REPLICA, _FOREVER
        self.awaits_answer = False
        if began > self._held_at:
            self._held_at = _NEVER
        if self.pool is None:
            self._offer(self.most)
            return _FOREVER
        self._size_at_failure = min(self._size_at_failure, self.pool.size)
        waits = began <= self._retry_at
        if waits or self._retry_at == _NEVER:
            self._offer_open()
        else:
            self._offer(max(self._offered, min(self.pool.size + 1, self.most)))
        self.pool.host_answers()
        return self._retry_at if waits else _FOREVER
