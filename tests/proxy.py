"""A TCP proxy that can go deaf: what a firewall, a lost route or a dead switch look like."""

from __future__ import annotations

import asyncio
from typing import Self


class Proxy:
    """Forwards connections to one server until told otherwise. Use it with ``async with``."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        #: How many connections were made through it.
        self.connections = 0

    @property
    def port(self) -> int:
        """The port it listens on, on 127.0.0.1."""
        assert self._listener is not None
        port = self._listener.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    def black_hole(self, *, new_ones_too: bool = True) -> None:
        """Take bytes in and pass none on, without closing anything."""
        self._forwarding.clear()
        if new_ones_too:
            self._open.clear()
        else:
            # The flows there are stay deaf for good; later ones get an event of their own.
            self._forwarding = asyncio.Event()
            self._forwarding.set()

    def forward(self) -> None:
        """Pass on again what comes from now on, and what was held back."""
        self._forwarding.set()
        self._open.set()

    def drop(self) -> None:
        """Close every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        self.drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._open.wait()
            there_reader, there = await asyncio.open_connection(*self._target)
            self._writers.add(there)
            forwarding = self._forwarding
            ends = [
                asyncio.ensure_future(_copy(reader, there, forwarding)),
                asyncio.ensure_future(_copy(there_reader, writer, forwarding)),
            ]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
                self._writers.discard(there)
                there.transport.abort()
        except OSError:
            pass  # as a server that refuses: the client's connection is closed
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, forwarding: asyncio.Event
) -> None:
    while data := await reader.read(65536):
        await forwarding.wait()
        writer.write(data)
        await writer.drain()
