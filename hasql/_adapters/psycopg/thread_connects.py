"""The connects of a psycopg pool for threads: each in a thread of its own."""

# long: connects, those who wait for them and what is given back change under the same locks.

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

#: Seconds that a connect waits in the pool for a connection, at first, until it looks whether there
#: is room for a new one; psycopg tells nobody who waits. Doubling, as it loses its turn each time.
_FIRST_WAIT = 0.05


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
        self._under_way: dict[PoolConnect, None] = {}
        #: The threads that wait, in the order of asking.
        self._waiting: dict[WaitingThread, None] = {}
        #: Whether nothing has connected since a connect failed or the host was given up.
        self.failing = False
        self.closed = False

    def __len__(self) -> int:
        """Return how many connects are under way."""
        return len(self._under_way)

    def wait(self, time_left: TimeLeft) -> bool:
        """Wait until the current thread has a claim on a connection, which is opened for it.

        Or on one that is given back before; then the next to wait relies on what is being opened.
        So there are no more connects than have waited at one time, however slow a login is. False:
        the thread has no claim, but there may be an idle one by now.
        """
        waiter = WaitingThread()
        connect: PoolConnect | None = None
        try:
            with self._idle.lock:
                self._waiting[waiter] = None
                self._hand_on()  # what was given back a moment ago
                if not waiter.claimed.done():
                    connect = self._take_over_one(waiter)
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
                self._hand_on()  # it may have been interrupted as it gave another one its claim
            if connect is not None:
                self._withdraw(connect)
            raise
        finally:
            self._waiting.pop(waiter, None)
            if connect is not None:
                with self._idle.lock:
                    connect.be_left_by(waiter)

    def _take_over_one(self, waiter: WaitingThread) -> PoolConnect | None:
        """Have a thread rely on the oldest connect that nobody waits for; None: there is none."""
        with self._lock:
            for connect in self._under_way:  # no generator: an interruption could end within it
                if connect.take_over(waiter):
                    return connect
        return None

    def _rely_on(self, connect: PoolConnect, waiter: WaitingThread, time_left: TimeLeft) -> bool:
        """Wait as `wait` does, but not for long: what was begun for another thread may hang."""
        if (limit := connect.reliable_for) > time_left.seconds:
            return time_left.wait(waiter.claimed)
        try:
            return time_left.wait(waiter.claimed, limit)
        except OutOfTimeError:
            with self._idle.lock:
                if waiter.claimed.cancel():
                    return False
            return waiter.claimed.result()  # which has come just now

    def open_one(self) -> BaseException | None:
        """Open a connection and put it into the pool, in the current thread; return what failed."""
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
        """Forget a connect whose thread has not begun, as it may never do."""
        with self._lock:
            if not connect.begun:
                self._under_way.pop(connect, None)

    def _serve(self, connect: PoolConnect, seconds: float) -> None:
        self._run(connect, partial(self._find_one, seconds=seconds))

    def _run(
        self, connect: PoolConnect, work: Callable[[PoolConnect], ThreadConnection]
    ) -> BaseException | None:
        """Put what comes of it into the pool, or tell who waits why not; return what failed."""
        with self._lock:
            if connect not in self._under_way:
                return None  # it was withdrawn
            connect.begun = True
        try:
            self._put_in(work(connect), connect)
        except BaseException as error:  # noqa: BLE001  # who waits judges it
            failed = error.with_traceback(None)
            with self._idle.lock:
                connect.fail(failed)
            return failed
        else:
            return None
        finally:
            with self._lock:
                self._under_way.pop(connect, None)

    def _find_one(self, connect: PoolConnect, seconds: float) -> ThreadConnection:
        wait = _FIRST_WAIT
        while not self.pool.has_vacancy():
            # Who uses the pool directly has taken them all, or they are being discarded just now.
            try:
                found: ThreadConnection | None = self.pool.take(min(wait, seconds))
            except PoolTimeout:
                if connect.waiter is None:
                    raise  # else another thread waits by now, or there may be a vacancy
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
            try:
                self._idle.put(connection)
                if self._waiting:  # looked at last, as who waits looks for what is idle last
                    with self._idle.lock:
                        self._hand_on()
            except BaseException:  # interrupted
                self._idle.put(connection)
                with self._idle.lock:
                    self._hand_on()
                raise

    def _hand_on(self) -> None:
        """Give who has waited longest the claim on what is idle; to be called under the lock."""
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
            if (waiter := connect.be_done()) is None:
                self._idle.put(connection)
                self._hand_on()
                return
            if inserted:
                self._idle.claim_next(waiter.thread)  # before another one can
            self._idle.put(connection)
            waiter.claimed.set_result(inserted)

    def end(self) -> None:
        """End every connect under way with a ConnectionError."""
        with self._lock:
            under_way = tuple(self._under_way)
        for connect in under_way:
            with self._idle.lock:
                connect.give_up(ConnectionError("the host was given up while it was waited for"))

    def close(self) -> None:
        """End every connect, and begin none any more."""
        with self._lock:
            self.closed = True
        self.end()
