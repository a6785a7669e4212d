"""Refills a psycopg pool for threads to its minimum size."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from hasql._adapters.psycopg.thread_connect import start_connecting
from hasql.driver.os_threads import new_guard

if TYPE_CHECKING:
    from hasql._adapters.psycopg.thread_connections import ThreadConnections
    from hasql._adapters.psycopg.thread_connects import ThreadConnects

__all__ = ("ThreadRefill",)


class ThreadRefill:
    """Opens the connections that a pool lacks to its minimum, a few at a time.

    It also opens connections for threads that use psycopg's pool directly and wait there.
    """

    def __init__(self, opened: ThreadConnections, connects: ThreadConnects, at_a_time: int) -> None:
        self._opened = opened
        self._connects = connects
        self._at_a_time = at_a_time
        self._lock = new_guard()
        #: One mark for each thread that refills the pool or is about to be started for that.
        self._fillers: set[object] = set()
        #: Futures that end with the refill that is under way.
        self._waiting: list[Future[None]] = []

    def fill(self) -> Future[None]:
        """Open what is missing now; the future ends when that is done, or with the error."""
        filled: Future[None] = Future()
        with self._lock:
            more = self._begin()
            if self._fillers:
                self._waiting.append(filled)
            else:
                filled.set_result(None)
        self._start(more)
        return filled

    def connection_is_missing(self) -> None:
        """Open what is missing, unless that has to wait until the host answers."""
        if not self._connects.failing:
            self.host_answers()

    def host_answers(self) -> None:
        """Open what is missing. If that fails, the host's next answer starts another attempt."""
        if self._missing() > 0:
            with self._lock:
                more = self._begin()
            self._start(more)

    def _begin(self) -> list[object]:
        more = max(0, min(self._missing(), self._at_a_time - len(self._fillers)))
        fillers = [object() for _ in range(more)]
        self._fillers.update(fillers)
        return fillers

    def _start(self, fillers: list[object]) -> None:
        """Start a thread for each filler. If a thread cannot be started, those left over end.

        The futures of `fill` then get the error. A RuntimeError is not raised here, because the
        caller may be handling a probe's answer; the host's next answer starts another attempt.
        """
        try:
            while fillers:
                start_connecting(partial(self._fill, fillers[-1]))
                fillers.pop()
        except RuntimeError as error:  # no thread could be started
            self._end(fillers, error.with_traceback(None))
        except BaseException as error:
            self._end(fillers, error.with_traceback(None))
            raise

    def _missing(self) -> int:
        pool = self._connects.pool
        places = len(pool.missing)
        if not places or self._connects.closed:
            return 0
        least = pool.min_size - len(self._opened) - len(self._connects)
        return min(places, max(least, pool.get_stats()["requests_waiting"]))

    def _fill(self, filler: object) -> None:
        error: BaseException | None = None
        while error is None:
            with self._lock:
                if self._missing() <= 0:
                    break
            error = self._connects.connect_one()
        self._end([filler], error)

    def _end(self, fillers: list[object], error: BaseException | None) -> None:
        with self._lock:
            self._fillers.difference_update(fillers)
            if self._fillers and error is None:
                return
            waiting, self._waiting = self._waiting, []
        for filled in waiting:
            if filled.set_running_or_notify_cancel():  # False: it was cancelled
                if error is None:
                    filled.set_result(None)
                else:
                    filled.set_exception(error)
