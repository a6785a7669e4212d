"""The router of a manager whose leases threads take and give back."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from math import inf
from typing import Any

from hasql._routing.node import Node
from hasql._routing.request import Request
from hasql._routing.router import Router
from hasql._routing.waiters import ThreadWaiters, Waiter
from hasql.balancer_policy.base import BaseBalancerPolicy
from hasql.driver import ConnT, PoolT

__all__ = ("SharedRouter",)


_occupy = Router.occupy  # called on each acquire, where super() would double the cost


class SharedRouter(Router[PoolT, ConnT]):
    """A router for several threads at once: each call is one step under the guard."""

    def __init__(
        self,
        policy: BaseBalancerPolicy,
        guard: AbstractContextManager[object],
        in_loop: Callable[..., None],
    ) -> None:
        super().__init__(policy, ThreadWaiters())
        self._guard = guard
        self._in_loop = in_loop
        #: Whether the waiters are just changing, and whether to look for free places after that. A
        #: finalizer or a signal's handler may give a connection back in the middle of a change. It
        #: runs in the same thread, so the guard does not keep it out.
        self._changing = self._look_again = False

    def occupy(self, request: Request) -> Node[PoolT, ConnT] | None:
        """Take a place; see `Router.occupy`."""
        node = None
        try:
            with self._guard:
                node = _occupy(self, request)
        except BaseException:
            if node is not None:  # a signal's handler has raised just as the guard was left
                self.vacate(node)
            raise
        return node

    def occupy_on(self, node: Node[PoolT, ConnT]) -> None:
        """Take a place on this node; see `Router.occupy_on`."""
        taken = False
        try:
            with self._guard:
                super().occupy_on(node)
                taken = True
        except BaseException:
            if taken:  # as above
                self.vacate(node)
            raise

    def occupy_current(self, node: Node[PoolT, ConnT]) -> Node[PoolT, ConnT]:
        """Take a place on this node, or on its successor; see `Router.occupy_current`."""
        current = None
        try:
            with self._guard:  # else its pool could be resized between the two steps
                current = super().occupy_current(node)
        except BaseException:
            if current is not None:  # as above
                self.vacate(current)
            raise
        return current

    def leave(self, request: Request, waiter: Waiter[Node[PoolT, ConnT]]) -> None:
        """Wait no more; see `Router.leave`."""
        with self._guard:
            self._changing = True
            try:
                super().leave(request, waiter)
            finally:
                self._changing = False
            if self._look_again:
                self.dispatch()

    def join(self, request: Request, deadline: float) -> Any:
        """Return a waiter for a place; to be called under the guard. See `Router.join`.

        The caller has to call `dispatch` then, because a place may be free by now.
        """
        self._changing = True
        try:
            return super().join(request, deadline)
        finally:
            self._changing = False

    def vacate(self, node: Node[PoolT, ConnT]) -> None:
        """Give a place back; see `Router.vacate`."""
        with self._guard:
            super().vacate(node)

    def release_place(self, node: Node[PoolT, ConnT]) -> None:
        """Count a place as given back, under the guard; if interrupted, it has not happened.

        The caller has to call `offer_place` then.
        """
        node.in_flight -= 1  # the only step, so no signal's handler can run after it

    def dispatch(self, places: float = inf) -> None:
        """Hand free places to the waiters; see `Router.dispatch`."""
        with self._guard:
            if self._changing:
                self._look_again = True
                return
            self._changing = True
            try:
                super().dispatch(places)
                while self._look_again:
                    self._look_again = False
                    super().dispatch()
            finally:
                self._changing = False

    def wake_drain(self) -> None:
        """Wake the task that waits for vacancies, in the event loop."""
        self._in_loop(super().wake_drain)
