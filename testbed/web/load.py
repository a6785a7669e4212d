"""The load: clients that write and read over HTTP, and record every answer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from testbed.web.client import HttpClient

if TYPE_CHECKING:
    from testbed.web.apps import WebApp

__all__ = ("Answer", "WebLoad")

_LONGEST = 30.0
"""Seconds after which the client gives a request up."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a request; times are monotonic seconds."""

    client: str
    began: float
    ended: float
    #: None if no answer came.
    status: int | None
    #: The page that was written, if the write was acknowledged.
    page: str | None
    #: Why there was no answer, or the text of an answer that was not a success.
    error: str

    @property
    def good(self) -> bool:
        """Whether the request succeeded."""
        return self.status is not None and 200 <= self.status < 300


class WebLoad:
    """Runs until it is stopped; each client makes one request after another, with short pauses."""

    def __init__(self, app: WebApp, port: int, *, pause: float = 0.03) -> None:
        self._app = app
        self._port = port
        # The clients pause because two cores run the load, the application and three servers.
        self._pause = pause
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._news = asyncio.Event()
        self.answers: list[Answer] = []

    def start(self) -> None:
        """Start all clients."""
        names = [f"writer {number}" for number in range(self._app.writers)]
        names += [f"reader {number}" for number in range(self._app.readers)]
        self._tasks = [asyncio.create_task(self._repeat(name), name=name) for name in names]

    async def first_write_after(self, moment: float) -> Answer:
        """Wait for the first write that was acknowledged after a moment, and return it."""
        async with asyncio.timeout(_LONGEST):
            while True:
                writes = (each for each in self.answers if each.page and each.ended >= moment)
                if (first := next(writes, None)) is not None:
                    return first
                self._news.clear()
                await self._news.wait()

    async def stop(self) -> None:
        """Wait for each client's request to end; requests that do not are recorded as given up."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def abort(self) -> None:
        """End all clients at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, name: str) -> None:
        client = HttpClient(self._port)
        try:
            while not self._stopping:
                self.answers.append(await self._ask(client, name))
                self._news.set()
                await asyncio.sleep(self._pause)
        finally:
            client.close()

    async def _ask(self, client: HttpClient, name: str) -> Answer:
        page = uuid4().hex if name.startswith("writer") else None
        method, target = ("GET", self._app.read) if page is None else ("POST", self._app.write)
        status: int | None = None
        began, error = time.monotonic(), ""
        try:
            async with asyncio.timeout(_LONGEST):
                status, body = await client.request(method, target.format(page=page))
        except OSError as raised:  # a TimeoutError is one
            error = repr(raised)
        else:
            if not 200 <= status < 300:
                page, error = None, body.decode(errors="replace")
        if status is None:
            page = None
        return Answer(name, began, time.monotonic(), status, page, error)
