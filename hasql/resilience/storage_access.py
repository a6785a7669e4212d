"""Whose turn it is to ask the storage of a rate: so many acquires at a time."""

from collections.abc import Callable
from sys import maxsize
from typing import Any

from hasql._routing.waiters import Waiters
from hasql.driver.os_threads import new_guard
from hasql.resilience.admission_gate import AdmissionGate, QueuedAcquire
from hasql.resilience.priority import Priority

__all__ = ("StorageAccess",)


class StorageAccess:
    """Has those wait who would find no connection to a storage, as long as it answers.

    Else nobody could tell whether the storage is silent, or others are being answered.

    Args:
        count: How many may ask at once.
        waiters: What the others wait with; they end at their deadlines.
        clock: The manager's.
    """

    def __init__(
        self, count: int, waiters: Waiters[Priority, None], clock: Callable[[], float]
    ) -> None:
        self._count = count
        self._clock = clock
        self._lock = new_guard()
        self._gate = AdmissionGate(
            count, maxsize, 0.0, waiters, clock, "connections to the storage"
        )
        self._pause_ends = self._answered_at = -float("inf")
        #: Until when the keys have no token of which others were told while somebody waited.
        self._used_up: dict[str, float] = {}

    @property
    def pause(self) -> float:
        """Return for how many seconds more the storage is left alone; 0: it is asked."""
        return max(0.0, self._pause_ends - self._clock())

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._gate.waiting

    def leave_alone(self, seconds: float) -> None:
        """Have nobody wait for a storage that has failed, and nobody ask it for so long."""
        with self._lock:
            self._pause_ends = self._clock() + seconds
            self._gate.set_limit(maxsize, maxsize)
            self._gate.dispatch()

    def new(self, deadline: float) -> QueuedAcquire:
        """Make the turn of an acquire; who has made it calls `give_back`, whatever happens.

        Once more if that was interrupted: else the turn could be lost.
        """
        return QueuedAcquire(Priority.NORMAL, self._clock(), deadline)

    def take(self, turn: QueuedAcquire, deadline: float) -> Any:  # noqa: ANN401  # by face
        """Return what to wait with until it is an acquire's turn; None: it is.

        That ends with TimeoutError at the deadline. Raises PoolManagerClosedError.
        """
        gate = self._gate
        with self._lock:
            if gate.limit > self._count and not self.pause:
                gate.set_limit(self._count, self._count)
            if gate.in_use < gate.limit:
                gate.in_use += 1
                turn.granted = True  # with no call in between, at which a thread is interrupted
                return None
            waiter = gate.join(turn, deadline)
            gate.dispatch()  # a finalizer may have given one back since
            return waiter

    def give_back(self, turn: QueuedAcquire) -> None:
        """Have the next one ask, if this one had its turn, or wait no more."""
        with self._lock:
            self._gate.leave(turn)

    def note_answer(self, key: str, seconds: float) -> None:
        """Take note that the storage has told somebody when there is a token."""
        self._answered_at = now = self._clock()
        waiting = self._gate.waiting
        if len(self._used_up) >= waiting:
            self._used_up.clear()  # so many do not look at more, and keys may be many
        if seconds and waiting:
            self._used_up[key] = now + seconds

    def told_others(self, key: str) -> float:
        """Return for how many seconds more there is no token, as others were told; 0: ask."""
        return max(0.0, self._used_up.get(key, 0.0) - self._clock())

    def answered_since(self, moment: float) -> bool:
        """Tell whether it has done so since a moment, by the clock."""
        return self._answered_at >= moment

    def close(self) -> None:
        """Give no turn any more."""
        with self._lock:
            self._gate.close()
