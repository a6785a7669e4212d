"""An HTTP server on loopback that answers as a test tells it: well, badly, slowly, or never."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from types import TracebackType

__all__ = (
    "Behaviour",
    "HttpServer",
    "Request",
    "answers",
    "breaks_off",
    "drips",
    "floods",
    "hangs",
    "says",
)

Behaviour: TypeAlias = "Callable[[asyncio.StreamWriter], Awaitable[None]]"
"""What the server does after a request, before it closes the connection."""


@dataclass(frozen=True)
class Request:
    """A request of a client."""

    target: str
    headers: dict[str, str]


class HttpServer:
    """The server; use it in ``async with``. `behaviour` may be changed at any time."""

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.behaviour = behaviour
        self.requests: list[Request] = []
        #: How many connections were made, with a request or without one.
        self.connections = 0
        #: How many connections are open now.
        self.open = 0
        self.host = host
        self.port = port
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://{self.host}:{self.port}"

    async def asked(self, times: int) -> None:
        """Wait until it has got that many requests in all."""
        async with asyncio.timeout(20):
            while len(self.requests) < times:
                self._news.clear()
                await self._news.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connected, self.host, self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                first = await reader.readexactly(1)
                if not first.isalpha():  # not HTTP, for example TLS
                    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    return
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
                request, *lines = head.strip().split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines)
                self.requests.append(
                    Request(request.split()[1], {k.lower(): v for k, v in headers.items()})
                )
                self._news.set()
                behaving = asyncio.ensure_future(self.behaviour(writer))
                gone = asyncio.ensure_future(reader.read())
                await asyncio.wait({behaving, gone}, return_when=asyncio.FIRST_COMPLETED)
                for each in (behaving, gone):
                    each.cancel()
                await asyncio.gather(behaving, gone, return_exceptions=True)
        finally:
            self.open -= 1
            writer.transport.abort() if writer.transport.is_closing() else writer.close()


def says(raw: bytes) -> Behaviour:
    """Send these bytes and close."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return behave


def answers(
    body: Any, status: int = 200, headers: dict[str, str] | None = None, date: str = ""
) -> Behaviour:
    """Answer with the body as JSON, or as it is if it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.0 {status} As it is", f"Content-Length: {len(content)}"]
    lines += [f"Date: {date}"] if date else []
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return says("\r\n".join(lines).encode() + b"\r\n\r\n" + content)


def breaks_off(body: Any) -> Behaviour:
    """Announce a complete answer, and close in the middle of it."""
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    return says(head + content[: len(content) // 2])


async def hangs(_: asyncio.StreamWriter) -> None:
    """Read the request and send nothing."""
    await asyncio.Event().wait()


async def drips(writer: asyncio.StreamWriter) -> None:
    """Send a byte now and then, so that no single read is slow."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def floods(writer: asyncio.StreamWriter) -> None:
    """Send bytes without end."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * 65536)
        await writer.drain()
