"""Lets any thread end a connection that another thread is using."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from hasql._adapters.fork_guard import cut_off_in_children
from hasql.driver.os_threads import new_guard, original

__all__ = ("KillSwitch",)


class KillSwitch:
    """Shuts down the socket of one connection, whatever another thread does with it meanwhile.

    It works on its own duplicate of the driver's descriptor. The thread that uses the connection
    may close the driver's descriptor at any moment, and the number may then be given to another
    socket unnoticed.

    Make a kill switch when a connection opens, and `close` it when the connection is closed or
    forgotten: the socket stays open as long as the kill switch does. In a forked child a kill
    switch does nothing.

    Args:
        fileno: The descriptor of the connection's socket. It still belongs to the driver.

    Raises:
        OSError: The socket is already closed.
    """

    def __init__(self, fileno: int) -> None:
        # Python's own socket class, not gevent's: a socket of gevent's is tied to the thread that
        # made it, even for closing.
        self._socket = original("socket", "socket")(fileno=os.dup(fileno))
        # Keeps `shut_down` from using a descriptor that `close` in another thread has just freed.
        # Reentrant, because garbage collection during `shut_down` may call `close` in this thread.
        self._lock = new_guard()
        cut_off_in_children(self, KillSwitch.fileno)

    def fileno(self) -> int:
        """Return the kill switch's own descriptor, or -1 once it is closed."""
        descriptor: int = self._socket.fileno()
        return descriptor

    def shut_down(self) -> None:
        """End the connection without a word to the server.

        A thread that waits for the socket wakes up and finds the connection lost.
        """
        with self._lock, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the kill switch's descriptor; the driver's own is not affected."""
        with self._lock:
            self._socket.close()

    def __del__(self) -> None:
        with suppress(AttributeError):  # `__init__` failed: the driver's socket was closed
            self.close()
