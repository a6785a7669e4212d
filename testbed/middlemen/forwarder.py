"""An address that leads to one server, then to another, or to several in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.proxy import Proxy

if TYPE_CHECKING:
    from testbed.middlemen.addresses import Address

__all__ = ("Forwarder",)


class Forwarder(Proxy):
    """Forwards each new connection to the next of its servers; use it in ``async with``.

    Args:
        servers: The servers that it leads to, in turn.
        listen: The address that it listens on.
        listen_port: The port that it listens on; 0 for any free one.
    """

    def __init__(self, *servers: Address, listen: str = "127.0.0.1", listen_port: int = 0) -> None:
        server = servers[0]
        super().__init__(server.host, server.port, listen=listen, listen_port=listen_port)
        self.host = listen
        self._servers = servers
        self._turns = 0

    def turn(self, *servers: Address, cut: bool = False) -> None:
        """Lead to these servers from the next connection on; `cut` ends the existing ones."""
        self._servers, self._turns = servers, 0
        if cut:
            self.drop()

    def choose(self) -> tuple[str, int]:
        server = self._servers[self._turns % len(self._servers)]
        self._turns += 1
        return server.host, server.port
