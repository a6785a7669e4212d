"""The workload: writers and readers that use a pool manager as an application would."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from hasql.asyncpg import PoolManager
from hasql.cli.report import Acknowledged, FailedOperation

__all__ = ("TABLE", "Workload")

TABLE = "hasql_demo"
_CREATE = f"CREATE TABLE {TABLE} (client int, sequence int, PRIMARY KEY (client, sequence))"
_INSERT = f"INSERT INTO {TABLE} VALUES ($1, $2) RETURNING host(inet_server_addr())"  # noqa: S608 - a constant
_SELECT = f"SELECT max(sequence) FROM {TABLE} WHERE client = $1"  # noqa: S608 - a constant

_PAUSE = 0.002
"""Seconds that a task rests between two operations: two cores also run three servers."""

_PATIENCE = 5.0
"""Seconds after which an operation that does not end is counted as hanging."""

_GRACE = 0.2
"""Seconds that operations under way are given by somebody in a hurry."""

_Operation: TypeAlias = Callable[[int, int], Awaitable[None]]
"""Takes the client's number and that of the operation."""


class Workload:
    """Runs until stopped and takes note of every operation. Times are monotonic seconds."""

    def __init__(self, pool: PoolManager) -> None:
        self._pool = pool
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.acknowledged: list[Acknowledged] = []
        #: When each read began and ended.
        self.reads: list[tuple[float, float]] = []
        self.failed: list[FailedOperation] = []
        self.hung = 0
        self.began = self.ended = time.monotonic()

    @staticmethod
    async def prepare(pool: PoolManager) -> None:
        """Make the table that is written and read."""
        async with pool.acquire_master() as connection:
            await connection.execute(_CREATE)

    def start(self, writers: int, readers: int) -> None:
        """Start the tasks."""
        self.began = time.monotonic()
        for client in range(1, writers + 1):
            self._start(f"writer {client}", self._write, client)
        for client in range(1, readers + 1):
            self._start(f"reader {client}", self._read, client)

    async def stop(self) -> None:
        """Let each task end its operation; count and end those that do not within 5 s."""
        self._stopping = True
        if not self._tasks:
            return
        _, hanging = await asyncio.wait(self._tasks, timeout=_PATIENCE)
        self.ended = time.monotonic()
        self.hung = len(hanging)
        await self.abort()

    async def abort(self) -> None:
        """End all tasks at once, but for what is ending by itself anyway."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _start(self, name: str, operation: _Operation, client: int) -> None:
        self._tasks.append(asyncio.create_task(self._repeat(name, operation, client), name=name))

    async def _repeat(self, name: str, operation: _Operation, client: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            began = time.monotonic()
            try:
                await operation(client, number)
            except Exception as error:  # noqa: BLE001 - counting them is what this is for
                text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                self.failed.append(FailedOperation(name, text, began, time.monotonic()))
            await asyncio.sleep(_PAUSE)

    async def _write(self, client: int, number: int) -> None:
        async with self._pool.acquire_master() as connection:
            address = await connection.fetchval(_INSERT, client, number)
            self.acknowledged.append(Acknowledged(client, number, time.monotonic(), address))

    async def _read(self, client: int, _number: int) -> None:
        began = time.monotonic()
        async with self._pool.acquire_replica(fallback_master=True) as connection:
            await connection.fetchval(_SELECT, client)
        self.reads.append((began, time.monotonic()))
