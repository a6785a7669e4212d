"""The refill of a psycopg pool for threads, to what it keeps at least."""

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
    """Opens what is missing in a pool without being asked for, a few connections at a time.

    Also what those wait for who use psycopg's pool directly.
    """

    def __init__(self, opened: ThreadConnections, connects: ThreadConnects, at_a_time: int) -> None:
        self._opened = opened
        self._connects = connects
        self._at_a_time = at_a_time
        self._lock = new_guard()
        #: Of each thread that fills, or is about to be started for that, a mark of its own.
        self._fillers: set[object] = set()
        #: Those that wait for the end of the refill under way.
        self._waiting: list[Future[None]] = []

    def fill(self) -> Future[None]:
        """Open what is missing now. What is returned ends when that is done, or raises why not."""
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
        """Open what is missing. If that fails, the next answer is the next occasion."""
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
        """Start a thread for each, or for as many as there are threads for.

        Whoever waits for the refill is told that. Who has brought word of the host is not: that is
        the way of what a probe has said, and the next one is the next occasion.
        """
        try:
            while fillers:
                start_connecting(partial(self._fill, fillers[-1]))
                fillers.pop()
        except RuntimeError as error:  # no more threads can be had
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
            error = self._connects.open_one()
        self._end([filler], error)

    def _end(self, fillers: list[object], error: BaseException | None) -> None:
        with self._lock:
            self._fillers.difference_update(fillers)
            if self._fillers and error is None:
                return
            waiting, self._waiting = self._waiting, []
        for filled in waiting:
            if filled.set_running_or_notify_cancel():  # False: nobody waits for it any more
                if error is None:
                    filled.set_result(None)
                else:
                    filled.set_exception(error)
