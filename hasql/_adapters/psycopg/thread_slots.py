"""psycopg's pool, with its places: which hold a connection for whom."""

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

    def __init__(
        self,
        *args: Any,
        on_missing: Callable[[], None],
        has_claim: Callable[[int], bool],
        **kwargs: Any,
    ) -> None:
        self.has_claim = has_claim
        #: The places that lack a connection.
        self.missing: deque[AddConnection] = deque()
        self.on_missing = on_missing
        self.growth = new_guard()
        super().__init__(*args, **kwargs)

    @property
    def max_waiting(self) -> int:
        """How many may wait in it. Of those that have a claim none: see `IdleConnections`."""
        return -1 if self.has_claim(get_ident()) else self.most_waiting

    @max_waiting.setter
    def max_waiting(self, value: int) -> None:
        self.most_waiting = value

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

    def replace(self, connection: ThreadConnection) -> None:
        """Have the place of a connection filled anew that is closed, and that nobody has."""
        try:
            self.putconn(connection)
        except ValueError:  # it does not even know any more whose it is
            self.run_task(AddConnection(self))

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
    waits in the pool. That would lose a place if the thread were interrupted, and one more with
    each connection that came to its place in the queue.

    A lock would cost as much as all the rest of it. Without one, what is counted may be wrong for a
    moment, but to one side alone: a claim counts before it is granted and until what it has led to
    is none that waits any more, so that there are never more claims than connections.
    """

    def __init__(self) -> None:
        #: Of those who wait until there is something to claim.
        self.lock = new_guard()
        self._idle: set[ThreadConnection] = set()
        #: By thread: what its claim has led to, once it has.
        self._claims: dict[int, ThreadConnection | None] = {}

    def __len__(self) -> int:
        return len(self._idle)

    def claim(self, thread: int) -> bool:
        """Claim one for a thread, if there is one that no other has claimed."""
        self._claims[thread] = None
        if len(self._idle) >= len(self._claims):
            return True
        self.give_up_claim(thread)
        return False

    def claim_next(self, thread: int) -> None:
        """Claim one for a thread that is about to be put in."""
        self._claims[thread] = None

    def give_up_claim(self, thread: int) -> ThreadConnection | None:
        """Let a thread have no claim any more; return what that has led to, if it has."""
        return self._claims.pop(thread, None)

    def has_claim(self, thread: int) -> bool:
        """Tell whether a thread has a claim, whatever that has led to."""
        return thread in self._claims

    def found(self, connection: ThreadConnection, thread: int) -> None:
        """Take note that a thread has taken one out of the pool; who had a claim has `taken` it."""
        connection.taken = True
        if thread in self._claims:
            self._claims[thread] = connection
        else:
            self._idle.discard(connection)

    def taken(self, connection: ThreadConnection, thread: int) -> None:
        """Take note that a thread has got what its claim has led to, and has no claim any more."""
        self._idle.discard(connection)
        del self._claims[thread]  # by no call, after which it could be interrupted

    def put(self, connection: ThreadConnection) -> None:
        """Take note that one is in the pool, unless it was taken or lost."""
        if not (connection.taken or connection.lost):
            self._idle.add(connection)
            if connection.taken or connection.lost:  # while it was added
                self._idle.discard(connection)

    def unfound(self) -> dict[ThreadConnection, float]:
        """Return those that nobody has found who was about to take one, and when they lived."""
        unfound = self._idle.copy().difference(self._claims.copy().values())
        return {connection: connection.alive_at for connection in unfound}

    def lose(self, connection: ThreadConnection) -> bool:
        """Have one wait for use no more; False: another thread has done it, or taken it."""
        try:
            self._idle.remove(connection)
        except KeyError:
            return False
        return True

    def gone(self, connection: ThreadConnection) -> None:
        """Take note that one is of no use any more."""
        self._idle.discard(connection)
