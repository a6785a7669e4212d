"""Access to the storage of a rate: a limited number of acquires ask it at a time."""

from collections.abc import Callable
from sys import maxsize
from typing import Any

from hasql._routing.waiters import Waiters
from hasql.driver.os_threads import new_guard
from hasql.resilience.admission_gate import AdmissionGate, QueuedAcquire
from hasql.resilience.priority import Priority

__all__ = ("StorageAccess",)


class StorageAccess:
    """Makes acquires wait that would find no free connection to the storage while it answers.

    If they waited in the storage's client instead, an acquire without an answer could not tell
    whether the storage is silent or is answering others.

    Args:
        count: How many acquires may ask at once.
        waiters: The waiters for the others; each ends at its deadline.
        clock: The manager's clock.
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
        #: By key, until when there is no token. Noted only while acquires wait for their turns.
        self._used_up: dict[str, float] = {}

    @property
    def pause(self) -> float:
        """For how many more seconds the storage must not be asked; 0: it may be asked."""
        return max(0.0, self._pause_ends - self._clock())

    @property
    def waiting(self) -> int:
        """How many acquires wait for their turns."""
        return self._gate.waiting

    def begin_pause(self, seconds: float) -> None:
        """Stop asking a storage that has failed for so many seconds, and end the waits for it."""
        with self._lock:
            self._pause_ends = self._clock() + seconds
            self._gate.set_limit(maxsize, maxsize)
            self._gate.dispatch()

    def new(self, deadline: float) -> QueuedAcquire:
        """Make the turn of an acquire. The caller must call `give_back`, whatever happens.

        If `give_back` is interrupted, the caller must call it again: else the turn could be lost.
        """
        return QueuedAcquire(Priority.NORMAL, self._clock(), deadline)

    def take(self, turn: QueuedAcquire, deadline: float) -> Any:  # noqa: ANN401  # by face
        """Return the waiter to wait with until it is the acquire's turn; None: it is now.

        The waiter ends with TimeoutError at the deadline. Raises PoolManagerClosedError.
        """
        gate = self._gate
        with self._lock:
            if gate.limit > self._count and not self.pause:
                gate.set_limit(self._count, self._count)
            if gate.in_use < gate.limit:
                gate.in_use += 1
                turn.granted = True  # with no call in between, where a thread could be interrupted
                return None
            waiter = gate.join(turn, deadline)
            gate.dispatch()  # a finalizer may have given a turn back meanwhile
            return waiter

    def give_back(self, turn: QueuedAcquire) -> None:
        """End an acquire's turn so that the next one can ask, or end its wait for a turn."""
        with self._lock:
            self._gate.leave(turn)

    def note_answer(self, key: str, seconds: float) -> None:
        """Note that the storage has said in how many seconds there is a token for a key."""
        self._answered_at = now = self._clock()
        waiting = self._gate.waiting
        if len(self._used_up) >= waiting:
            # The acquires that wait look up no more keys than that, and there may be many keys.
            self._used_up.clear()
        if seconds and waiting:
            self._used_up[key] = now + seconds

    def known_wait(self, key: str) -> float:
        """Return for how many more seconds there is no token, as another was told; 0: ask."""
        return max(0.0, self._used_up.get(key, 0.0) - self._clock())

    def answered_since(self, moment: float) -> bool:
        """Tell whether the storage has answered since a given time, by the clock."""
        return self._answered_at >= moment

    def close(self) -> None:
        """Give no more turns, and end all waits: the manager is closing."""
        with self._lock:
            self._gate.close()
