"""Cancel requests for a libpq older than 17, whose one way to send them is to block.

libpq tells nobody the key that a request needs, so that it has to send it. psycopg lets it do so in
a thread of the event loop's: on a silent host for ever, and the program does not end before.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from concurrent.futures import Future
from threading import Lock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg.pq.abc import PGcancel, PGconn

__all__ = ("request_cancel",)

#: Requests at a time to one host, each in a thread: as many threads as a silent host can hold.
_AT_A_TIME = 4


class _Host:
    """The requests to one host, and the threads that send them, which end when there are none."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: deque[tuple[PGcancel, Future[None]]] = deque()
        self._threads = 0

    def send(self, request: PGcancel) -> Future[None]:
        sent: Future[None] = Future()
        with self._lock:
            self._requests.append((request, sent))
            more = self._threads < _AT_A_TIME
            self._threads += more
        if more:
            # A daemon: the program's end does not wait for it.
            Thread(target=self._work, name="hasql cancel request", daemon=True).start()
        return sent

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._requests:
                    self._threads -= 1
                    return
                request, sent = self._requests.popleft()
            if sent.set_running_or_notify_cancel():  # else nobody waits for it any more
                try:
                    request.cancel()
                except Exception as error:  # noqa: BLE001  # for whoever waits
                    sent.set_exception(error)
                else:
                    sent.set_result(None)
            del request, sent


#: By address, and process: a child has none of its parent's threads.
_HOSTS: dict[tuple[int, bytes, bytes, bytes], _Host] = {}


async def request_cancel(connection: PGconn) -> None:
    """Have the server cancel what runs on a connection; it can be cancelled at any time.

    Raises OperationalError if the server cannot be reached.
    """
    address = os.getpid(), connection.hostaddr, connection.host, connection.port
    host = _HOSTS.setdefault(address, _Host())
    await asyncio.wrap_future(host.send(connection.get_cancel()))
