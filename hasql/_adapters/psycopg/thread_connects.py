"""The connects of a psycopg pool for threads: each in a thread of its own."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from math import inf
from threading import Lock, Thread, get_ident
from time import monotonic
from typing import TYPE_CHECKING

from psycopg_pool import PoolClosed

from hasql.driver.address_race import ThreadedConnect

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql._adapters.psycopg.thread_connection import ThreadConnection
    from hasql._adapters.psycopg.thread_connections import ThreadConnections
    from hasql._adapters.psycopg.thread_slots import HeldPool
    from hasql.driver.patience import Patience

__all__ = ("ThreadConnects", "start_connecting")

#: Seconds that a connect may still take once nobody waits for it any more.
_LIMIT_UNAWAITED = 2.0


class _PoolConnect(ThreadedConnect):
    """A connect for the pool, and who waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = get_ident()
        #: Ends when that thread has a claim on a connection.
        self.claimed: Future[None] = Future()
        self._until = inf

    @property
    def ended(self) -> bool:
        return super().ended or monotonic() > self._until

    def leave_alone(self) -> None:
        """Give it a little time more: nobody waits for it."""
        self._until = monotonic() + _LIMIT_UNAWAITED


class ThreadConnects:
    """Opens connections and puts them into the pool.

    Nobody waits in psycopg's pool: whoever needs a connection that is not there has one opened, and
    waits for that alone. So it ends when it has to, and an interruption loses nothing.
    """

    def __init__(self, opened: ThreadConnections) -> None:
        self._opened = opened
        self._idle = opened.idle
        self.pool: HeldPool
        self._lock = Lock()
        self._under_way: set[_PoolConnect] = set()
        #: Whether nothing has connected since a connect failed or the host was given up.
        self.failing = False
        self.closed = False

    def __len__(self) -> int:
        """Return how many connects are under way."""
        return len(self._under_way)

    def wait(self, patience: Patience) -> None:
        """Wait until the current thread has a claim on a connection, which is opened for it.

        It may have none yet when this returns: then there may be an idle one by now.
        """
        connect = self._begin()
        try:
            start_connecting(partial(self._serve, connect, patience.seconds))
            patience.wait(connect.claimed)
        except BaseException:
            with self._idle.lock:
                connect.claimed.cancel()
            connect.leave_alone()
            raise

    def open_one(self) -> None:
        """Open a connection and put it into the pool, in the current thread."""
        connect = self._begin()
        try:
            self._put_in(self._log_in(connect))
        finally:
            self._end_one(connect)

    def _begin(self) -> _PoolConnect:
        connect = _PoolConnect()
        with self._lock:
            if self.closed:
                raise PoolClosed(f"the pool {self.pool.name!r} is closed")
            self._under_way.add(connect)
        return connect

    def _end_one(self, connect: _PoolConnect) -> None:
        with self._lock:
            self._under_way.discard(connect)

    def _serve(self, connect: _PoolConnect, seconds: float) -> None:
        try:
            connection = self._find_one(connect, seconds)
        except BaseException as error:  # noqa: BLE001  # who waits judges it
            self._answer(connect, error.with_traceback(None))
        else:
            self._put_in(connection, connect)
        finally:
            self._end_one(connect)

    def _find_one(self, connect: _PoolConnect, seconds: float) -> ThreadConnection:
        while not self.pool.has_vacancy():
            # Who uses the pool directly has taken them all, or one was found dead just now.
            found: ThreadConnection | None = self.pool.take(seconds)
            if found is not None:
                return found
        return self._log_in(connect)

    def _log_in(self, connect: _PoolConnect) -> ThreadConnection:
        try:
            connection = self._opened.log_in(connect)
        except BaseException:
            self.failing = True
            raise
        self.failing = False
        return connection

    def _answer(self, connect: _PoolConnect, error: BaseException) -> None:
        with self._idle.lock:
            if not connect.claimed.done():
                connect.claimed.set_exception(error)

    def give_back(self, connection: ThreadConnection) -> None:
        """Put a connection into the pool that was taken out of it."""
        self._put_in(connection)

    def _put_in(self, connection: ThreadConnection, connect: _PoolConnect | None = None) -> None:
        inserted, connection.taken = True, False
        if connection.pooled:
            self.pool.putconn(connection)
        else:
            inserted = connection.pooled = self.pool.insert(connection)
        if not inserted:
            connection.close()
        with self._idle.lock:
            self._idle.put(connection)
            if connect is not None and not connect.claimed.done():
                if inserted:
                    self._idle.claim_for(connect.thread)
                connect.claimed.set_result(None)

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


def start_connecting(work: Callable[[], object]) -> None:
    """Have a thread connect; the end of the program does not wait for it."""
    Thread(target=work, name="hasql connect", daemon=True).start()
