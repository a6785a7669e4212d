"""A TCP proxy that loses the answer to a COMMIT, or the COMMIT itself."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("LosesCommits", "Lost")


class Lost(Enum):
    """What is lost, together with the connection: the COMMIT or the answer to it."""

    ITSELF = "itself"
    ITS_ANSWER = "its answer"


class LosesCommits:
    """Forwards connections to one server. Use it with ``async with``."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        #: What is lost of the next COMMIT; None for nothing.
        self.loses: Lost | None = None
        #: Called when a COMMIT is lost; if it was forwarded, once the server has answered it.
        self.on_loss: Callable[[], object] = lambda: None

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # meanwhile the sockets are closed

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.ensure_future(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, there = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(there)
        lost = asyncio.Event()
        ends = [
            asyncio.ensure_future(self._send(reader, there, lost)),
            asyncio.ensure_future(self._answer(back, writer, lost)),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            for each in (there, writer):
                self._writers.discard(each)
                each.transport.abort()

    async def _send(
        self, reader: asyncio.StreamReader, there: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            loses, is_commit = self.loses, b"COMMIT" in data
            if is_commit and loses is not None:
                self.loses = None
                if loses is Lost.ITSELF:
                    self.on_loss()
                    return
                lost.set()
            there.write(data)
            await there.drain()

    async def _answer(
        self, back: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while data := await back.read(65536):
            if lost.is_set():
                self.on_loss()
                return
            writer.write(data)
            await writer.drain()
