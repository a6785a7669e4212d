"""Cancel requests for a libpq older than 17, which sends them by a call that blocks.

Only libpq knows the key that a cancel request needs, so only libpq can send one. psycopg makes that
call in a thread of the event loop's executor. On a silent host the call never returns, and the
program cannot end before it does. This module uses daemon threads instead, a few for each host.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from concurrent.futures import Future
from threading import Lock, Thread
from typing import TYPE_CHECKING

from psycopg import OperationalError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGcancel, PGconn

__all__ = ("request_cancel",)

#: How many threads send requests to one host: a silent host blocks no more threads than that.
_THREADS = 4


class _RequestQueue:
    """The requests to one host, and the threads that send them; a thread ends when none is left."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: deque[tuple[PGcancel, Future[None]]] = deque()
        self._threads = 0

    def send(self, request: PGcancel) -> Future[None]:
        sent: Future[None] = Future()
        with self._lock:
            self._requests.append((request, sent))
            more = self._threads < _THREADS
            self._threads += more
        if more:
            try:
                # A daemon thread: the end of the program does not wait for it.
                Thread(target=self._send_all, name="hasql cancel request", daemon=True).start()
            except RuntimeError:  # no thread could be started
                self._start_failed()
        return sent

    def _start_failed(self) -> None:
        """Fail the requests if no thread is left to send them."""
        with self._lock:
            self._threads -= 1
            unsent: deque[tuple[PGcancel, Future[None]]] = deque()
            if not self._threads:
                unsent, self._requests = self._requests, unsent
        for _, sent in unsent:
            if sent.set_running_or_notify_cancel():
                sent.set_exception(
                    OperationalError("no thread could be started to send a cancel request")
                )

    def _send_all(self) -> None:
        while True:
            with self._lock:
                if not self._requests:
                    self._threads -= 1
                    return
                request, sent = self._requests.popleft()
            if sent.set_running_or_notify_cancel():  # False: the request was cancelled
                try:
                    request.cancel()
                except Exception as error:  # noqa: BLE001  # the waiting task gets it
                    sent.set_exception(error)
                else:
                    sent.set_result(None)
            del request, sent


#: By process and address. By process, because a forked child has none of its parent's threads.
_QUEUES: dict[tuple[int, bytes, bytes, bytes], _RequestQueue] = {}


async def request_cancel(connection: PGconn) -> None:
    """Ask the server to cancel what runs on a connection. This can be cancelled at any time.

    Raises OperationalError if the server cannot be reached.
    """
    address = os.getpid(), connection.hostaddr, connection.host, connection.port
    queue = _QUEUES.setdefault(address, _RequestQueue())
    await asyncio.wrap_future(queue.send(connection.get_cancel()))
