"""Sessions that stay open for read-only queries: a login costs twenty times what a query costs."""

import os
import threading
import time

from hasql.testing._control import ControlSession
from hasql.testing.errors import ClusterError

__all__ = ("KeptSessions",)


class KeptSessions:
    """One session on each server that was queried; only the process that made them uses them.

    They are in the database ``postgres``, so that every other database can be dropped or copied.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._kept: dict[str, ControlSession] = {}

    def look(self, path: str, sql: str, *, timeout: float) -> str:
        """Run `sql`, a single statement that only reads, on the server whose socket is at `path`.

        :param timeout: how many seconds the whole call may take
        :raises ClusterError: if the server refuses the query
        :raises OSError: if there is no server, or (TimeoutError) if it does not answer
        """
        until = time.monotonic() + timeout
        session = self._take(path)
        if session is not None:
            try:
                answer = session.run_prepared(sql, timeout)
            except TimeoutError:
                session.close()
                raise
            except (ClusterError, OSError):
                session.close()  # the server was restarted meanwhile: log in to the new one
            else:
                self._keep(path, session)
                return answer
        session = ControlSession(path, "postgres", until - time.monotonic())
        try:
            answer = session.run_prepared(sql, until - time.monotonic())
        except BaseException:
            session.close()
            raise
        self._keep(path, session)
        return answer

    def keeps(self, path: str) -> bool:
        """Tell whether a session is kept on the server whose socket is at `path`."""
        return path in self._kept

    def end(self, path: str) -> None:
        """End the session on a server; a smart shutdown would wait for that session."""
        if (session := self._take(path)) is not None:
            session.close()

    def close(self) -> None:
        """End all sessions, and keep none from now on."""
        with self._lock:
            self._closed = True
        for path in list(self._kept):
            self.end(path)

    def _take(self, path: str) -> ControlSession | None:
        """Take the session out of the dictionary, so that no other thread uses it meanwhile."""
        if os.getpid() != self._owner:
            return None  # a forked child: its messages would mix with its parent's
        with self._lock:
            return self._kept.pop(path, None)

    def _keep(self, path: str, session: ControlSession) -> None:
        with self._lock:
            if os.getpid() == self._owner and not self._closed and path not in self._kept:
                self._kept[path] = session
                return
        session.close()
