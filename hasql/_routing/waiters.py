"""The waiters for places on nodes, in the order of asking."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar

from hasql.driver.thread_waiter import ThreadWaiter

__all__ = ("AsyncWaiters", "ThreadWaiters", "Waiter", "Waiters")

_KindT = TypeVar("_KindT", bound=Hashable)
_PlaceT = TypeVar("_PlaceT")

#: By how much the number of deadlines may exceed twice that of the waiters, before the deadlines
#: of waiters that have left are swept out.
_SLACK = 32


class Waiter(Protocol[_PlaceT]):
    """One waiter: a future of asyncio's, or a `ThreadWaiter`."""

    def done(self) -> bool:
        """Tell whether the waiting has ended."""

    def cancelled(self) -> bool:
        """Tell whether the waiter was given up."""

    def exception(self) -> BaseException | None:
        """Return the error that it has ended with."""

    def result(self) -> _PlaceT:
        """Return the place that it has ended with."""

    def set_result(self, place: _PlaceT, /) -> None:
        """End it with a place."""

    def set_exception(self, error: BaseException, /) -> None:
        """End it with an error."""


class Waiters(Generic[_KindT, _PlaceT]):
    """A queue for each kind of place that can be waited for, each waiter with its own deadline."""

    def __init__(self) -> None:
        self._order = count()
        # Each waiter has its number in the order of asking. Queues are ordered dicts, because a
        # waiter that gives up leaves from the middle. Empty queues are not kept.
        self._queues: dict[_KindT, OrderedDict[Waiter[_PlaceT], int]] = {}
        #: The number of waiters in all queues.
        self.count = 0

    def _make(self, kind: _KindT, deadline: float) -> Waiter[_PlaceT]:
        """Make a waiter for a queue; it ends by `deadline`."""
        raise NotImplementedError

    def join(self, kind: _KindT, deadline: float) -> Waiter[_PlaceT]:
        """Put a new waiter at the end of a queue; it waits until `deadline`, by the clock."""
        waiter = self._make(kind, deadline)
        queue = self._queues.get(kind)
        if queue is None:
            queue = self._queues[kind] = OrderedDict()
        queue[waiter] = next(self._order)
        self.count += 1
        return waiter

    def leave(self, kind: _KindT, waiter: Waiter[_PlaceT]) -> None:
        """Take a waiter out of its queue, unless it is out already."""
        queue = self._queues.get(kind)
        if queue is not None and waiter in queue:
            # There is no call between these steps at which a thread could be interrupted.
            del queue[waiter]
            self.count -= 1
            if not queue:
                del self._queues[kind]

    def kinds(self) -> Sequence[_KindT]:
        """Return the kinds that are waited for, beginning with that of the earliest waiter."""
        kinds = tuple(self._queues)
        if len(kinds) < 2:  # noqa: PLR2004  # two have an order
            return kinds
        return sorted(kinds, key=lambda kind: next(iter(self._queues[kind].values())))

    def next(self, kind: _KindT) -> Waiter[_PlaceT]:
        """Take the first waiter out of a queue."""
        queue = self._queues[kind]
        waiter = next(iter(queue))
        del queue[waiter]  # as in `leave`
        self.count -= 1
        if not queue:
            del self._queues[kind]
        return waiter

    def dismiss(self, error: BaseException) -> None:
        """End all waiters with an error."""
        for queue in self._queues.values():
            for waiter in queue:
                _fail(waiter, error)


class AsyncWaiters(Waiters[_KindT, _PlaceT]):
    """The waiters of tasks; each ends with TimeoutError at its deadline.

    One timer serves all of them: nearly every waiter is served long before its deadline, and a
    timer of its own would be most of what waiting costs.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        # A heap of the deadlines, each with a unique number, its kind and its waiter. Entries of
        # waiters that have left are swept out now and then, so that leaving does not have to search
        # the heap.
        self._deadlines: list[tuple[float, int, _KindT, asyncio.Future[_PlaceT]]] = []

    def _make(self, kind: _KindT, deadline: float) -> "asyncio.Future[_PlaceT]":
        # Cached: a manager lives in one loop, and up to Python 3.11 asking for it costs a system
        # call.
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if deadline < self._timer_at:
            self._look_again_at(deadline, loop)
        waiter = loop.create_future()
        deadlines = self._deadlines
        if len(deadlines) > 2 * self.count + _SLACK:
            queues = self._queues
            deadlines[:] = [each for each in deadlines if each[3] in queues.get(each[2], ())]
            heapify(deadlines)
        heappush(deadlines, (deadline, next(self._order), kind, waiter))
        return waiter

    def dismiss(self, error: BaseException) -> None:
        """End all waiters with an error."""
        super().dismiss(error)
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _look_again_at(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = loop.call_later(deadline - self._clock(), self._end_overdue)

    def _end_overdue(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        now, deadlines = self._clock(), self._deadlines
        while deadlines:
            deadline, _, kind, waiter = deadlines[0]
            if waiter in self._queues.get(kind, ()):
                if deadline > now:
                    self._look_again_at(deadline, asyncio.get_running_loop())
                    return
                _fail(waiter, TimeoutError())
            heappop(deadlines)


class ThreadWaiters(Waiters[_KindT, _PlaceT]):
    """The waiters of threads; each thread looks at its deadline itself."""

    def _make(self, kind: _KindT, deadline: float) -> ThreadWaiter[_PlaceT]:
        del kind, deadline
        return ThreadWaiter()


def _fail(waiter: Waiter[_PlaceT], error: BaseException) -> None:
    if not waiter.done():
        waiter.set_exception(error)
