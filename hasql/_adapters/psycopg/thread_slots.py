"""psycopg's pool, with its places: which hold a connection for whom."""

from __future__ import annotations

from collections import deque
from threading import local
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

#: Of a thread: the `connection` that it is putting into a pool, and whether it takes one by `take`.
_thread = local()


class LostConnectionError(BaseException):
    """Has psycopg's pool return without the connection that it took, as that was lost.

    It is no Exception: after one the pool would pause.
    """


def take_inserted() -> Any:
    """Return the connection that the current thread is putting into a pool."""
    connection, _thread.connection = _thread.connection, None
    return connection


class HeldPool(ConnectionPool[Any]):
    """psycopg's pool, which leaves the connecting to its adapter.

    By itself it would log each connect that fails, tell nobody else of it, and try later and later.
    Here a task that is to add a connection waits until there is one, and `insert` has it done.
    """

    def __init__(self, *args: Any, on_missing: Callable[[], None], **kwargs: Any) -> None:
        #: The places that lack a connection.
        self.missing: deque[AddConnection] = deque()
        self.on_missing = on_missing
        self.growth = new_guard()
        super().__init__(*args, **kwargs)

    def run_task(self, task: MaintenanceTask) -> None:
        """Do a task, in a worker if it is none of those that lend connections."""
        if isinstance(task, AddConnection):
            self.missing.append(task)
            self.on_missing()
        elif isinstance(task, ReturnConnection):
            task.run()  # which waits for nothing: the adapter has reset the connection
        else:
            super().run_task(task)

    def take(self, seconds: float) -> Any:
        """Take a connection out, without a claim; None: it was lost. Raises PoolTimeout."""
        _thread.takes = True
        try:
            return self.getconn(timeout=seconds)
        except LostConnectionError:
            return None
        finally:
            _thread.takes = False

    @staticmethod
    def found_lost(*, for_us: bool) -> None:
        """Have the pool discard the connection that the current thread has taken out.

        Raises LostConnectionError if that is the adapter at work, else OperationalError.
        """
        if for_us or getattr(_thread, "takes", False):
            raise LostConnectionError
        raise OperationalError("the connection was lost while it was idle")

    def has_vacancy(self) -> bool:
        """Tell whether it can take one more connection."""
        return bool(self.missing) or self.get_stats()["pool_size"] < self.max_size

    def close_in_thread(self) -> Future[object]:
        """Close it, which waits for its threads."""
        return end_in_thread(self.close, "hasql close")

    def insert(self, connection: ThreadConnection) -> bool:
        """Put a new connection in; False: there is no place for it, or the pool is closed."""
        with self.growth:
            if not self.missing and self.get_stats()["pool_size"] < self.max_size:
                least, most = self.min_size, self.max_size
                self.resize(least + 1, most)  # which is how one more place is made
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
    """The connections that wait for use, and the threads that are about to take one.

    A thread that has a claim finds one in the pool at once: so no thread of the application's ever
    waits in the pool, which would lose a place if the thread were interrupted.
    """

    def __init__(self) -> None:
        self.lock = new_guard()
        self._idle: set[ThreadConnection] = set()
        self._claims: set[int] = set()

    def __len__(self) -> int:
        return len(self._idle)

    @property
    def has_unclaimed(self) -> bool:
        """Whether there is one that no thread has claimed."""
        return len(self._idle) > len(self._claims)

    def claim(self, thread: int) -> bool:
        """Claim one for a thread, if there is one that no other has claimed."""
        with self.lock:
            if len(self._idle) > len(self._claims):
                self._claims.add(thread)
                return True
            return False

    def claim_for(self, thread: int) -> None:
        """Claim one that was just put in for another thread; to be called under the lock."""
        self._claims.add(thread)

    def give_up_claim(self, thread: int) -> None:
        """Let a thread have no claim any more."""
        with self.lock:
            self._claims.discard(thread)

    def taken(self, connection: ThreadConnection, thread: int) -> bool:
        """Take note that a thread has taken one out of the pool; return whether it had a claim."""
        with self.lock:
            connection.taken = True
            self._idle.discard(connection)
            claimed = thread in self._claims
            self._claims.discard(thread)
            return claimed

    def put(self, connection: ThreadConnection) -> None:
        """Take note that one is in the pool, unless it was taken or lost; under the lock."""
        if not (connection.taken or connection.lost):
            self._idle.add(connection)

    def gone(self, connection: ThreadConnection) -> None:
        """Take note that one is of no use any more."""
        with self.lock:
            self._idle.discard(connection)
