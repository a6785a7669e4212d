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


_occupy = Router.occupy  # called for each acquire, where super() costs as much again


class SharedRouter(Router[PoolT, ConnT]):
    """A router for several threads at once: what each calls is one step under the guard."""

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
        #: finalizer and a signal's handler may give a connection back in the midst of it, in the
        #: same thread, for which the guard is no obstacle.
        self._changing = self._look_again = False

    def occupy(self, request: Request) -> Node[PoolT, ConnT] | None:
        """Take a place; see `Router.occupy`."""
        node = None
        try:
            with self._guard:
                node = _occupy(self, request)
        except BaseException:
            if node is not None:  # a signal's, as the guard was left
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
        """Take a place on this node, or its heir; see `Router.occupy_current`."""
        current = None
        try:
            with self._guard:  # or its pool could be resized in between
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
        """Wait for a place, under the guard; see `Router.join`.

        `dispatch` is for the caller to call then: a place may be free by now.
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

    def free(self, node: Node[PoolT, ConnT]) -> None:
        """Count a place as given back, under the guard; what interrupts this has it undone.

        `hand_on` is for the caller to call then.
        """
        node.in_flight -= 1  # by nothing else, so that no signal's handler comes after it

    def dispatch(self, places: float = inf) -> None:
        """Hand free places to those who wait; see `Router.dispatch`."""
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
        """Let whoever waits for vacancies look again; that is a task of the event loop's."""
        self._in_loop(super().wake_drain)
