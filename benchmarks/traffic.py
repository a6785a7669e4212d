"""The process that failover.py watches: an application with writers and readers on one manager.

Reads its plan from standard input, one JSON object on a line: `dsn`, `writers`, `readers`,
`replicas`. Answers ``"ready"``, begins at the next line and stops at the one after; then writes
what it has taken note of, as one JSON object. Times are of the monotonic clock, which all
processes of a machine share.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from contender import DRIVERS, Contender

__all__ = ("Traffic",)

_PAUSE = 0.002
"""Seconds that a task rests between two operations: two cores also run three servers."""

_PATIENCE = 20.0
"""Seconds after which an operation that does not end is counted as never ending."""

_CLOSE_PATIENCE = 15.0
"""The same for closing the manager."""

_POOL = 10

_INSERT = (
    "INSERT INTO bench VALUES ({}, {}) RETURNING current_setting('cluster_name')"  # the server's
)
_SELECT = "SELECT current_setting('cluster_name')"


class Traffic:
    """Runs until stopped and takes note of every operation."""

    def __init__(self, contender: Contender, manager: Any) -> None:
        self._contender = contender
        self._manager = manager
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        #: Client, number, server, begun, ended.
        self.written: list[tuple[int, int, str, float, float]] = []
        #: Client, server, begun, ended.
        self.read: list[tuple[int, str, float, float]] = []
        #: Task, error, begun, ended.
        self.failed: list[tuple[str, str, float, float]] = []
        #: Task, begun.
        self.hung: list[tuple[str, float]] = []
        self._began: dict[str, float] = {}

    def start(self, writers: int, readers: int) -> None:
        """Start the tasks."""
        for client in range(writers):
            self._start(f"writer {client}", self._write, client)
        for client in range(readers):
            self._start(f"reader {client}", self._read, client)

    def _start(self, name: str, work: Callable[[int, int], Awaitable[None]], client: int) -> None:
        self._tasks.append(asyncio.create_task(self._repeat(name, work, client), name=name))

    async def stop(self) -> None:
        """Let each task end what it does; take note of those that do not."""
        self._stopping = True
        _, hanging = await asyncio.wait(self._tasks, timeout=_PATIENCE)
        for task in hanging:
            self.hung.append((task.get_name(), self._began[task.get_name()]))
            task.cancel()
        if hanging:
            await asyncio.wait(hanging, timeout=_CLOSE_PATIENCE)

    async def _repeat(
        self, name: str, work: Callable[[int, int], Awaitable[None]], client: int
    ) -> None:
        number = 0
        while not self._stopping:
            number += 1
            began = self._began[name] = monotonic()
            try:
                await work(client, number)
            except Exception as error:  # noqa: BLE001 - counting them is what this is for
                words = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                self.failed.append((name, words, began, monotonic()))
            await asyncio.sleep(_PAUSE)

    async def _write(self, client: int, number: int) -> None:
        began = monotonic()
        async with self._manager.acquire_master() as connection:
            server = await self._contender.write(connection, _INSERT.format(client, number))
            self.written.append((client, number, server, began, monotonic()))

    async def _read(self, client: int, _number: int) -> None:
        began = monotonic()
        async with self._manager.acquire_replica(fallback_master=True) as connection:
            server = await self._contender.value(connection, _SELECT)
        self.read.append((client, server, began, monotonic()))


async def serve(driver: str) -> None:
    """Play one application."""
    loop = asyncio.get_running_loop()
    plan = json.loads(sys.stdin.readline())
    contender = DRIVERS[driver]()
    manager = contender.manager(plan["dsn"], _POOL)
    await manager.ready(masters_count=1, replicas_count=plan["replicas"])
    traffic = Traffic(contender, manager)
    print(json.dumps("ready"), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    traffic.start(plan["writers"], plan["readers"])
    await loop.run_in_executor(None, sys.stdin.readline)
    await traffic.stop()
    began = monotonic()
    closing = asyncio.ensure_future(manager.close())
    await asyncio.wait([closing], timeout=_CLOSE_PATIENCE)
    closed = monotonic() - began if closing.done() else None
    notes = {"written": traffic.written, "read": traffic.read, "failed": traffic.failed}
    print(json.dumps(notes | {"hung": traffic.hung, "closed": closed}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(serve(sys.argv[1]))
