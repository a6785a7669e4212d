"""A server that agrees to TLS, as PostgreSQL does, and is silent from then on."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ("SilentTls",)

#: The size in bytes of the message with which a client of PostgreSQL asks for TLS.
_REQUEST = 8
#: Seconds after which a client is assumed not to go on.
_PATIENCE = 20


class SilentTls:
    """Listens on loopback in a thread, and never answers a client's login.

    It does not answer a client that ends its connection either. Use it with ``with``.
    """

    def __init__(self, context: SSLContext) -> None:
        self._context = context
        self._stack = ExitStack()
        self._listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._waiting = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, name="silent TLS")
        self.port: int = self._listener.getsockname()[1]

    def wait_for_client(self) -> None:
        """Wait until one more client waits for an answer to its login; else TimeoutError."""
        if not self._waiting.acquire(timeout=_PATIENCE):
            raise TimeoutError("no client has asked for TLS")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # this ends `accept`
        self._thread.join()
        self._stack.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                plain = self._stack.enter_context(self._listener.accept()[0])
                plain.settimeout(_PATIENCE)
                plain.recv(_REQUEST, socket.MSG_WAITALL)
                plain.sendall(b"S")
                secured = self._context.wrap_socket(plain, server_side=True)
                self._stack.enter_context(secured)
                secured.recv(1)  # the login
                self._waiting.release()
