"""Sessions that stay open, to look at servers in: a login costs twenty times what a look does."""

import os
import threading
import time

from hasql.testing._control import ControlSession
from hasql.testing.errors import ClusterError

__all__ = ("KeptSessions",)


class KeptSessions:
    """One session on each server that was looked at; they are of the process that made them.

    They are in the database ``postgres``, so that nobody is kept from dropping or copying another.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._kept: dict[str, ControlSession] = {}

    def look(self, path: str, sql: str, *, timeout: float) -> str:
        """Run `sql`, one statement which only looks, on the server whose socket this is.

        :param timeout: seconds for all of it
        :raises ClusterError: when the server refuses
        :raises OSError: when there is no server, or (TimeoutError) it does not answer
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
                session.close()  # the server has been started anew since: ask that one
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
        """Tell whether there is one on a server."""
        return path in self._kept

    def end(self, path: str) -> None:
        """End the session on a server: a smart shutdown would wait for that."""
        if (session := self._take(path)) is not None:
            session.close()

    def close(self) -> None:
        """End all, and keep none from now on."""
        with self._lock:
            self._closed = True
        for path in list(self._kept):
            self.end(path)

    def _take(self, path: str) -> ControlSession | None:
        """Take the session, so that no other thread uses it meanwhile."""
        if os.getpid() != self._owner:
            return None  # a forked child: what it sent would come between its parent's
        with self._lock:
            return self._kept.pop(path, None)

    def _keep(self, path: str, session: ControlSession) -> None:
        with self._lock:
            if os.getpid() == self._owner and not self._closed and path not in self._kept:
                self._kept[path] = session
                return
        session.close()
