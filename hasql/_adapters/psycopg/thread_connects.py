"""The connects of a psycopg pool for threads: each in a thread of its own."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from psycopg_pool import PoolClosed

from hasql._adapters.psycopg.thread_connect import PoolConnect, start_connecting
from hasql.driver.os_threads import new_guard

if TYPE_CHECKING:
    from hasql._adapters.psycopg.thread_connection import ThreadConnection
    from hasql._adapters.psycopg.thread_connections import ThreadConnections
    from hasql._adapters.psycopg.thread_slots import HeldPool
    from hasql.driver.time_left import TimeLeft

__all__ = ("ThreadConnects",)


class ThreadConnects:
    """Opens connections and puts them into the pool.

    Nobody waits in psycopg's pool: whoever needs a connection that is not there has one opened, and
    waits for that alone. So it ends when it has to, and an interruption loses nothing.
    """

    def __init__(self, opened: ThreadConnections) -> None:
        self._opened = opened
        self._idle = opened.idle
        self.pool: HeldPool
        self._lock = new_guard()
        self._under_way: set[PoolConnect] = set()
        #: The connects that threads wait for, in the order of asking.
        self._waiting: dict[PoolConnect, None] = {}
        #: Whether nothing has connected since a connect failed or the host was given up.
        self.failing = False
        self.closed = False

    def __len__(self) -> int:
        """Return how many connects are under way."""
        return len(self._under_way)

    def wait(self, time_left: TimeLeft) -> bool:
        """Wait until the current thread has a claim on a connection, which is opened for it.

        Or on one that is given back before. False: it has none, but there may be an idle one by
        now.
        """
        connect = PoolConnect()
        try:
            with self._idle.lock:
                self._waiting[connect] = None
                self._hand_on()  # what was given back a moment ago
            if not connect.claimed.done():
                self._begin(connect)
                start_connecting(partial(self._serve, connect, time_left.seconds))
            return time_left.wait(connect.claimed)
        except BaseException:
            with self._idle.lock:
                connect.claimed.cancel()
            raise
        finally:
            self._waiting.pop(connect, None)
            connect.leave_alone()

    def open_one(self) -> None:
        """Open a connection and put it into the pool, in the current thread."""
        connect = PoolConnect()
        self._begin(connect)
        try:
            self._put_in(self._log_in(connect))
        finally:
            self._end_one(connect)

    def _begin(self, connect: PoolConnect) -> None:
        with self._lock:
            if self.closed:
                raise PoolClosed(f"the pool {self.pool.name!r} is closed")
            self._under_way.add(connect)

    def _end_one(self, connect: PoolConnect) -> None:
        with self._lock:
            self._under_way.discard(connect)

    def _serve(self, connect: PoolConnect, seconds: float) -> None:
        try:
            connection = self._find_one(connect, seconds)
        except BaseException as error:  # noqa: BLE001  # who waits judges it
            self._answer(connect, error.with_traceback(None))
        else:
            self._put_in(connection, connect)
        finally:
            self._end_one(connect)

    def _find_one(self, connect: PoolConnect, seconds: float) -> ThreadConnection:
        while not self.pool.has_vacancy():
            # Who uses the pool directly has taken them all, or one was found dead just now.
            found: ThreadConnection | None = self.pool.take(seconds)
            if found is not None:
                return found
        return self._log_in(connect)

    def _log_in(self, connect: PoolConnect) -> ThreadConnection:
        try:
            connection = self._opened.log_in(connect)
        except BaseException:
            self.failing = True
            raise
        self.failing = False
        return connection

    def _answer(self, connect: PoolConnect, error: BaseException) -> None:
        with self._idle.lock:
            if not connect.claimed.done():
                connect.claimed.set_exception(error)

    def give_back(self, connection: ThreadConnection) -> None:
        """Put a connection into the pool that was taken out of it."""
        connection.taken = False
        try:
            self.pool.putconn(connection)
        except BaseException:
            # Interrupted: it is not known how far it came. The pool knows what it has already.
            with suppress(ValueError):
                self.pool.putconn(connection)
            raise
        finally:
            self._idle.put(connection)
            if self._waiting:  # looked at last, as who waits looks for what is idle last
                with self._idle.lock:
                    self._hand_on()

    def _hand_on(self) -> None:
        """Give who has waited longest the claim on what is idle; to be called under the lock."""
        for connect in tuple(self._waiting):
            if not connect.claimed.done():
                if self._idle.claim(connect.thread):
                    connect.claimed.set_result(True)
                return

    def _put_in(self, connection: ThreadConnection, connect: PoolConnect | None = None) -> None:
        inserted, connection.taken = True, False
        if connection.pooled:
            self.pool.putconn(connection)
        else:
            inserted = connection.pooled = self.pool.insert(connection)
        if not inserted:
            connection.close()
        with self._idle.lock:
            if connect is None or connect.claimed.done():
                self._idle.put(connection)
                return
            if inserted:
                self._idle.claim_next(connect.thread)  # before another one can
            self._idle.put(connection)
            connect.claimed.set_result(inserted)

    def end(self) -> None:
        """End every connect under way with a ConnectionError."""
        with self._lock:
            under_way = tuple(self._under_way)
        for connect in under_way:
            connect.end()
            self._answer(connect, ConnectionError("the host was given up while it was waited for"))

    def close(self) -> None:
        """End every connect, and begin none any more."""
        with self._lock:
            self.closed = True
        self.end()
