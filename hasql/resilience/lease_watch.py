"""The watch on leases: reports those that are out for too long, and reclaims dropped ones."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from functools import partial
from sys import _getframe
from threading import current_thread
from typing import TYPE_CHECKING, Any, Protocol

from hasql._leasing.book import LeaseBook
from hasql._leasing.held_weakly import hold_weakly
from hasql._leasing.layers import Layer
from hasql._leasing.lease import Lease
from hasql._leasing.lease_infos import calls_that_led_here, info_of
from hasql._leasing.loop_binding import LoopBinding
from hasql._leasing.options import InLoop
from hasql._routing.node import Node
from hasql.diagnostics import correlation_id
from hasql.driver import DriverPool
from hasql.events import LeaseDropped, LeaseOverdue
from hasql.resilience.lifecycle import Lifecycle

if TYPE_CHECKING:
    from hasql.resilience.idle_upkeep import IdleUpkeep

__all__ = ("LeaseEnder", "LeaseWatch", "name_of_task", "name_of_thread")


class LeaseEnder(Protocol):
    """Ends leases in the application's place."""

    def terminate(self, lease: Lease[Any, Any]) -> None:
        """Break a connection that is in use, and free its places."""

    def reclaim(self, lease: Lease[Any, Any]) -> None:
        """Close a connection that the application has dropped, and give it back."""


def name_of_task(binding: LoopBinding) -> str | None:
    """Return the name of the current task, in the loop that a manager is bound to."""
    # Without the argument, asyncio would look up the loop: up to Python 3.11 a system call.
    task = asyncio.current_task(binding.loop)
    return None if task is None else task.get_name()


def name_of_thread() -> str:
    """Return the name of the current thread."""
    return current_thread().name


class LeaseWatch(Layer):
    """A layer around each lease that notes its holder. All leases share one timer, none when idle.

    A look goes through all leases that are out. The next look comes when the oldest lease not
    reported yet will have been out for `leak_threshold` seconds.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        lifecycle: Lifecycle,
        book: LeaseBook[Any, Any],
        ends: LeaseEnder,
        clock: Callable[[], float],
        guard: AbstractContextManager[object],
        in_loop: InLoop,
        tell: Callable[[LeaseOverdue | LeaseDropped], None],
        name_of_holder: Callable[[], str | None],
    ) -> None:
        self._threshold = lifecycle.leak_threshold
        self._terminates = lifecycle.leak_action == "terminate"
        self._stacks = lifecycle.stacks
        self._book = book
        self._ends = ends
        self._clock = clock
        self._guard = guard
        self._in_loop = in_loop
        self._tell = tell
        self._name_of_holder = name_of_holder
        self._timer: asyncio.TimerHandle | None = None
        #: Whether a look is scheduled, or none is needed; read on each acquire.
        self._is_set = self._threshold is None
        #: Closes connections that are too old, if the driver does not.
        self.upkeep: IdleUpkeep[Any, Any] | None = None
        #: Whether this is a forked child: then all open connections belong to its parent.
        self.inherited = False
        #: How many leases were out for too long, and how many were dropped.
        self.overdue = 0
        self.dropped = 0

    # As a layer

    def lent(self, lease: Lease[Any, Any]) -> None:
        """Note the holder of the lease."""
        lease.task = self._name_of_holder()
        if self._stacks:
            lease.calls = calls_that_led_here(_getframe(2))
        if lease.released_by_call and lease.node is not None and lease.node.reports_drops:
            hold_weakly(lease)
        if not self._is_set:
            self._is_set = True
            self._in_loop(self._set)

    # Out for too long

    def _set(self) -> None:
        if self._timer is None and self._threshold is not None:
            self._look_in(self._threshold)

    def _look_in(self, seconds: float) -> None:
        self._is_set = True
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        assert self._threshold is not None  # noqa: S101  # else there is no timer
        # Reset before the loop over the leases: one that is lent after that schedules its own look.
        self._timer, self._is_set = None, False
        now, next_due = self._clock(), None
        with self._guard:
            for lease in self._book.all():
                if lease.leak_reported or not lease.lent_at:
                    continue
                due = lease.lent_at + self._threshold
                if due <= now:
                    self._report(lease, now)
                else:
                    next_due = due if next_due is None else min(due, next_due)
        if next_due is not None:
            self._look_in(next_due - now)

    def _report(self, lease: Lease[Any, Any], now: float) -> None:
        info = info_of(lease, now)
        if info is None:
            return
        lease.leak_reported = True
        self.overdue += 1
        self._tell_of(LeaseOverdue(info.host, info, self._terminates))
        if self._terminates:
            self._ends.terminate(lease)

    def _tell_of(self, event: LeaseOverdue | LeaseDropped) -> None:
        """Tell listeners of a lease, under the lease's own correlation id.

        The code that has set the timer or collected the garbage may belong to another request.
        """
        context = Context()
        context.run(correlation_id.set, event.lease.correlation_id)
        context.run(self._tell, event)

    def cancel(self) -> None:
        """Cancel the timer, and set no further one."""
        self._is_set = True
        if self._timer is not None:
            self._timer.cancel()

    # Dropped

    def watch(self, node: Node[Any, Any], pool: DriverPool[Any, Any]) -> None:
        """Ask a pool to report dropped connections, if it can."""
        node.reports_drops = pool.watch_drops(self._note_drop)
        if self.upkeep is not None:
            self.upkeep.begin()

    def _note_drop(self, identity: int, revive: Callable[[], Any]) -> bool:
        # This is called in the middle of anything, in any thread, so it must not wait. It must not
        # even take the guard: this thread may hold a lock that the holder of the guard waits for.
        if self.inherited:
            return False
        lease = self._book.take_dropped(identity)
        if lease is not None:
            self._in_loop(partial(self._take_back, lease, revive))
        return lease is not None

    def _take_back(self, lease: Lease[Any, Any], revive: Callable[[], Any]) -> None:
        with self._guard:
            self._book.enter_again(lease, revive())
            info = info_of(lease, self._clock())
            if info is not None:
                self.dropped += 1
                self._tell_of(LeaseDropped(info.host, info))
            self._ends.reclaim(lease)
