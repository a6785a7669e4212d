"""The router: which node gets an acquire, and who waits when none can take it."""

import asyncio
from collections.abc import Sequence
from enum import Enum
from math import inf
from typing import Generic

from hasql._routing.node import Node
from hasql._routing.waiters import Waiters
from hasql.balancer_policy.base import BaseBalancerPolicy
from hasql.driver import ConnT, PoolT
from hasql.errors import ConfigurationError, PoolManagerClosedError

__all__ = (
    "MASTER",
    "MASTER_OR_REPLICA",
    "REPLICA",
    "REPLICA_OR_MASTER",
    "Router",
    "Wanted",
)


class Wanted(Enum):
    """What an acquire asked for."""

    MASTER = "master"
    REPLICA = "replica"
    #: A replica, or a master while no replica is in routing.
    REPLICA_OR_MASTER = "replica, or master"
    #: A master if one has room, else a replica: a read that has fallen to the masters' share.
    MASTER_OR_REPLICA = "master, or replica"

    # That of Enum is written in Python, and queues are looked up by these on the hot path.
    __hash__ = object.__hash__


# For the hot path: up to Python 3.11 looking a member up in its class takes longer than a choice.
MASTER, REPLICA, REPLICA_OR_MASTER, MASTER_OR_REPLICA = Wanted


class Router(Generic[PoolT, ConnT]):
    """Hands out places on nodes: at once where one is free, else in the order of asking.

    A place is one count of `Node.in_flight`. Who was given one gives it back with `vacate`.
    """

    def __init__(self, policy: BaseBalancerPolicy) -> None:
        self.policy = policy
        self._masters: tuple[Node[PoolT, ConnT], ...] = ()
        self._replicas: tuple[Node[PoolT, ConnT], ...] = ()
        self._closed = False
        self._waiters: Waiters[Wanted, Node[PoolT, ConnT]] = Waiters()
        self._vacancy: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        """How many acquires wait for a place."""
        return self._waiters.count

    def route(
        self,
        masters: Sequence[Node[PoolT, ConnT]],
        replicas: Sequence[Node[PoolT, ConnT]],
    ) -> None:
        """Take over who may serve. Call `dispatch` once its consequences are dealt with."""
        self._masters = tuple(masters)
        self._replicas = tuple(replicas)

    def choose(self, wanted: Wanted) -> Node[PoolT, ConnT] | None:
        """Pick a node with a free place, None if there is none; takes no place yet."""
        if wanted is MASTER_OR_REPLICA:
            return self.choose(MASTER) or self.choose(REPLICA)
        candidates = self._replicas
        if wanted is MASTER or (wanted is REPLICA_OR_MASTER and not candidates):
            candidates = self._masters
        if not candidates:
            return None
        node = candidates[0] if len(candidates) == 1 else self._chosen(candidates)
        if node.in_flight < node.limit:
            return node
        # The policy chose a full node, as only a policy that ignores load does while others
        # have room: let it choose among those. Rare, so the loop over all hosts is no cost.
        free = [candidate for candidate in candidates if candidate.free]
        if len(free) < 2:  # noqa: PLR2004  # two are a choice
            return free[0] if free else None
        node = self._chosen(free)
        if not node.free:
            raise self._no_candidate(node)
        return node

    def _chosen(self, candidates: Sequence[Node[PoolT, ConnT]]) -> Node[PoolT, ConnT]:
        """Ask the policy. Raises ConfigurationError if what it returns is no candidate."""
        node = self.policy.choose(candidates)
        # By what it is and by its role: searching the candidates would cost more with each host.
        if isinstance(node, Node) and (
            node.as_master if candidates[0].as_master else node.as_replica
        ):
            return node
        raise self._no_candidate(node)

    def _no_candidate(self, chosen: object) -> ConfigurationError:
        return ConfigurationError(
            f"{type(self.policy).__name__} chose {chosen!r}, which is not one of the candidates"
        )

    def join(self, wanted: Wanted, deadline: float) -> "asyncio.Future[Node[PoolT, ConnT]]":
        """Wait for a place on a node, which the future ends with; then it is taken.

        The future ends with TimeoutError at `deadline`, in seconds of time.monotonic(), and with
        PoolManagerClosedError once the manager closes. Who waits no more calls `leave`.
        """
        if self._closed:
            raise PoolManagerClosedError("the pool manager is closed")
        return self._waiters.join(wanted, deadline)

    def leave(self, wanted: Wanted, waiter: "asyncio.Future[Node[PoolT, ConnT]]") -> None:
        """Wait no more: a place that was handed over just before goes to the next."""
        self._waiters.leave(wanted, waiter)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.vacate(waiter.result())

    def vacate(self, node: Node[PoolT, ConnT]) -> None:
        """Give a place back; whoever waits for it gets it now."""
        node.in_flight -= 1
        if self._waiters.count:
            self.dispatch(1)
        if self._vacancy is not None:
            self.wake_drain()

    async def next_vacancy(self) -> None:
        """Wait until the next place is given back."""
        if self._vacancy is None or self._vacancy.done():
            self._vacancy = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._vacancy)

    def dispatch(self, places: float = inf) -> None:
        """Hand free places, so many at most, to those who wait, the earliest first."""
        while places and self._waiters.count:
            for wanted in self._waiters.kinds():
                try:
                    node = self.choose(wanted)
                except Exception as error:  # noqa: BLE001  # a user's policy: its acquire fails
                    waiter = self._waiters.next(wanted)
                    if not waiter.done():
                        waiter.set_exception(error)
                    break
                if node is not None:
                    waiter = self._waiters.next(wanted)
                    if not waiter.done():
                        node.in_flight += 1
                        waiter.set_result(node)
                        places -= 1
                    break
            else:
                return

    def wake_drain(self) -> None:
        """Let whoever waits for vacancies look again."""
        if self._vacancy is not None and not self._vacancy.done():
            self._vacancy.set_result(None)

    def close(self) -> None:
        """Tell all who wait, and all who will, that there is nothing to wait for."""
        self._closed = True
        self.route((), ())
        self._waiters.dismiss(PoolManagerClosedError("the pool manager was closed"))
