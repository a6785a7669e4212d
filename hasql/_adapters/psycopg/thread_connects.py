"""The connects of a psycopg pool for threads: for those who wait, and to refill the pool."""

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

__all__ = ("ThreadConnects",)

#: Seconds that a connect may still take once nobody waits for it any more.
_LIMIT_UNAWAITED = 2.0


class _PoolConnect(ThreadedConnect):
    """A connect for the pool, and who waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited: Future[None] = Future()
        self.thread = get_ident()
        self._until = inf

    @property
    def ended(self) -> bool:
        return super().ended or monotonic() > self._until

    def leave_alone(self) -> None:
        """Give it a little time more: nobody waits for it."""
        self._until = monotonic() + _LIMIT_UNAWAITED


class ThreadConnects:
    """Opens the connections of a pool, each in a thread of its own."""

    def __init__(self, opened: ThreadConnections, at_a_time: int) -> None:
        self._opened = opened
        self._idle = opened.idle
        self._at_a_time = at_a_time
        self._lock = Lock()
        self._under_way: set[_PoolConnect] = set()
        self._fillers = 0
        #: Pending while the pool is filled.
        self._filled: Future[None] | None = None
        #: Whether nothing has connected since a connect failed or the host was given up.
        self._failing = False
        self._closed = False
        self.pool: HeldPool

    # For who waits

    def wait(self, patience: Patience) -> None:
        """Have a connection opened for the current thread, which has a claim on one then."""
        connect = _PoolConnect()
        self._begin(connect)
        try:
            _start(partial(self._serve, connect, patience.seconds))
            patience.wait(connect.awaited)
        except BaseException:
            with self._idle.lock:
                connect.awaited.cancel()
            connect.leave_alone()
            raise

    def _begin(self, connect: _PoolConnect) -> None:
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            self._under_way.add(connect)

    def _serve(self, connect: _PoolConnect, seconds: float) -> None:
        try:
            if self.pool.has_vacancy():
                connection = self._opened.log_in(connect)
                self._failing = False
            else:  # who uses the pool directly has taken them all
                connection = self.pool.getconn(timeout=seconds)
        except BaseException as error:  # noqa: BLE001  # who waits judges it
            self._failing = True
            self._answer(connect, error)
        else:
            self.put_in(connection, connect)
        finally:
            with self._lock:
                self._under_way.discard(connect)

    def _answer(self, connect: _PoolConnect, error: BaseException | None) -> None:
        with self._idle.lock:
            if connect.awaited.done():
                return
            if error is None:
                connect.awaited.set_result(None)
            else:
                connect.awaited.set_exception(error.with_traceback(None))

    def put_in(self, connection: ThreadConnection, connect: _PoolConnect | None = None) -> None:
        """Put a connection into the pool, a new one or one that is given back."""
        inserted, connection.taken = True, False
        if connection.pooled:
            self.pool.putconn(connection)
        else:
            inserted = connection.pooled = self.pool.insert(connection)
        if not inserted:
            connection.close()
        with self._idle.lock:
            self._idle.put(connection)
            if connect is not None and not connect.awaited.done():
                if inserted:
                    self._idle.claim_for(connect.thread)
                connect.awaited.set_result(None)

    # To refill the pool

    def fill(self) -> Future[None]:
        """Open what the pool keeps at least; what is returned ends when that is done, or fails."""
        with self._lock:
            if self._filled is None:
                self._filled = Future()
            filled = self._filled
            missing = self._missing()
            fillers = max(0, min(missing, self._at_a_time - self._fillers))
            self._fillers += fillers
            if not self._fillers:
                self._end_fill(None)
        for _ in range(fillers):
            _start(self._fill)
        return filled

    def fill_unless_failing(self) -> None:
        """Open what is missing, unless it has to wait until the host answers."""
        if not self._failing and not self._closed and self._missing() > 0:
            self.fill()

    def host_answers(self) -> None:
        """Open what is missing; who fails will try again at the next answer."""
        if not self._closed and self._missing() > 0:
            self.fill()

    def _missing(self) -> int:
        """Return how many are to be opened without being asked for."""
        most = len(self.pool.missing)
        if not most:
            return 0
        least = self.pool.min_size - len(self._opened) - len(self._under_way)
        return min(most, max(least, self.pool.get_stats()["requests_waiting"]))

    def _fill(self) -> None:
        error: BaseException | None = None
        while True:
            with self._lock:
                if error is not None or self._closed or self._missing() <= 0:
                    self._fillers -= 1
                    if not self._fillers or error is not None:
                        self._end_fill(error)
                    return
                connect = _PoolConnect()
                self._under_way.add(connect)
            try:
                connection = self._opened.log_in(connect)
            except BaseException as failed:  # noqa: BLE001  # who waits for the pool judges it
                error, self._failing = failed.with_traceback(None), True
            else:
                self._failing = False
                self.put_in(connection)
            finally:
                with self._lock:
                    self._under_way.discard(connect)

    def _end_fill(self, error: BaseException | None) -> None:
        filled, self._filled = self._filled, None
        if filled is None or filled.done():
            return
        if error is None:
            filled.set_result(None)
        else:
            filled.set_exception(error)

    # The end

    def end(self, *, failing: bool = False) -> None:
        """End every connect under way with a ConnectionError, and every wait.

        If `failing`, the pool is refilled only when the host has answered.
        """
        self._failing = self._failing or failing
        with self._lock:
            under_way = tuple(self._under_way)
        for connect in under_way:
            connect.end()
            self._answer(connect, ConnectionError("the host was given up while it was waited for"))

    def close(self) -> None:
        """End every connect, and begin none any more."""
        with self._lock:
            self._closed = True
        self.end()


def _start(work: Callable[[], object]) -> None:
    # The end of the program does not wait for a daemon.
    Thread(target=work, name="hasql connect", daemon=True).start()
