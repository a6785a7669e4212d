"""The observer: asks the servers themselves when one began to accept writes."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from hasql.testing import ClusterError

__all__ = ("Observable", "Observer", "Promotion")

_TIMEOUT = 30.0
"""Seconds that the start of the process may take, and those that a promotion may take."""


class Observable(Protocol):
    """A server that the observer can ask."""

    @property
    def superuser_dsn(self) -> str:
        """The DSN of this server alone, for the superuser."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """Bounds on when a replica became a master, in monotonic seconds."""

    #: When the last question was sent that the server answered with "in recovery".
    not_before: float
    #: When the first answer arrived that said it was no longer in recovery.
    not_after: float


class Observer:
    """A process that watches replicas for a promotion; use it in ``async with``."""

    def __init__(self, nodes: Sequence[Observable]) -> None:
        self._nodes = tuple(nodes)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)  # noqa: PTH109 - as text
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "hasql.cli.recovery_poll"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the demo, which then ends this process
        )
        try:
            # The DSNs go through standard input, because arguments are visible to every user.
            self._order(json.dumps([node.superuser_dsn for node in self._nodes]))
            await self._answer()
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

    def watch(self) -> None:
        """Start asking the servers, every two milliseconds."""
        self._order("watch")

    async def promotion(self, node: Observable) -> Promotion:
        """Wait until `node` is a master, and return when it became one.

        Raises:
            ClusterError: No replica became a master within 30 s, or the process has ended.
        """
        while True:
            index, not_before, not_after = json.loads(await self._answer())
            if self._nodes[index] is node:
                return Promotion(not_before, not_after)

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None  # noqa: S101 - used outside `async with`
        return self._process

    def _order(self, line: str) -> None:
        stdin = self._running.stdin
        assert stdin is not None  # noqa: S101 - it is a pipe
        stdin.write(f"{line}\n".encode())

    async def _answer(self) -> bytes:
        stdout = self._running.stdout
        assert stdout is not None  # noqa: S101 - it is a pipe
        try:
            async with asyncio.timeout(_TIMEOUT):
                line = await stdout.readline()
        except TimeoutError:
            raise ClusterError(f"no replica became a master within {_TIMEOUT:g} s") from None
        if not line:
            raise ClusterError("the process that observes the servers has ended")
        return line

    async def _end(self) -> None:
        process = self._running
        if process.returncode is None:
            process.kill()
        await process.wait()
