"""Keeps a forked child from using the sockets of its parent's connections."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("cut_off_in_children",)

#: By connection: the function that finds its socket's descriptor, and that socket's inode.
_connections: WeakKeyDictionary[Any, tuple[Callable[[Any], int], int]] = WeakKeyDictionary()


def cut_off_in_children(connection: Any, descriptor_of: Callable[[Any], int]) -> None:
    """Make sure that a forked child cannot reach the server over this connection.

    The child has the same sockets and the same epoll set as its parent, and it can do harm without
    any mistake in the application. When the child collects a connection, aiopg sends the server a
    Terminate message, which ends the parent's connection; asyncpg removes the socket from the epoll
    set, so that the parent is told of no more data. So in the child the descriptor is replaced by a
    dead socket, through which neither the server nor the epoll set can be reached.
    """
    with suppress(OSError, AttributeError, ValueError):  # the connection may already be lost
        descriptor = descriptor_of(connection)
        _connections[connection] = descriptor_of, os.fstat(descriptor).st_ino


def _cut_off() -> None:
    dead, other = socket.socketpair()
    other.close()
    with dead:
        dead.settimeout(0)
        for connection, (descriptor_of, inode) in tuple(_connections.items()):
            # The connection may have been closed, and its descriptor may belong to another socket.
            with suppress(Exception):
                descriptor = descriptor_of(connection)
                if os.fstat(descriptor).st_ino == inode:
                    os.dup2(dead.fileno(), descriptor, inheritable=False)
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cut_off)
