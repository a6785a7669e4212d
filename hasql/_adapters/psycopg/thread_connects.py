"""The connects of a psycopg pool for threads: each in a thread of its own."""

# long: connects, waiting threads and returned connections change under the same locks.

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from psycopg_pool import PoolClosed, PoolTimeout

from hasql._adapters.psycopg.thread_connect import PoolConnect, WaitingThread, start_connecting
from hasql.driver.deadline import OutOfTimeError
from hasql.driver.os_threads import new_guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql._adapters.psycopg.thread_connection import ThreadConnection
    from hasql._adapters.psycopg.thread_connections import ThreadConnections
    from hasql._adapters.psycopg.thread_slots import HeldPool
    from hasql.driver.time_left import TimeLeft

__all__ = ("ThreadConnects",)

#: Seconds that a connect first waits in the pool for a connection before it looks whether there is
#: room for a new one: psycopg does not tell that to a thread that waits. The time doubles, because
#: the connect loses its turn in the pool each time.
_FIRST_WAIT = 0.05


class ThreadConnects:
    """Opens connections and puts them into the pool.

    No thread of the application's waits in psycopg's pool: one that finds no idle connection has a
    connection opened, and waits here for a claim on one. So its wait ends when it has to, and an
    interrupt loses nothing.
    """

    def __init__(self, opened: ThreadConnections) -> None:
        self._opened = opened
        self._idle = opened.idle
        self.pool: HeldPool
        self._lock = new_guard()
        self._under_way: dict[PoolConnect, None] = {}
        #: The threads that wait, in the order in which they began to.
        self._waiting: dict[WaitingThread, None] = {}
        #: Whether nothing has connected since a connect failed or the host was given up.
        self.failing = False
        self.closed = False

    def __len__(self) -> int:
        """Return how many connects are under way."""
        return len(self._under_way)

    def wait(self, time_left: TimeLeft) -> bool:
        """Wait until the current thread has a claim on a connection.

        That is the one that is opened for it, or one that is given back sooner. In the latter case
        the next thread to wait relies on the connect. So there are no more connects than threads
        have waited at the same time, however slow a login is. Returns False if the thread has no
        claim, but there may be an idle connection by now.
        """
        waiter = WaitingThread()
        connect: PoolConnect | None = None
        try:
            with self._idle.lock:
                self._waiting[waiter] = None
                self._grant_claim()  # a connection may have been given back a moment ago
                if not waiter.claimed.done():
                    connect = self._join_connect(waiter)
            if connect is not None:
                return self._rely_on(connect, waiter, time_left)
            if not waiter.claimed.done():
                connect = PoolConnect(waiter)
                self._begin(connect)
                start_connecting(partial(self._serve, connect, time_left.seconds))
            return time_left.wait(waiter.claimed)
        except BaseException:
            with self._idle.lock:
                waiter.claimed.cancel()
                # The interrupt may have come before another thread got its claim.
                self._grant_claim()
            if connect is not None:
                self._withdraw(connect)
            raise
        finally:
            self._waiting.pop(waiter, None)
            if connect is not None:
                with self._idle.lock:
                    connect.remove_waiter(waiter)

    def _join_connect(self, waiter: WaitingThread) -> PoolConnect | None:
        """Let a thread rely on the oldest connect that no thread waits for; None: there is none."""
        with self._lock:
            for connect in self._under_way:  # no generator: an interrupt could end within it
                if connect.accept_waiter(waiter):
                    return connect
        return None

    def _rely_on(self, connect: PoolConnect, waiter: WaitingThread, time_left: TimeLeft) -> bool:
        """Wait as `wait` does, but not for long: a connect begun for another thread may hang."""
        if (limit := connect.reliable_for) > time_left.seconds:
            return time_left.wait(waiter.claimed)
        try:
            return time_left.wait(waiter.claimed, limit)
        except OutOfTimeError:
            with self._idle.lock:
                if waiter.claimed.cancel():
                    return False
            return waiter.claimed.result()  # it has come just now

    def connect_one(self) -> BaseException | None:
        """Open a connection and put it into the pool, in the current thread; return the error."""
        connect = PoolConnect()
        try:
            self._begin(connect)
        except PoolClosed as error:
            return error.with_traceback(None)
        return self._run(connect, self._log_in)

    def _begin(self, connect: PoolConnect) -> None:
        with self._lock:
            if self.closed:
                raise PoolClosed(f"the pool {self.pool.name!r} is closed")
            self._under_way[connect] = None

    def _withdraw(self, connect: PoolConnect) -> None:
        """Forget a connect whose thread has not begun to run, and perhaps never will."""
        with self._lock:
            if not connect.begun:
                self._under_way.pop(connect, None)

    def _serve(self, connect: PoolConnect, seconds: float) -> None:
        self._run(connect, partial(self._find_connection, seconds=seconds))

    def _run(
        self, connect: PoolConnect, work: Callable[[PoolConnect], ThreadConnection | None]
    ) -> BaseException | None:
        """Put the connection of `work` into the pool, or tell the waiting thread the error.

        Returns the error, too. `work` returns None if no thread waits for a connection any more.
        """
        with self._lock:
            if connect not in self._under_way:
                return None  # it was withdrawn
            connect.begun = True
        try:
            if (connection := work(connect)) is not None:
                self._put_in(connection, connect)
        except BaseException as error:  # noqa: BLE001  # the waiting thread judges it
            failed = error.with_traceback(None)
            with self._idle.lock:
                connect.fail(failed)
            return failed
        else:
            return None
        finally:
            with self._lock:
                self._under_way.pop(connect, None)

    def _find_connection(self, connect: PoolConnect, seconds: float) -> ThreadConnection | None:
        wait = _FIRST_WAIT
        while not self.pool.has_vacancy():
            with self._idle.lock:
                # While another thread's claim ends, a claim may fail although there is an idle
                # connection. By now it may succeed.
                self._grant_claim()
                if connect.waiter is None:
                    connect.finish()
                    return None
            # All connections are taken by threads that use the pool directly, or are just being
            # discarded.
            try:
                found: ThreadConnection | None = self.pool.take(min(wait, seconds))
            except PoolTimeout:
                # There may be a vacancy by now, and another thread that waits.
                wait *= 2
            else:
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

    def give_back(self, connection: ThreadConnection) -> None:
        """Put a connection that was taken out of the pool back into it."""
        connection.taken = False
        try:
            self.pool.putconn(connection)
        except BaseException:
            # Interrupted, and it is not known how far putconn() came. If the pool already has the
            # connection back, the second call raises ValueError.
            with suppress(ValueError):
                self.pool.putconn(connection)
            raise
        finally:
            try:
                self._idle.note_idle(connection)
                # This races with `wait`, which adds the thread before it looks for an idle
                # connection. Here the order is the reverse, so one of the two sees the other.
                if self._waiting:
                    with self._idle.lock:
                        self._grant_claim()
            except BaseException:  # interrupted
                self._idle.note_idle(connection)
                with self._idle.lock:
                    self._grant_claim()
                raise

    def _grant_claim(self) -> None:
        """Give the longest-waiting thread a claim on an idle connection, under `_idle.lock`."""
        for waiter in tuple(self._waiting):
            if not waiter.claimed.done():
                if self._idle.claim(waiter.thread):
                    waiter.claimed.set_result(True)
                return

    def _put_in(self, connection: ThreadConnection, connect: PoolConnect) -> None:
        inserted, connection.taken = True, False
        if connection.pooled:
            self.pool.putconn(connection)
        else:
            inserted = connection.pooled = self.pool.insert(connection)
        if not inserted:
            connection.close()
        with self._idle.lock:
            if (waiter := connect.finish()) is None:
                self._idle.note_idle(connection)
                self._grant_claim()
                return
            if inserted:
                self._idle.claim_next(waiter.thread)  # before another thread can claim it
            self._idle.note_idle(connection)
            waiter.claimed.set_result(inserted)

    def end(self) -> None:
        """End every connect under way with a ConnectionError."""
        with self._lock:
            under_way = tuple(self._under_way)
        for connect in under_way:
            with self._idle.lock:
                connect.give_up(
                    ConnectionError("hasql gave up on the host while this acquire waited")
                )

    def close(self) -> None:
        """End every connect, and allow no new ones."""
        with self._lock:
            self.closed = True
        self.end()
