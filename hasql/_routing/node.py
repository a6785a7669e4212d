"""A node at run time: a host, the driver's pool on it, and the count of places that are taken."""

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

#: The attributes that the next node of the same host takes over.
_INHERITED = (
    "error",
    "flag_off_at",
    "flag_unreliable",
    "label",
    "lacks_commit_marks",
    "lag_seconds",
    "last_error",
    "leads_elsewhere",
    "pooled",
    "priority",
    "replayed",
    "response_time",
    "server",
    "several_servers",
    "weight",
)
_NEVER = float("-inf")
_FOREVER = float("inf")
#: Seconds from a failed connect until one connect more is offered there, at first and at most.
_FIRST_RETRY = 0.02
_SLOWEST_RETRY = 1.0
#: The most seconds if the connect has led to another server: the next may lead to the right one.
_SLOWEST_ELSEWHERE = 0.2


class Node(Generic[PoolT, ConnT]):
    """One host of the cluster as the hot path sees it.

    The router alone changes its count of leases. Acquires and returns also change what it offers,
    runs also change `lacks_commit_marks`, and the routing state changes all the rest. Tasks do so
    in one event loop, between two awaits; what threads share is changed under the manager's guard.
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
        "flag_off_at",
        "flag_unreliable",
        "full",
        "host",
        "in_flight",
        "in_routing",
        "label",
        "lacks_commit_marks",
        "lag_seconds",
        "last_error",
        "leads_elsewhere",
        "limit",
        "peak",
        "pool",
        "pooled",
        "position",
        "priority",
        "refusal",
        "replayed",
        "reports_drops",
        "response_time",
        "server",
        "several_servers",
        "sizes",
        "succession",
        "successions",
        "weight",
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
        #: Whether the pool tells when the application drops a connection that is lent.
        self.reports_drops = False
        #: How many leases are out, being taken, or being given back; a warm-up counts as one.
        self.in_flight = 0
        #: The highest `in_flight` since the last report.
        self.peak = 0
        #: How many leases may be out: as many as are offered, or none while the node is held.
        self.limit = self._offered = sizes.maximum
        #: When the present hold began, by the clock, if there is one; and whether the node is held
        #: until a probe is answered, see `hold_until_answer`.
        self._held_at = _NEVER
        self.awaits_answer = False
        #: The successions from earlier nodes of the host that still have places out; and the one
        #: from this node, once another node has taken its place.
        self.successions: list[Succession] = []
        self.succession: Succession | None = None
        #: After a failed connect: the time from which one connect more than the open connections is
        #: offered, by the clock. `_NEVER`: there is no trouble, and everything is offered.
        self._retry_at = _NEVER
        self._backoff = _FIRST_RETRY
        self._size_at_failure = 0
        #: Whether the last connect that failed has found the server full.
        self.full = False
        #: Why it was impossible to connect, or to open the pool, the last time; None: it works.
        self.error: BaseException | None = None
        self._failed_at = 0.0
        #: Why its server refuses what the pool, unlike the probes, asks of it.
        self.refusal: Exception | None = None
        #: The last failure of a probe or a connect, kept after the host has recovered.
        self.last_error: BaseException | None = None
        #: Whether it may serve at all, and the roles in which it is offered. A suspect is in
        #: routing, but it is not offered as long as others can serve, unless it is known to live.
        self.in_routing = False
        self.as_master = False
        self.as_replica = False
        #: See `mark_cold`. A cold node serves once it has been warmed up, or when no other node of
        #: its role can.
        self.cold = False
        #: Whether its in_hot_standby flag was seen to contradict SQL: a pooler answers from memory.
        self.flag_unreliable = False
        #: Whether its last answer came through a pooler: from another process than the login's.
        self.pooled = False
        #: The server that its monitor sees, and whether its name is known to lead to others, too.
        self.server: tuple[int, int] | None = None
        self.several_servers = False
        #: When a connection said `off` although this is a replica; and whether a probe that began
        #: later has found a replica all the same, so that some connections lead elsewhere.
        self.flag_off_at = _FOREVER
        self.leads_elsewhere = False
        #: Whether a run has found that its server tells no ids of transactions.
        self.lacks_commit_marks = False
        #: What a policy may base its choice on, see `Candidate`.
        self.replayed: int | None = None
        self.lag_seconds: float | None = None
        self.label: str | None = None
        self.priority, self.weight = 0, 1
        #: Median round trip of the last probes in seconds, None before the first.
        self.response_time: float | None = None

    def __repr__(self) -> str:
        role = "master" if self.as_master else "replica" if self.as_replica else "out"
        return f"<Node {self.host} {role} {self.in_flight}/{self.limit} in flight>"

    def note_discovered(self, found: Discovered, position: int) -> None:
        """Take note of what its discovery source says of it, and of its place among the hosts."""
        self.position = position
        self.priority, self.weight, self.label = found.priority, found.weight, found.label

    @property
    def free(self) -> int:
        """How many more leases it can hand out; never negative: a policy may weigh by it."""
        free = self.limit - self.in_flight
        return free if free > 0 else 0  # noqa: FURB136  # max() costs twice as much, per acquire

    @property
    def is_exhausted(self) -> bool:
        """Whether all the connections that it may have are in use, or its server is full.

        If connects fail for another reason, the node is not exhausted.
        """
        return not self.free and (self.full or self.in_flight >= self.capacity)

    @property
    def current(self) -> "Node[PoolT, ConnT]":
        """This node, or the one that has taken its place when the pool was resized."""
        node: Node[PoolT, ConnT] = self
        while node.succession is not None:
            node = node.succession.successor
        return node

    @property
    def pools(self) -> list[DriverPool[PoolT, ConnT]]:
        """Its pool, and the earlier ones that still have places out."""
        nodes = [self, *(each.former for each in self.successions)]
        return [node.pool for node in nodes if node.pool is not None]

    @property
    def lends(self) -> bool:
        """Whether any lease is out, on this pool or an earlier one."""
        return bool(self.in_flight) or any(each.former.in_flight for each in self.successions)

    @property
    def capacity(self) -> int:
        """How many leases may be out at most: the maximum, less what earlier pools have out."""
        owed: int = sum(each.former.in_flight for each in self.successions)
        return max(0, self.sizes.maximum - owed)

    def set_sizes(self, sizes: PoolSizes) -> None:
        """Set other bounds, while there is no pool yet."""
        self.sizes = sizes
        self._offer(self.capacity)

    def make_successor(
        self, pool: DriverPool[PoolT, ConnT], sizes: PoolSizes
    ) -> "Node[PoolT, ConnT]":
        """Make a node of the same host with another pool; it knows all that this one knows."""
        successor: Node[PoolT, ConnT] = Node(self.endpoint, self.position, sizes, self._clock)
        for name in _INHERITED:
            setattr(successor, name, getattr(self, name))
        successor.pool = pool
        if self.awaits_answer:
            successor.hold_until_answer()
        return successor

    def offer_returned_places(self) -> None:
        """Offer the places that earlier pools have got back."""
        if self._retry_at == _NEVER:  # else a connect has failed, and answers to probes offer more
            self._offer(self.capacity)

    def _offer_open(self) -> None:
        """Offer at least the open connections, or everything if there is no trouble."""
        if self._retry_at == _NEVER:
            self._offer(self.capacity)
        elif self.pool is not None:
            self._offer(max(self._offered, min(self.pool.size, self.capacity)))

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

        The delay before that doubles with each failure: a server without free slots answers probes
        all the time, and after each answer it would get a login from every acquire that waits. A
        name that leads to several servers is not full, so the delay stays short there.
        """
        self.failed(error)
        self.full = full
        self._size_at_failure = self.pool.size if self.pool is not None else 0
        self._offer(min(self._offered, self._size_at_failure))
        self._retry_at = self._clock() + self._backoff
        slowest = _SLOWEST_ELSEWHERE if led_elsewhere else _SLOWEST_RETRY
        self._backoff = min(2 * self._backoff, slowest)

    def mark_cold(self) -> None:
        """Take note that the node is out of routing, and its pool empty.

        A pool with a minimum size does not make it cold: that opens connections by itself when the
        host answers.
        """
        self.cold = self.pool is not None and self.sizes.minimum == 0

    def hold(self) -> float:
        """Offer nothing until a new probe is answered, or `end_hold` is given the returned time."""
        self._held_at, self.limit = self._clock(), 0
        return self._held_at

    def hold_until_answer(self) -> None:
        """Offer nothing until a probe is answered, because the host's name has moved.

        It does not matter when that probe began: one that was under way goes on at the new address.
        Nothing else ends this.
        """
        self.awaits_answer, self.limit = True, 0

    def end_hold(self, since: float | None = None) -> bool:
        """End a hold that no probe has ended; at least the open connections are offered again.

        `since` is when the hold began: another one, which began later, goes on. Connects that have
        failed meanwhile make no difference. Returns whether a hold was ended.
        """
        if self._held_at == _NEVER or since not in {None, self._held_at}:
            return False
        self._held_at = _NEVER
        self._offer_open()
        return True

    def offer_all(self) -> None:
        """Offer all that the pool can hold, because connecting works or the host is back."""
        self._retry_at = _NEVER
        self._backoff = _FIRST_RETRY
        self.error, self.full = None, False
        self._offer(self.capacity)

    def host_answered(
        self, answer: Answered, state: NodeState, *, lag_seconds: float | None
    ) -> float:
        """Take note of an answered probe; after a failed connect it may let one more be tried.

        Returns when the next probe has to begin to do so, by the clock; infinity: none has to.
        """
        began, self.response_time = answer.began, answer.response_time
        self.pooled, self.flag_unreliable = answer.pooled, answer.flag_unreliable
        self.replayed, self.lag_seconds = answer.reading.wal_position, lag_seconds
        if state.server != self.server or state.role is not Role.MASTER:
            self.lacks_commit_marks = False  # another server may tell them
        self.server, self.several_servers = state.server, state.several_servers
        if began > self.flag_off_at or state.role is not Role.REPLICA:
            self.leads_elsewhere, self.flag_off_at = state.role is Role.REPLICA, _FOREVER
        self.awaits_answer = False
        if began > self._held_at:
            self._held_at = _NEVER
        if self.pool is None:
            self._offer(self.capacity)
            return _FOREVER
        self._size_at_failure = min(self._size_at_failure, self.pool.size)
        waits = began <= self._retry_at
        if waits or self._retry_at == _NEVER:
            self._offer_open()
        else:
            self._offer(max(self._offered, min(self.pool.size + 1, self.capacity)))
        self.pool.host_answers()
        return self._retry_at if waits else _FOREVER
