"""The connections that count as idle in a psycopg pool for threads, but are not there."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from hasql.driver.deadline import OutOfTimeError
from hasql.driver.thread_waiter import ThreadWaiter

if TYPE_CHECKING:
    from hasql._adapters.psycopg.thread_connection import ThreadConnection
    from hasql._adapters.psycopg.thread_slots import HeldPool, IdleConnections
    from hasql.driver.time_left import TimeLeft

__all__ = ("MissingConnectionReplacer", "MissingConnections")

#: Seconds after which a connection that is neither in the pool nor in use counts as lost: far more
#: than a thread needs to take one out of the pool, even if it waits for a processor meanwhile.
_LOST_AFTER = 1.0
#: Seconds between two looks: another thread may just be taking a connection out.
_LOOK = 0.005


class MissingConnections(NamedTuple):
    """The connections missed by an acquire that has a claim on a connection but finds none."""

    since: float
    #: By connection: when it was last known to be alive.
    connections: dict[ThreadConnection, float]


class MissingConnectionReplacer:
    """Replaces connections that the pool has lost.

    A thread that had just taken a connection out of the pool may be interrupted. Then no thread has
    that connection, but it still counts as idle: a thread with a claim on it would look for it for
    ever.

    Args:
        idle: The connections that count as idle.
        pool: psycopg's pool.
        replaces: Whether to replace them. Must be False if the application checks the connections
            that are taken out: a check may last long. Nor is it needed there, because a thread of
            hasql's own takes them out, which is never interrupted.
    """

    def __init__(self, idle: IdleConnections, pool: HeldPool, *, replaces: bool) -> None:
        self._idle = idle
        self._pool = pool
        self._replaces = replaces

    def wait(
        self, missed: MissingConnections | None, time_left: TimeLeft
    ) -> MissingConnections | None:
        """Wait a moment before an acquire looks again; replace what it has missed for too long.

        The acquire passes in what this returned before. Raises OutOfTimeError at the deadline.
        """
        if not time_left.seconds:
            raise OutOfTimeError from None
        missing = self._idle.unclaimed()
        if missed is None:
            missed = MissingConnections(monotonic(), missing)
        elif self._replaces and monotonic() - missed.since > _LOST_AFTER:
            # A connection that was leased and given back meanwhile has a later time, so its item is
            # not in both.
            for connection, _ in missed.connections.items() & missing.items():
                if self._idle.remove(connection):
                    connection.close()
                    self._pool.replace(connection)
            return None
        never: ThreadWaiter[None] = ThreadWaiter()
        time_left.ended_within(never, min(_LOOK, time_left.seconds))
        return missed
