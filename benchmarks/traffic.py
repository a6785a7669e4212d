"""The load of an application: writers and readers on one manager, whose operations it records."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any

from contender import Contender

__all__ = ("Traffic",)

_PAUSE = 0.002
"""Seconds that a task rests between two operations: two cores also run three servers."""

_PATIENCE = 20.0
"""Seconds after which an operation that does not end is counted as never ending."""

_CANCEL_PATIENCE = 15.0
"""The same for an operation that was cancelled."""

_INSERT = (
    "INSERT INTO bench VALUES ({}, {}) RETURNING current_setting('cluster_name')"  # the server's
)
_SELECT = "SELECT current_setting('cluster_name')"

_BROKEN_RATE = 200
"""Leases that a storm breaks per second."""

_BREAKERS = 8
"""The number of tasks that break them; every other task acquires leases of the master.

A task that waits for a lease breaks none meanwhile, and does not catch up afterwards.
"""

_TERMINATE = "SELECT pg_terminate_backend(pg_backend_pid())"


class Traffic:
    """Runs until it is stopped, and records every operation."""

    def __init__(self, contender: Contender, manager: Any) -> None:
        self._contender = contender
        self._manager = manager
        self._stopping = False
        self._tasks: list[Any] = []
        #: Client, number, server, begun, ended.
        self.written: list[tuple[int, int, str, float, float]] = []
        #: Client, server, begun, ended.
        self.read: list[tuple[int, str, float, float]] = []
        #: Task, error, begun, ended.
        self.failed: list[tuple[str, str, float, float]] = []
        #: Task, begun.
        self.hung: list[tuple[str, float]] = []
        #: When each lease of the storm was broken.
        self.broken: list[float] = []
        self._breakers: list[Any] = []
        self._began: dict[str, float] = {}

    def start(self, writers: int, readers: int) -> None:
        """Start the writers and readers."""
        for client in range(writers):
            self._start(f"writer {client}", self._write, client)
        for client in range(readers):
            self._start(f"reader {client}", self._read, client)

    def storm(self, kind: str) -> None:
        """Break leases from now on.

        With `terminated`, the server ends the session, as an administrator or a proxy may, and the
        pool opens another. With `raised`, a connection error leaves the lease's block, as if
        another service's connection had broken.
        """
        for index in range(_BREAKERS):
            self._begin(self._break(kind, index), f"breaker {index}", self._breakers)

    async def _break(self, kind: str, index: int) -> None:
        period = _BREAKERS / _BROKEN_RATE
        due = monotonic() + period * index / _BREAKERS
        while not self._stopping:
            await self._rest(max(0.0, due - monotonic()))
            due = max(due + period, monotonic())
            reached = False
            try:
                async with self._acquire(read_only=index % 2 == 1) as connection:
                    reached = True
                    if kind == "raised":
                        raise ConnectionResetError("as of another service")  # noqa: TRY301
                    await self._contender.value(connection, _TERMINATE)
            except Exception:  # noqa: BLE001 - every driver has a connection error of its own
                if reached:
                    self.broken.append(monotonic())

    def _acquire(self, *, read_only: bool) -> Any:
        if read_only:
            return self._manager.acquire_replica(fallback_master=True)
        return self._manager.acquire_master()

    def _start(self, name: str, work: Callable[[int, int], Awaitable[None]], client: int) -> None:
        self._begin(self._repeat(name, work, client), name, self._tasks)

    async def stop(self) -> None:
        """Wait for each worker to end its operation; record those that do not."""
        self._stopping = True
        for name in await self._end(_PATIENCE):
            self.hung.append((name, self._began[name]))

    # The workers are tasks here; a subclass uses threads.

    def _begin(self, work: Coroutine[Any, Any, None], name: str, among: list[Any]) -> None:
        among.append(asyncio.create_task(work, name=name))

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _end(self, patience: float) -> list[str]:
        """Wait for the workers, then end them; return the names of those that had to be ended."""
        _, hanging = await asyncio.wait(self._tasks, timeout=patience)
        for breaker in self._breakers:
            breaker.cancel()
        await asyncio.gather(*self._breakers, return_exceptions=True)
        for task in hanging:
            task.cancel()
        if hanging:
            await asyncio.wait(hanging, timeout=_CANCEL_PATIENCE)
        return [task.get_name() for task in hanging]

    async def _repeat(
        self, name: str, work: Callable[[int, int], Awaitable[None]], client: int
    ) -> None:
        number = 0
        while not self._stopping:
            number += 1
            began = self._began[name] = monotonic()
            try:
                await work(client, number)
            except Exception as error:  # noqa: BLE001 - every failure is counted
                words = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                self.failed.append((name, words, began, monotonic()))
            await self._rest(_PAUSE)

    async def _write(self, client: int, number: int) -> None:
        began = monotonic()
        async with self._acquire(read_only=False) as connection:
            server = await self._contender.write(connection, _INSERT.format(client, number))
            self.written.append((client, number, server, began, monotonic()))

    async def _read(self, client: int, _number: int) -> None:
        began = monotonic()
        async with self._acquire(read_only=True) as connection:
            server = await self._contender.value(connection, _SELECT)
        self.read.append((client, server, began, monotonic()))
