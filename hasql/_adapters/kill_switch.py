"""The means by which any thread ends a connection that another thread is using."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from hasql._adapters.fork_guard import cut_off_in_children
from hasql.driver.os_threads import new_guard, original

__all__ = ("KillSwitch",)


class KillSwitch:
    """Shuts the socket of one connection down, whatever another thread does with it meanwhile.

    It has a descriptor of its own. The driver's may be closed at any moment by the thread that uses
    the connection, and be another socket's before anybody notices.

    Make one when a connection opens, and `close` it when the connection is closed or forgotten: as
    long as it is open, the socket is. In a forked child it does nothing.

    Args:
        fileno: The descriptor of the connection's socket, which stays the driver's.

    Raises:
        OSError: The socket is closed already.
    """

    def __init__(self, fileno: int) -> None:
        # The system's: gevent's belongs to the thread that has made it, also when it is closed.
        self._socket = original("socket", "socket")(fileno=os.dup(fileno))
        # `shut_down` must not meet a descriptor that `close` has just given away. A collection of
        # garbage may call `close` in the midst of `shut_down`: hence a lock that lets it in.
        self._lock = new_guard()
        cut_off_in_children(self, KillSwitch.fileno)

    def fileno(self) -> int:
        """Return the descriptor of its own; -1 once it is closed."""
        descriptor: int = self._socket.fileno()
        return descriptor

    def shut_down(self) -> None:
        """End the connection without a word to the server.

        Whoever waits for the socket wakes up and finds the connection lost.
        """
        with self._lock, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket, which stays what it is for the driver."""
        with self._lock:
            self._socket.close()

    def __del__(self) -> None:
        with suppress(AttributeError):  # its socket was closed before it had one
            self.close()
