"""An event loop in which one name leads to a given address, for drivers that are given a loop.

asyncpg takes no address besides a host's name. So it asks this loop for the name, while TLS,
password files and cancel requests still go by the name.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from hasql.driver.own_task import note_failure

__all__ = ("AddressedLoop", "LoopProxy")


class LoopProxy:
    """Stands in for an event loop, and passes everything on to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Any = loop
        # Looked up once, because asyncpg calls it for each statement that has a time limit.
        self.call_later = loop.call_later

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    # asyncio finds the task that runs in a loop by the loop, so this has to equal it.

    def __eq__(self, other: object) -> bool:
        return bool(self._loop == other)

    def __hash__(self) -> int:
        return hash(self._loop)


class AddressedLoop(LoopProxy):
    """An event loop that dials an address where it is asked for a name.

    Args:
        loop: The event loop itself, which does all the rest.
        name: The name.
        address: The address to dial for it. None: the one that the loop finds first.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, address: str | None = None
    ) -> None:
        super().__init__(loop)
        self._name = name
        self._dialled = address
        #: The address of the peer that the name has led to; None before anything has connected.
        self.address: str | None = None
        #: The transport that connected last.
        self._transport: Any = None

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Connect as the loop does; a cancel request goes where the first connection went."""
        ours = host == self._name
        if ours:
            host = self.address or self._dialled or host
            if kwargs.get("ssl"):  # TLS from the first byte: asyncio would verify the address
                kwargs.setdefault("server_hostname", self._name)
        transport, protocol = await self._loop.create_connection(
            partial(_made, protocol_factory), host, port, **kwargs
        )
        self._transport = transport
        if ours and self.address is None:
            peer = transport.get_extra_info("peername")
            self.address = peer[0] if isinstance(peer, tuple) else None
        return transport, protocol

    def abort(self) -> None:
        """Abort at once the transport that connected last: its login failed or was cancelled.

        asyncpg closes it as TLS prescribes, which needs an answer from the server. The server may
        be silent, and if the event loop ends meanwhile, the socket stays open until it is garbage
        collected.
        """
        if self._transport is not None:
            self._transport.abort()


def _made(protocol_factory: Callable[[], Any]) -> Any:
    """Make a protocol whose `on_data` future counts as retrieved.

    asyncpg waits for `on_data` to learn whether a server has TLS. If its cancel request is given up
    while it connects, nothing waits for that future any more, and asyncio would log the exception
    that the end of the connection sets there.
    """
    protocol = protocol_factory()
    answer = getattr(protocol, "on_data", None)
    if asyncio.isfuture(answer):
        answer.add_done_callback(note_failure)
    return protocol
