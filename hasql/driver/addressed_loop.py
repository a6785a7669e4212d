"""The event loop with one name that leads to a given address: for drivers that are given a loop.

asyncpg takes no address beside a host's name. So it asks this loop for the name, and TLS, password
files and cancel requests go by the name as ever.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from hasql.driver.own_task import note_failure

__all__ = ("AddressedLoop", "LoopProxy")


class LoopProxy:
    """Stands for an event loop, and passes everything on to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Any = loop
        # Looked up here, as asyncpg calls it for each statement that has a time limit.
        self.call_later = loop.call_later

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    # asyncio is asked for the task that runs in this loop, by the loop.

    def __eq__(self, other: object) -> bool:
        return bool(self._loop == other)

    def __hash__(self) -> int:
        return hash(self._loop)


class AddressedLoop(LoopProxy):
    """An event loop that dials an address where it is asked for a name.

    Args:
        loop: The event loop itself, which does all the rest.
        name: The name.
        address: The address to dial for it; None: the one that the loop finds first.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, address: str | None = None
    ) -> None:
        super().__init__(loop)
        self._name = name
        self._dialled = address
        #: Where the name has led: the address of the peer, None before anything has connected.
        self.address: str | None = None
        #: What has connected last.
        self._transport: Any = None

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Connect, as the loop does; a cancel request goes where the first connection went."""
        ours = host == self._name
        if ours:
            host = self.address or self._dialled or host
            if kwargs.get("ssl"):  # from the first byte on: asyncio would check what it dials
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
        """End at once what has connected last, after a login that has failed or was cancelled.

        asyncpg closes it in the way of TLS, where the server has to answer. It may be silent, and
        where the event loop ends meanwhile, the socket stays open until it is collected.
        """
        if self._transport is not None:
            self._transport.abort()


def _made(protocol_factory: Callable[[], Any]) -> Any:
    """Make a protocol whose answer counts as retrieved.

    asyncpg waits by `on_data` for whether a server has TLS. If its cancel request is given up while
    it connects, nobody does, and asyncio would log what the end of the connection raises there.
    """
    protocol = protocol_factory()
    answer = getattr(protocol, "on_data", None)
    if asyncio.isfuture(answer):
        answer.add_done_callback(note_failure)
    return protocol
