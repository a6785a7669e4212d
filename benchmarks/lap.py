"""The process in which acquire.py measures: one driver, one event loop, one hasql.

It reads orders from standard input, one JSON object on a line, and answers each with a line:

    {"open": {...}}   opens a bare pool and a manager with these arguments
    {"lap": first}    runs a lap with each; answers nanoseconds per operation; `first` goes first
    {"shut": null}    closes both
"""

import asyncio
import gc
import json
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import perf_counter_ns, process_time_ns
from typing import Any

from contender import DRIVERS, Contender, hasql_version

__all__ = ("Track", "serve")

Side = Callable[[], AbstractAsyncContextManager[Any]]


class Track:
    """A bare pool and a manager that run the same laps."""

    def __init__(self, contender: Contender, case: dict[str, Any]) -> None:
        self._contender = contender
        self._tasks: int = case["tasks"]
        self._each: int = max(1, case["operations"] // self._tasks)
        self._selects: bool = case["select"]
        # On a busy machine processor time is more exact, if no server takes part.
        self._clock = process_time_ns if case["clock"] == "cpu" else perf_counter_ns
        self._case = case
        self._pool: Any = None
        self._manager: Any = None
        self._sides: dict[str, Side] = {}

    async def open(self) -> None:
        case, size, reset = self._case, self._case["size"], self._case["reset"]
        self._pool = await self._contender.bare(case["host"], size, reset=reset)
        # With 50 tasks on a pool of 10, no acquire may run out of time.
        self._manager = self._contender.manager(
            case["dsn"], size, reset=reset, acquire_timeout=30.0
        )
        await self._manager.ready(masters_count=1, replicas_count=case["replicas"])
        lend = self._manager.acquire_replica if case["replica"] else self._manager.acquire_master
        self._sides = {"bare": lambda: self._contender.lend(self._pool), "managed": lend}
        for side in self._sides.values():  # opens every connection, and runs the statement on it
            await asyncio.gather(*(self._warm(side) for _ in range(size)))
            await self._lap(side)
        gc.collect()

    async def _warm(self, side: Side) -> None:
        async with side() as connection:
            for _ in range(10):  # psycopg prepares a statement at its sixth use
                await self._contender.select_1(connection)

    async def lap(self, first: str) -> dict[str, float]:
        names = sorted(self._sides, key=lambda name: name != first)
        return {name: await self._lap(self._sides[name]) for name in names}

    async def _lap(self, side: Side) -> float:
        run = self._select if self._selects else self._nothing
        began = self._clock()
        if self._tasks == 1:
            await run(side)
        else:
            await asyncio.gather(*(run(side) for _ in range(self._tasks)))
        return (self._clock() - began) / (self._each * self._tasks)

    async def _nothing(self, side: Side) -> None:
        for _ in range(self._each):
            async with side():
                pass

    async def _select(self, side: Side) -> None:
        select_1 = self._contender.select_1
        for _ in range(self._each):
            async with side() as connection:
                await select_1(connection)

    async def shut(self) -> None:
        await self._manager.close()
        await self._contender.close(self._pool)


async def serve(driver: str) -> None:
    """Answer orders until there are no more."""
    contender = DRIVERS[driver]()
    # The peer leaves psycopg's transactions open, and the pool logs a line each time.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    loop = asyncio.get_running_loop()
    track: Track | None = None
    print(json.dumps(hasql_version()), flush=True)
    # A thread waits for the line, so that the managers' probes go on.
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        ((order, argument),) = json.loads(line).items()
        answer: object = None
        if order == "open":
            track = Track(contender, argument)
            await track.open()
        elif track is not None and order == "lap":
            answer = await track.lap(argument)
        elif track is not None:
            await track.shut()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    name, kind = sys.argv[1:]
    factory = None
    if kind == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(name))
