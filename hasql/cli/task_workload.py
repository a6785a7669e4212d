"""The workload that runs in tasks, with asyncpg."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from hasql.asyncpg import PoolManager
from hasql.cli.report import Acknowledged
from hasql.cli.workload import GRACE, PAUSE, Statements, Workload

__all__ = ("TaskWorkload",)

_SQL = Statements("$1", "$2")


class TaskWorkload(Workload):
    """Runs each writer and each reader in a task."""

    def __init__(self, pool: PoolManager) -> None:
        super().__init__(pool)
        self._pool = pool
        self._tasks: list[asyncio.Task[None]] = []

    async def ready(self, seconds: float = 10.0) -> None:
        """See `Workload.ready`."""
        await self._pool.ready(1, 2, timeout=seconds)

    async def prepare(self) -> None:
        """See `Workload.prepare`."""
        async with self._pool.acquire_master() as connection:
            await connection.execute(_SQL.create)

    async def close(self) -> None:
        """See `Workload.close`."""
        await self._pool.close()

    async def abort(self) -> None:
        """See `Workload.abort`."""
        self._stopping = True
        await self._wait(GRACE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _start(
        self, name: str, operation: Callable[[int, int], Awaitable[None]], client: int
    ) -> None:
        self._tasks.append(asyncio.create_task(self._repeat(name, operation, client), name=name))

    async def _wait(self, seconds: float) -> int:
        if not self._tasks:
            return 0
        _, hanging = await asyncio.wait(self._tasks, timeout=seconds)
        return len(hanging)

    async def _repeat(
        self, name: str, operation: Callable[[int, int], Awaitable[None]], client: int
    ) -> None:
        number = 0
        while not self._stopping:
            number += 1
            began = monotonic()
            try:
                await operation(client, number)
            except Exception as error:  # noqa: BLE001 - every failure is counted
                self._note_failure(name, error, began)
            await asyncio.sleep(PAUSE)

    async def _write(self, client: int, number: int) -> None:
        async with self._pool.acquire_master() as connection:
            address = await connection.fetchval(_SQL.insert, client, number)
            self.acknowledged.append(Acknowledged(client, number, monotonic(), address))

    async def _read(self, client: int, _number: int) -> None:
        began = monotonic()
        async with self._pool.acquire_replica(fallback_master=True) as connection:
            await connection.fetchval(_SQL.select, client)
        self.reads.append((began, monotonic()))
