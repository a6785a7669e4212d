"""A TCP proxy that can go silent, like a firewall, a lost route or a dead switch."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Proxy:
    """Forwards connections to one server until it is told otherwise. Use it in ``async with``.

    It listens at any free port unless it is given one.
    """

    def __init__(
        self, host: str, port: int, *, listen: str = "127.0.0.1", listen_port: int = 0
    ) -> None:
        self._target = host, port
        self._address = listen
        self._listen_port = listen_port
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._there, self._back = _set(), _set()
        self._holding = False
        #: Clients whose COMMIT has not been answered yet.
        self._committing: set[asyncio.StreamWriter] = set()
        #: If set, a connection ends right after the answer to a message that contains these bytes.
        self.ends_behind: bytes | None = None
        #: How many ends of connections were held back.
        self.held = 0
        #: Seconds that a new connection waits before its first byte is forwarded.
        self.delay = 0.0
        #: How many connections were made through it, how many of them have ended, and how often
        #: clients have sent something.
        self.connections = 0
        self.ended = 0
        self.requests = 0

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._listener is not None
        port = self._listener.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    def black_hole(
        self, *, there: bool = True, back: bool = True, new_ones_too: bool = True
    ) -> None:
        """Accept bytes but forward none, without closing anything.

        `there` is the direction to the server, `back` the direction to the client.
        """
        if there:
            self._there.clear()
        if back:
            self._back.clear()
        if not new_ones_too:
            # Existing flows stay silent for good; later ones get new events.
            self._there, self._back = _set(), _set()
        elif there and back:
            self._open.clear()

    def hold_answers_to_new_ones(self) -> None:
        """On new connections, hold back everything that the server sends, until `forward`."""
        self._back = asyncio.Event()

    def forward(self) -> None:
        """Forward again, including the bytes that were held back."""
        self._there.set()
        self._back.set()
        self._open.set()

    def hold_ends(self) -> None:
        """Forward what a server sends, but not that it has closed a connection.

        A client that then sends anything gets a reset, as from the server's kernel.
        """
        self._holding = True

    def drop(self) -> None:
        """Close every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def answer_commits(self, sqlstate: str) -> None:
        """Answer each COMMIT with an error that ends the connection, like a server or pooler."""
        fields = b"".join(
            kind + text.encode() + b"\0"
            for kind, text in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", sqlstate), (b"M", "ends"))
        )
        message = b"E" + (len(fields) + 5).to_bytes(4, "big") + fields + b"\0"
        for writer in self._committing:
            writer.write(message)
            writer.close()
            self._writers.discard(writer)
        self._committing.clear()

    def choose(self) -> tuple[str, int]:
        """Return the address that the next connection is forwarded to."""
        return self._target

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, self._address, self._listen_port)
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
            await asyncio.sleep(self.delay)
            there_reader, there = await asyncio.open_connection(*self.choose())
            self._writers.add(there)
            sent = asyncio.Event()

            asked = False

            def note_request(data: bytes) -> None:
                nonlocal asked
                self.requests += 1
                asked = asked or (self.ends_behind is not None and self.ends_behind in data)
                if b"COMMIT" in data:
                    self._committing.add(writer)
                sent.set()

            def note_answer() -> bool:
                self._committing.discard(writer)
                return asked

            ends = [
                asyncio.ensure_future(_copy(reader, there, self._there, note_request)),
                asyncio.ensure_future(_copy(there_reader, writer, self._back, until=note_answer)),
            ]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if self._holding and not ends[0].done():
                    sent.clear()
                    self.held += 1
                    await sent.wait()
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
                self._writers.discard(there)
                there.transport.abort()
        except OSError:
            pass  # the server refuses: close the client's connection
        finally:
            self._writers.discard(writer)
            self._committing.discard(writer)
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
            self.ended += 1


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    forwarding: asyncio.Event,
    seen: Callable[[bytes], object] = bool,
    until: Callable[[], bool] = lambda: False,
) -> None:
    while data := await reader.read(65536):
        seen(data)
        await forwarding.wait()
        writer.write(data)
        await writer.drain()
        if until():
            writer.close()  # after everything was written
            return
    await forwarding.wait()  # a black hole swallows the end of a flow as well
