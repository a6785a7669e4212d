"""A TCP proxy that can go deaf: what a firewall, a lost route or a dead switch look like."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Proxy:
    """Forwards connections to one server until told otherwise. Use it with ``async with``.

    It listens at any free port unless it is told which.
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
        #: Clients whose COMMIT is not answered yet.
        self._committing: set[asyncio.StreamWriter] = set()
        #: Ends each connection right behind the answer to what holds this; None: none.
        self.ends_behind: bytes | None = None
        #: How many ends of connections were held back.
        self.held = 0
        #: Seconds that a connection made from now on waits before its first byte is passed on.
        self.delay = 0.0
        #: How many connections were made through it and how many of them have ended, and how often
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
        """Take bytes in and pass none on, without closing anything.

        `there` is the way to the server and `back` the way to the client.
        """
        if there:
            self._there.clear()
        if back:
            self._back.clear()
        if not new_ones_too:
            # The flows there are stay deaf for good; later ones get events of their own.
            self._there, self._back = _set(), _set()
        elif there and back:
            self._open.clear()

    def hold_answers_to_new_ones(self) -> None:
        """Pass on nothing that the server says on connections made from now on, until `forward`."""
        self._back = asyncio.Event()

    def forward(self) -> None:
        """Pass on again what comes from now on, and what was held back."""
        self._there.set()
        self._back.set()
        self._open.set()

    def hold_ends(self) -> None:
        """Pass on what a server says, but not that it has closed a connection.

        A client that sends something more gets a reset, as by the server's kernel.
        """
        self._holding = True

    def drop(self) -> None:
        """Close every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def answer_commits(self, sqlstate: str) -> None:
        """Answer each COMMIT as a server or a pooler does that ends the connection with it."""
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
        """Return where the next connection leads."""
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
            pass  # as a server that refuses: the client's connection is closed
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
            writer.close()  # behind what was written
            return
    await forwarding.wait()  # in a black hole the end of a flow is lost as well
