"""The gate of admission: whether an acquire may take a lease now, and which one is next."""

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from hasql._routing.waiters import Waiter, Waiters
from hasql.errors import OverloadedError, PoolManagerClosedError
from hasql.metrics import AdmissionMetrics
from hasql.resilience.adaptive_limit import AdaptiveLimit, open_to_all
from hasql.resilience.priority import Priority

__all__ = ("AdmissionGate", "QueuedAcquire")

#: How many acquires that no longer wait a queue may hold before they are swept out.
_SLACK = 32


class QueuedAcquire:
    """An acquire that waits at a gate, or is about to."""

    __slots__ = ("counted", "granted", "half_at", "left", "number", "priority", "waiter")

    def __init__(self, priority: Priority, now: float, deadline: float) -> None:
        self.priority = priority
        #: When half of its time to wait is over, by the clock.
        self.half_at = now + (deadline - now) / 2
        self.number = 0
        self.waiter: Waiter[None] | None = None
        #: Whether it was counted as waiting, whether it has been given a permit that `leave` must
        #: take back, and whether it has stopped waiting.
        self.counted = self.granted = self.left = False

    def __lt__(self, other: "QueuedAcquire") -> bool:
        return (self.half_at, self.number) < (other.half_at, other.number)


class AdmissionGate:
    """Gives out a limited number of permits. Each method is one step, under the caller's lock.

    If a thread is interrupted within a step, calling `dispatch` completes that step: a count and
    the flags that belong to it change together, with no call of other code in between.

    Args:
        limit: How many permits there are at most.
        queue: How many acquires may wait.
        reserve: The share of the permits that is kept for `Priority.CRITICAL`.
        waiters: The waiters for acquires that wait; each ends at its deadline.
        clock: The manager's clock.
        what: What the permits are for, in messages.
        adaptive: Moves the limit; None: the limit is fixed.
    """

    def __init__(  # noqa: PLR0913  # made in one place
        self,
        limit: int,
        queue: int,
        reserve: float,
        waiters: Waiters[Priority, None],
        clock: Callable[[], float],
        what: str,
        adaptive: AdaptiveLimit | None = None,
    ) -> None:
        self._queue_size = queue
        self._waiters = waiters
        self._clock = clock
        self._what = what
        self._adaptive = adaptive
        self._closed = False
        #: How many permits there are, and how many of them are for all priorities.
        if adaptive is None:
            self.limit, self.open_limit = limit, open_to_all(limit, reserve)
        else:
            self.limit, self.open_limit = adaptive.limit, adaptive.open_limit
        self.in_use = 0
        self.waiting = 0
        self._numbers = count()
        #: The waiting acquires in the order of asking, and again by `half_at`, the critical ones
        #: under True. Those that no longer wait stay in both for a while, and are skipped.
        self._queues: dict[Priority, deque[QueuedAcquire]] = {level: deque() for level in Priority}
        self._by_age: dict[bool, list[QueuedAcquire]] = {True: [], False: []}
        #: The acquire that has been given a permit but has not been woken yet.
        self._waking: QueuedAcquire | None = None
        self.waits = self.refusals = self.timeouts = 0

    def set_limit(self, limit: int, open_limit: int) -> None:
        """Give out at most so many permits from now on; those that are out stay out."""
        if not self._closed:
            self.limit, self.open_limit = limit, open_limit

    def note(self, seconds: float) -> None:
        """Note how many seconds a lease took that has ended without an error."""
        adaptive = self._adaptive
        if adaptive is not None and adaptive.note(seconds, self.in_use):
            self.set_limit(adaptive.limit, adaptive.open_limit)

    def join(self, acquire: QueuedAcquire, deadline: float) -> Any:  # noqa: ANN401  # by face
        """Put an acquire into the queue; return the waiter to wait with.

        The waiter ends with a permit, with TimeoutError at the deadline, or with the error to
        raise. If it ends in any other way than with a permit, the caller calls `leave`.

        Raises OverloadedError if the queue is full and no acquire of lower priority is in it.
        """
        if self._closed:
            raise _closed()
        if self.waiting >= self._queue_size:
            self._make_room_for(acquire)
        waiter = self._waiters.join(acquire.priority, deadline)
        acquire.waiter, acquire.number = waiter, next(self._numbers)
        self._drop_ended()
        self._queues[acquire.priority].append(acquire)
        heappush(self._by_age[acquire.priority is Priority.CRITICAL], acquire)
        acquire.counted = True
        self.waiting += 1
        self.waits += 1
        return waiter

    def leave(self, acquire: QueuedAcquire) -> None:
        """End an acquire's wait, and take back the permit that it was given, if any."""
        if acquire.granted:
            acquire.granted = False
            self.in_use -= 1
        self._remove(acquire)
        self.release_waiter(acquire)
        self.dispatch()

    def release_waiter(self, acquire: QueuedAcquire) -> None:
        """Release the waiter that an acquire has waited with."""
        if acquire.waiter is not None:
            self._waiters.leave(acquire.priority, acquire.waiter)

    def dispatch(self) -> None:
        """Give free permits to waiting acquires, and wake them."""
        while (acquire := self._waking or self._next()) is not None:
            if acquire is not self._waking:
                acquire.granted = True
                self.in_use += 1
                self._waking = acquire
            waiter = acquire.waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            self._remove(acquire)
            self._waking = None

    def close(self) -> None:
        """Give out no more permits: acquires, waiting or new, raise PoolManagerClosedError."""
        self._closed = True
        self.limit = self.open_limit = 0
        self._waiters.dismiss(_closed())

    def too_late(self, seconds: float) -> OverloadedError:
        """Make the error for an acquire that has waited until its deadline."""
        self.timeouts += 1
        return OverloadedError(
            f"no admission within {seconds:g} s: {self._state()}; hold connections for a shorter "
            "time, try later, or raise the limit if the servers can do more"
        )

    def measure(self) -> AdmissionMetrics:
        """Take a snapshot."""
        return AdmissionMetrics(
            limit=self.limit,
            in_use=self.in_use,
            waiting=self.waiting,
            waits=self.waits,
            refusals=self.refusals,
            timeouts=self.timeouts,
        )

    def _state(self) -> str:
        return f"{self.in_use} of {self.limit} {self._what} are out and {self.waiting} waiting"

    def _overloaded(self) -> OverloadedError:
        self.refusals += 1
        return OverloadedError(
            f"overloaded: {self._state()}, the most allowed (queue={self._queue_size}); try "
            "later, do less at once, or raise limit or queue"
        )

    def _make_room_for(self, acquire: QueuedAcquire) -> None:
        """Refuse the last waiting acquire of the lowest priority, or else the given one.

        Only acquires of a lower priority than the given one can be refused in its place. Raises
        OverloadedError if there are none.
        """
        for priority in sorted(Priority, reverse=True):
            if priority <= acquire.priority:
                break
            queue = self._queues[priority]
            while queue and queue[-1].left:
                queue.pop()
            if queue:
                last = queue[-1]
                self._remove(last)
                if last.waiter is not None and not last.waiter.done():
                    last.waiter.set_exception(self._overloaded())
                return
        raise self._overloaded()

    def _remove(self, acquire: QueuedAcquire) -> None:
        if acquire.counted and not acquire.left:
            self.waiting -= 1
        acquire.left = True

    def _next(self) -> QueuedAcquire | None:
        """Return the acquire that gets the next permit; None if no permit is free for any."""
        room_for_all = self.in_use < self.open_limit
        if not self.waiting or (not room_for_all and self.in_use >= self.limit):
            return None
        for acquire in (self._oldest(room_for_all), *map(self._first, Priority)):
            if acquire is not None and (room_for_all or acquire.priority is Priority.CRITICAL):
                return acquire
        return None

    def _oldest(self, room_for_all: bool) -> QueuedAcquire | None:  # noqa: FBT001  # private
        """Return the acquire with the earliest `half_at`, if that time has passed."""
        now, found = self._clock(), []
        for critical in (True, False) if room_for_all else (True,):
            acquires = self._by_age[critical]
            while acquires and _has_ended(acquires[0]):
                self._remove(heappop(acquires))
            if acquires and acquires[0].half_at <= now:
                found.append(acquires[0])
        return min(found, default=None)

    def _first(self, priority: Priority) -> QueuedAcquire | None:
        queue = self._queues[priority]
        while queue and _has_ended(queue[0]):
            self._remove(queue.popleft())
        return queue[0] if queue else None

    def _drop_ended(self) -> None:
        """Drop acquires that no longer wait from a queue, once it holds too many of them."""
        for critical, acquires in self._by_age.items():
            if len(acquires) > 2 * self.waiting + _SLACK:
                kept = [acquire for acquire in acquires if not acquire.left]
                heapify(kept)
                self._by_age[critical] = kept
        for priority, queue in self._queues.items():
            if len(queue) > 2 * self.waiting + _SLACK:
                self._queues[priority] = deque(acquire for acquire in queue if not acquire.left)


def _has_ended(acquire: QueuedAcquire) -> bool:
    """Tell whether an acquire no longer waits, or has given up but not called `leave` yet."""
    return acquire.left or acquire.waiter is None or acquire.waiter.done()


def _closed() -> PoolManagerClosedError:
    return PoolManagerClosedError("the pool manager is closing")
