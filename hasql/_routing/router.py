"""The router: it gives each acquire a node, or lets it wait while no node can take it."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Any, Generic

from hasql._routing.node import Node
from hasql._routing.request import (
    MASTER,
    MASTER_OR_REPLICA,
    REPLICA,
    REPLICA_OR_MASTER,
    Fallback,
    Request,
)
from hasql._routing.waiters import Waiter, Waiters
from hasql.balancer_policy.base import BaseBalancerPolicy
from hasql.cluster.probe import Role
from hasql.driver import ConnT, PoolT
from hasql.driver.kept_errors import for_future
from hasql.errors import ConfigurationError, PoolManagerClosedError

__all__ = ("Router",)

#: The package of hasql's own policies.
_OURS = "hasql.balancer_policy."
_INTERNED = (MASTER, REPLICA, REPLICA_OR_MASTER, MASTER_OR_REPLICA)


class Router(Generic[PoolT, ConnT]):
    """Hands out places on nodes: at once where one is free, else in the order of asking.

    A place is one count of `Node.in_flight`, which changes only here. The caller that was given a
    place gives it back with `vacate`.
    """

    def __init__(
        self, policy: BaseBalancerPolicy, waiters: Waiters[Request, Node[PoolT, ConnT]]
    ) -> None:
        self.policy = policy
        # hasql's own policies return nothing but candidates, so their choice need not be checked.
        self._chosen: Callable[[Sequence[Node[PoolT, ConnT]]], Node[PoolT, ConnT]] = (
            policy.choose if type(policy).__module__.startswith(_OURS) else self._checked
        )
        self._closed = False
        self._waiters = waiters
        self._vacancy: asyncio.Future[None] | None = None
        #: For each request the candidates of its passes, in the order in which they are tried.
        self._passes: dict[Request, tuple[tuple[Node[PoolT, ConnT], ...], ...]] = {}
        self.route((), ())

    @property
    def waiting(self) -> int:
        """How many acquires wait for a place."""
        return self._waiters.count

    def route(
        self,
        masters: Sequence[Node[PoolT, ConnT]],
        replicas: Sequence[Node[PoolT, ConnT]],
        doubtful: Collection[Role] = (),
        last: Collection[Node[PoolT, ConnT]] = (),
    ) -> None:
        """Set which nodes may serve. Call `dispatch` once the consequences are dealt with.

        All hosts of a `doubtful` role are suspect, and may not answer any more. A request that
        falls back when its own role is full therefore tries such a role last.

        Within a role the hosts with the lowest priority come first; those with the next one are a
        pass of their own. The nodes in `last` come after all others that a request may have.
        """
        of_role = {
            role: (
                _by_priority([node for node in nodes if node not in last]),
                _by_priority([node for node in nodes if node in last]),
            )
            for role, nodes in ((Role.MASTER, masters), (Role.REPLICA, replicas))
        }
        for request in _INTERNED:
            present = [of_role[role] for role in request.passes if any(of_role[role])]
            if request.fallback is Fallback.FULL and request.role in doubtful:
                present.reverse()
            # A full host is not absent: a request that falls back only for absence has one role.
            tried = present[:1] if request.fallback is Fallback.ABSENT else present
            first, rest = [x for x, _ in tried], [x for _, x in tried]
            self._passes[request] = tuple(group for groups in first + rest for group in groups)

    def is_candidate(self, node: Node[PoolT, ConnT], request: Request) -> bool:
        """Tell whether a request might be given a connection of this node now, if it had room."""
        return any(node in candidates for candidates in self._passes[request])

    def is_exhausted(self, request: Request) -> bool:
        """Tell whether there are hosts that could serve, but each of them is exhausted."""
        candidates = [node for group in self._passes[request] for node in group]
        return bool(candidates) and all(node.is_exhausted for node in candidates)

    def occupy(self, request: Request) -> Node[PoolT, ConnT] | None:
        """Take a place on the node that the policy picks; None if there is no free place."""
        for candidates in self._passes[request]:
            node = candidates[0] if len(candidates) == 1 else self._chosen(candidates)
            if node.in_flight >= node.limit:
                free = self._choose_free(candidates)
                if free is None:
                    continue
                node = free
            node.in_flight = in_flight = node.in_flight + 1
            if in_flight > node.peak:  # noqa: PLR1730  # max() is a call: it could be interrupted
                node.peak = in_flight
            return node
        return None

    def occupy_on(self, node: Node[PoolT, ConnT]) -> None:
        """Take a place on this node, free or not: its pool says whether there is a connection."""
        node.in_flight += 1

    def occupy_current(self, node: Node[PoolT, ConnT]) -> Node[PoolT, ConnT]:
        """Take a place on this node, or on the one that has replaced it; return which."""
        current = node.current
        self.occupy_on(current)
        return current

    def _choose_free(self, candidates: Sequence[Node[PoolT, ConnT]]) -> Node[PoolT, ConnT] | None:
        """Let the policy choose among the candidates that have room.

        The policy chose a full node. Only a policy that ignores load does that while others have
        room, so this is rare, and looping over all hosts does not matter.
        """
        free = [candidate for candidate in candidates if candidate.free]
        if len(free) < 2:  # noqa: PLR2004  # two are a choice
            return free[0] if free else None
        node = self._chosen(free)
        if not node.free:
            raise self._no_candidate(node)
        return node

    def _checked(self, candidates: Sequence[Node[PoolT, ConnT]]) -> Node[PoolT, ConnT]:
        """Ask the policy. Raises ConfigurationError if what it returns is no candidate."""
        node = self.policy.choose(candidates)
        # Only type and role are checked: searching the candidates would cost more with each host.
        if isinstance(node, Node) and (
            node.as_master if candidates[0].as_master else node.as_replica
        ):
            return node
        raise self._no_candidate(node)

    def _no_candidate(self, chosen: object) -> ConfigurationError:
        return ConfigurationError(
            f"{type(self.policy).__name__} chose {chosen!r}, which is not one of the candidates"
        )

    def join(self, request: Request, deadline: float) -> Any:
        """Return a waiter that ends with a node, once a place is taken for it there.

        It is a future of the kind that the manager's face waits for. A task's waiter ends at
        `deadline`, by the clock; a thread looks at its deadline itself. Once the manager closes,
        the waiter ends with PoolManagerClosedError. A caller that waits no more calls `leave`.
        """
        if self._closed:
            raise PoolManagerClosedError("the pool manager is closed")
        return self._waiters.join(request, deadline)

    def leave(self, request: Request, waiter: Waiter[Node[PoolT, ConnT]]) -> None:
        """Wait no more; a place that was handed over just before goes to the next waiter."""
        self._waiters.leave(request, waiter)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.vacate(waiter.result())

    def vacate(self, node: Node[PoolT, ConnT]) -> None:
        """Give a place back; if an acquire waits for it, that gets it now."""
        node.in_flight -= 1
        self.offer_place(node)

    def offer_place(self, node: Node[PoolT, ConnT]) -> None:
        """Offer a place that was given back to all that wait for one."""
        if node.succession is not None:
            node.succession.note_returned_place()
        if self._waiters.count:
            self.dispatch(1)
        if self._vacancy is not None:
            self.wake_drain()

    def next_vacancy(self) -> "asyncio.Future[None]":
        """Return a future that ends when the next place is given back."""
        if self._vacancy is None or self._vacancy.done():
            self._vacancy = asyncio.get_running_loop().create_future()
        return self._vacancy

    def dispatch(self, places: float = inf) -> None:
        """Hand free places, at most so many, to the waiters, the earliest first.

        Whatever interrupts this, no place is lost, and no waiter that was about to get one.
        """
        while places and self._waiters.count:
            for request in self._waiters.kinds():
                try:
                    node = self.occupy(request)
                except Exception as error:  # noqa: BLE001  # a user's policy: the acquire fails
                    waiter = self._waiters.next(request)
                    if not waiter.done():
                        waiter.set_exception(for_future(error))
                    break
                if node is None:
                    continue
                served: Waiter[Node[PoolT, ConnT]] | None = None
                handed = False
                try:
                    served = self._waiters.next(request)
                    if served.done():  # cancelled, and has not left yet
                        node.in_flight -= 1
                    else:
                        handed = True
                        served.set_result(node)
                        places -= 1
                except BaseException:
                    if served is not None and not served.done():
                        served.set_result(node)
                    elif not handed:
                        node.in_flight -= 1
                    raise
                break
            else:
                return

    def wake_drain(self) -> None:
        """Wake the task that waits for vacancies, so that it looks again."""
        if self._vacancy is not None and not self._vacancy.done():
            self._vacancy.set_result(None)

    def close(self) -> None:
        """End all waiters with PoolManagerClosedError, and refuse new ones with it."""
        self._closed = True
        self.route((), ())
        self._waiters.dismiss(PoolManagerClosedError("the pool manager was closed"))


def _by_priority(nodes: Sequence[Node[PoolT, ConnT]]) -> list[tuple[Node[PoolT, ConnT], ...]]:
    ranks = sorted({node.priority for node in nodes})
    return [tuple(node for node in nodes if node.priority == rank) for rank in ranks]
