"""psycopg's pool for threads, and which of its connections are idle or claimed by a thread."""

# long: psycopg's pool, and how its connections are counted without a lock.

from __future__ import annotations

from collections import deque
from threading import get_ident, local
from typing import TYPE_CHECKING, Any

from psycopg import OperationalError
from psycopg_pool import ConnectionPool
from psycopg_pool.pool import AddConnection, ReturnConnection

from hasql.driver.os_threads import new_guard
from hasql.driver.threads import end_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from psycopg_pool.pool import MaintenanceTask

    from hasql._adapters.psycopg.thread_connection import ThreadConnection

__all__ = ("HeldPool", "IdleConnections", "LostConnectionError", "take_inserted")

#: For each thread: the `connection` that it is putting into a pool, and whether it is in `take`.
_thread = local()


class LostConnectionError(BaseException):
    """Ends a getconn() of psycopg's pool that has taken out a lost connection.

    It does not derive from Exception: after an Exception the pool would pause and try again.
    """


def take_inserted() -> Any:
    """Return the connection that the current thread is putting into a pool."""
    connection, _thread.connection = _thread.connection, None
    return connection


class HeldPool(ConnectionPool[Any]):
    """psycopg's pool, but it leaves connecting to its adapter.

    psycopg's own pool logs each connect that fails, tells it to no one else, and retries at growing
    intervals. Here a task that adds a connection is put aside in `missing` until there is a
    connection, and then `insert` runs it.
    """

    def __init__(
        self,
        *args: Any,
        on_missing: Callable[[], None],
        has_claim: Callable[[int], bool],
        **kwargs: Any,
    ) -> None:
        self.has_claim = has_claim
        #: One task for each place that lacks a connection.
        self.missing: deque[AddConnection] = deque()
        self.on_missing = on_missing
        self.growth = new_guard()
        super().__init__(*args, **kwargs)

    @property
    def max_waiting(self) -> int:
        """How many threads may wait in the pool. A thread with a claim must not wait at all."""
        return -1 if self.has_claim(get_ident()) else self.most_waiting

    @max_waiting.setter
    def max_waiting(self, value: int) -> None:
        self.most_waiting = value

    def run_task(self, task: MaintenanceTask) -> None:
        """Run a task; in a worker unless it adds or returns a connection."""
        if isinstance(task, AddConnection):
            self.missing.append(task)
            self.on_missing()
        elif isinstance(task, ReturnConnection):
            task.run()  # it does not wait: the adapter has already reset the connection
        else:
            super().run_task(task)

    def take(self, seconds: float) -> Any:
        """Take a connection out without a claim; return None if it was lost.

        Raises PoolTimeout if there is none within `seconds`.
        """
        _thread.takes = True
        try:
            return self.getconn(timeout=seconds)
        except LostConnectionError:
            return None
        finally:
            _thread.takes = False

    def replace(self, connection: ThreadConnection) -> None:
        """Fill the place of a closed connection, which no thread has, with a new one."""
        try:
            self.putconn(connection)
        except ValueError:  # the pool no longer knows it as its own
            self.run_task(AddConnection(self))

    @staticmethod
    def found_lost(*, for_us: bool) -> None:
        """Raise an error that makes the pool discard the connection just taken out.

        LostConnectionError if hasql took it out, OperationalError if the application did, directly.
        """
        if for_us or getattr(_thread, "takes", False):
            raise LostConnectionError
        raise OperationalError("the connection was lost while it was idle")

    def has_vacancy(self) -> bool:
        """Tell whether the pool can take one more connection."""
        return bool(self.missing) or self.get_stats()["pool_size"] < self.max_size

    def close_in_thread(self) -> Future[object]:
        """Close the pool in a thread, because closing waits for the pool's own threads."""
        return end_in_thread(self.close, "hasql close")

    def insert(self, connection: ThreadConnection) -> bool:
        """Put a new connection in; return False if there is no place, or the pool is closed."""
        with self.growth:
            if not self.missing and self.get_stats()["pool_size"] < self.max_size:
                least, most = self.min_size, self.max_size
                self.resize(least + 1, most)  # this makes one more place
                self.resize(least, most)
            try:
                task = self.missing.popleft()
            except IndexError:
                return False
        _thread.connection = connection
        task.run()
        inserted: bool = _thread.connection is None
        _thread.connection = None
        return inserted


class IdleConnections:
    """The idle connections of a pool, and the threads that have a claim on one of them.

    A thread that has a claim finds a connection in the pool at once, so a thread of the
    application's never waits in psycopg's pool. If a thread were interrupted while it waits there,
    the pool would lose a place, and one more for each connection that came to the thread's place in
    the queue.

    A lock would cost as much as everything else here. Without a lock the counts may be wrong for a
    moment, but only in one direction: a claim counts from before it is granted until its connection
    no longer counts as idle. So there are never more granted claims than idle connections.
    """

    def __init__(self) -> None:
        #: The lock of the threads that wait until there is something to claim.
        self.lock = new_guard()
        self._idle: set[ThreadConnection] = set()
        #: By thread: the connection that its claim has led to; None: to none yet.
        self._claims: dict[int, ThreadConnection | None] = {}

    def __len__(self) -> int:
        return len(self._idle)

    def claim(self, thread: int) -> bool:
        """Claim a connection for a thread, if there is one that no other thread has claimed."""
        self._claims[thread] = None
        if len(self._idle) >= len(self._claims):
            return True
        self.give_up_claim(thread)
        return False

    def claim_next(self, thread: int) -> None:
        """Claim for a thread the connection that is about to be put in."""
        self._claims[thread] = None

    def give_up_claim(self, thread: int) -> ThreadConnection | None:
        """End a thread's claim; return the connection that it has led to, if there is one."""
        return self._claims.pop(thread, None)

    def has_claim(self, thread: int) -> bool:
        """Tell whether a thread has a claim, even if it has already led to a connection."""
        return thread in self._claims

    def note_taken(self, connection: ThreadConnection, thread: int) -> None:
        """Take note that a thread has taken a connection out of the pool.

        If the thread has a claim, the connection counts as idle until `fulfil_claim` is called.
        """
        connection.taken = True
        if thread in self._claims:
            self._claims[thread] = connection
        else:
            self._idle.discard(connection)

    def fulfil_claim(self, connection: ThreadConnection, thread: int) -> None:
        """Take note that a thread has got the connection of its claim; this ends the claim."""
        self._idle.discard(connection)
        del self._claims[thread]  # not a method call: an interrupt could come as that returns

    def note_idle(self, connection: ThreadConnection) -> None:
        """Take note that a connection is in the pool, unless it was taken out or lost."""
        if not (connection.taken or connection.lost):
            self._idle.add(connection)
            if connection.taken or connection.lost:  # meanwhile, in another thread
                self._idle.discard(connection)

    def unclaimed(self) -> dict[ThreadConnection, float]:
        """Return the idle connections that no claim has led to, and when each was last alive."""
        unclaimed = self._idle.copy().difference(self._claims.copy().values())
        return {connection: connection.alive_at for connection in unclaimed}

    def remove(self, connection: ThreadConnection) -> bool:
        """Remove an idle connection; return False if another thread has removed or taken it."""
        try:
            self._idle.remove(connection)
        except KeyError:
            return False
        return True

    def note_unusable(self, connection: ThreadConnection) -> None:
        """Take note that a connection is no longer usable."""
        self._idle.discard(connection)
