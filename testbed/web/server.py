"""Runs an application under its real server, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from hasql.testing._ports import free_ports
from testbed.web.apps import ROOT
from testbed.web.client import HttpClient

if TYPE_CHECKING:
    from types import TracebackType

    from testbed.web.apps import WebApp

__all__ = ("WebServer",)

_PATIENCE = 20.0
"""Seconds that the server may take to serve, and to end."""

_ENDED = {0, -signal.SIGTERM}
"""The exit codes of a server that was told to end; uvicorn ends by the signal that it got."""


class WebServer:
    """A server; use it in ``async with``. It serves within the block, and has ended afterwards."""

    def __init__(self, app: WebApp, dsn: str) -> None:
        self.app = app
        (self.port,) = free_ports(1)
        #: Seconds that the server took to end after it was told to.
        self.closing: float | None = None
        self._environment = {
            **os.environ,
            "DATABASE_URL": dsn,
            "PYTHONWARNINGS": "default::ResourceWarning",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        # A file, not a pipe, so that the server can write any amount.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # as long as this object
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()

    @property
    def output(self) -> str:
        """The server's output so far."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    @property
    def pid(self) -> int:
        """The pid of the process that was started."""
        assert self._process is not None  # used outside `async with`
        return self._process.pid

    async def stop(self) -> None:
        """Tell the server to end, and wait until it has."""
        process = self._process
        assert process is not None  # as above
        began = time.monotonic()
        process.terminate()
        async with asyncio.timeout(_PATIENCE):
            code = await process.wait()
        self.closing = time.monotonic() - began
        if code not in _ENDED:
            raise RuntimeError(f"{self.app.name} has ended with {code}:\n{self.output}")

    async def _start(self) -> None:
        if self.app.prepare and await (await self._run(self.app.prepare)).wait() != 0:
            raise RuntimeError(f"{self.app.name}: {self.app.prepare}:\n{self.output}")
        self._process = await self._run(self.app.command)
        try:
            async with asyncio.timeout(_PATIENCE):
                while not await self._serves():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise RuntimeError(f"{self.app.name} does not serve:\n{self.output}") from None

    async def _run(self, words: tuple[str, ...]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(word.format(port=self.port) for word in words),
            cwd=ROOT,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,  # its own process group, so that its workers end with it
        )

    async def _serves(self) -> bool:
        process = self._process
        if process is not None and process.returncode is not None:
            raise RuntimeError(f"{self.app.name} has ended:\n{self.output}")
        client = HttpClient(self.port)
        try:
            status, _ = await client.request("GET", self.app.ready)
        except OSError:
            return False
        finally:
            client.close()
        return status == 200

    async def _end(self) -> None:
        process = self._process
        if process is not None and self.closing is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        self._output.close()
