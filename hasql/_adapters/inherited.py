"""What a forked child inherits: the sockets of its parent's connections, which it must not use."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("cut_off_in_children",)

#: By connection: what finds the descriptor of its socket, and that socket's inode.
_connections: WeakKeyDictionary[Any, tuple[Callable[[Any], int], int]] = WeakKeyDictionary()


def cut_off_in_children(connection: Any, descriptor_of: Callable[[Any], int]) -> None:
    """Let no forked child reach the server over a connection that was opened here.

    The child has the same sockets and the same epoll set as its parent. It does not take a mistake
    to do harm there: an object of a driver's that is collected says goodbye to the server (aiopg)
    or takes its socket out of the set (asyncpg), and the parent's connection is gone or deaf. With
    a dead socket in the descriptor's place neither the server nor the set is reached.
    """
    with suppress(OSError, AttributeError, ValueError):  # as when it has been lost already
        descriptor = descriptor_of(connection)
        _connections[connection] = descriptor_of, os.fstat(descriptor).st_ino


def _cut_off() -> None:
    dead, other = socket.socketpair()
    other.close()
    with dead:
        dead.settimeout(0)
        for connection, (descriptor_of, inode) in tuple(_connections.items()):
            # The connection may be closed, and its number another socket's by now.
            with suppress(Exception):
                descriptor = descriptor_of(connection)
                if os.fstat(descriptor).st_ino == inode:
                    os.dup2(dead.fileno(), descriptor, inheritable=False)
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cut_off)
