"""A proxy that refuses settings in a login, and otherwise forwards connections to one server.

Some cloud providers put such a proxy in front of a server: each client has a server process to
itself.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

from testbed.middlemen.addresses import Place
from testbed.proxy import Proxy

if TYPE_CHECKING:
    from testbed.middlemen.addresses import Address

__all__ = ("StrictProxy",)

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_TAKEN = {"user", "database", "application_name", "client_encoding"}


class StrictProxy(Proxy):
    """Refuses a login with a setting, with PgBouncer's message; use it in ``async with``."""

    def __init__(self, server: Address) -> None:
        super().__init__(server.host, server.port)
        #: How many logins it has refused.
        self.refused = 0

    @property
    def address(self) -> Place:
        """The address that it listens on."""
        return Place("127.0.0.1", self.port)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            packet = await _startup(reader, writer)
            words = packet[8:].split(b"\0")
            names = [word.decode() for word in words[::2] if word]
            if wrong := [name for name in names if name not in _TAKEN]:
                self.refused += 1
                writer.write(_refusal(f"unsupported startup parameter: {wrong[0]}"))
                await writer.drain()
                writer.close()
                return
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()  # a client that only checked whether the port is open
            return
        following = asyncio.StreamReader()
        following.feed_data(packet)
        await asyncio.gather(
            super()._join(following, writer), _pump(reader, following), return_exceptions=True
        )


async def _pump(reader: asyncio.StreamReader, following: asyncio.StreamReader) -> None:
    try:
        while data := await reader.read(65536):
            following.feed_data(data)
    finally:
        following.feed_eof()


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    while True:
        length = await reader.readexactly(4)
        rest = await reader.readexactly(struct.unpack("!i", length)[0] - 4)
        if struct.unpack("!i", rest[:4])[0] not in {_SSL_REQUEST, _GSS_REQUEST}:
            return length + rest
        writer.write(b"N")


def _refusal(message: str) -> bytes:
    fields = b"SFATAL\0VFATAL\0C08P01\0M" + message.encode() + b"\0\0"
    return b"E" + struct.pack("!i", len(fields) + 4) + fields
