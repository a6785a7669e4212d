"""The connections that a psycopg pool for threads should have, and has not."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from hasql.driver.deadline import OutOfTimeError
from hasql.driver.thread_waiter import ThreadWaiter

if TYPE_CHECKING:
    from hasql._adapters.psycopg.thread_connection import ThreadConnection
    from hasql._adapters.psycopg.thread_slots import HeldPool, IdleConnections
    from hasql.driver.time_left import TimeLeft

__all__ = ("Missed", "Misses")

#: Seconds after which a connection is lost that was neither in the pool nor in use: far more than
#: it takes to take one out.
_LOST_AFTER = 0.1
#: Seconds between two looks for one that another thread may just be taking out.
_LOOK = 0.005


class Missed(NamedTuple):
    """What an acquire misses that has a claim on a connection and finds none."""

    since: float
    #: When each was last known to be alive.
    connections: dict[ThreadConnection, float]


class Misses:
    """Replaces what the pool has lost, as a thread was interrupted that had just taken it out.

    Nobody has that, and it counts as idle: who has a claim on it would look for it for ever.

    Args:
        idle: What counts as idle.
        pool: psycopg's.
        replaces: Whether it does. Not where the application checks what is taken out: that may last
            for long, and a thread of hasql's own does it, which nobody interrupts.
    """

    def __init__(self, idle: IdleConnections, pool: HeldPool, *, replaces: bool) -> None:
        self._idle = idle
        self._pool = pool
        self._replaces = replaces

    def wait(self, missed: Missed | None, time_left: TimeLeft) -> Missed | None:
        """Wait a moment until an acquire looks again; replace what it has missed for long.

        It hands in what this has returned before. Raises OutOfTimeError at the deadline.
        """
        if not time_left.seconds:
            raise OutOfTimeError from None
        missing = self._idle.unfound()
        if missed is None:
            missed = Missed(monotonic(), missing)
        elif self._replaces and monotonic() - missed.since > _LOST_AFTER:
            # What is lent and given back meanwhile has been alive since.
            for connection, _ in missed.connections.items() & missing.items():
                if self._idle.lose(connection):
                    connection.close()
                    self._pool.replace(connection)
            return None
        never: ThreadWaiter[None] = ThreadWaiter()
        time_left.ended_within(never, min(_LOOK, time_left.seconds))
        return missed
