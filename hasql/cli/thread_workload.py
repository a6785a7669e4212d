"""The workload that runs in threads, with psycopg."""

import asyncio
from collections.abc import Callable
from threading import Thread
from time import monotonic, sleep

from hasql.cli.report import Acknowledged
from hasql.cli.workload import GRACE, PAUSE, TIMEOUT, Statements, Workload
from hasql.sync.psycopg3 import PoolManager

__all__ = ("ThreadWorkload",)

_SQL = Statements("%s", "%s")


class ThreadWorkload(Workload):
    """Runs each writer and each reader in a thread. The pool's connections are in autocommit mode.

    The demo's own calls of the pool manager also run in threads, because they would block the
    demo's event loop.
    """

    def __init__(self, pool: PoolManager) -> None:
        super().__init__(pool)
        self._pool = pool
        self._threads: list[Thread] = []
        #: Set while connections are broken to end threads: failures are not counted then.
        self._breaking = False

    async def ready(self, seconds: float = 10.0) -> None:
        """See `Workload.ready`."""
        await asyncio.to_thread(self._pool.ready, 1, 2, seconds)

    async def prepare(self) -> None:
        """See `Workload.prepare`."""
        await asyncio.to_thread(self._create)

    def _create(self) -> None:
        with self._pool.acquire_master() as connection:
            connection.execute(_SQL.create)

    async def close(self) -> None:
        """See `Workload.close`."""
        await asyncio.to_thread(self._pool.close)

    async def abort(self) -> None:
        """See `Workload.abort`."""
        self._stopping = True
        if await self._wait(GRACE):
            self._breaking = True
            await asyncio.to_thread(self._pool.terminate)
            await self._wait(TIMEOUT)

    def _start(self, name: str, operation: Callable[[int, int], None], client: int) -> None:
        # Daemon threads, so that not even a hanging one keeps the command from ending.
        thread = Thread(target=self._repeat, args=(name, operation, client), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    async def _wait(self, seconds: float) -> int:
        return await asyncio.to_thread(self._join, seconds)

    def _join(self, seconds: float) -> int:
        deadline = monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def _repeat(self, name: str, operation: Callable[[int, int], None], client: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            began = monotonic()
            try:
                operation(client, number)
            except Exception as error:  # noqa: BLE001 - every failure is counted
                if not self._breaking:
                    self._note_failure(name, error, began)
            sleep(PAUSE)

    def _write(self, client: int, number: int) -> None:
        with self._pool.acquire_master() as connection:
            row = connection.execute(_SQL.insert, (client, number)).fetchone()
            assert row is not None  # noqa: S101 - RETURNING yields one
            self.acknowledged.append(Acknowledged(client, number, monotonic(), row[0]))

    def _read(self, client: int, _number: int) -> None:
        began = monotonic()
        with self._pool.acquire_replica(fallback_master=True) as connection:
            connection.execute(_SQL.select, (client,)).fetchone()
        self.reads.append((began, monotonic()))
