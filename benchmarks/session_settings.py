"""Measures what `session=` adds to an acquire: settings at connect, as a guard, or for a lease.

    make bench ARGS="session_settings --rounds 40"

Managers of the same servers that differ only in `session=` have a lap in each round, in turn. A lap
acquires and releases without a statement; the time is processor time. `guarded` is
`enforce_read_only`: on a replica, on a master with reads only, and on a master with reads and
writes in turn. Asyncpg's pool does without its reset, which is a round trip that undoes the guard.
"""

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import uvloop
from contender import DRIVERS, Contender

from hasql.cluster.dsn import Dsn
from hasql.resilience import SessionDefaults
from hasql.testing import LocalCluster

__all__ = ("main",)

_OPERATIONS = 300
_NAMED = SessionDefaults(statement_timeout=5, lock_timeout=1, application_name="bench")
_GUARDED = SessionDefaults(enforce_read_only=True)
_LAPS = Callable[[], Awaitable[None]]


async def _lap(acquire: Callable[[], Any]) -> None:
    for _ in range(_OPERATIONS):
        async with acquire():
            pass


async def _laps(
    cluster: LocalCluster, contender: Contender, stack: AsyncExitStack
) -> dict[str, _LAPS]:
    parsed = Dsn.parse(cluster.dsn)
    master = parsed.for_host(next(h for h in parsed.hosts if h.port == cluster.master.port))

    async def manager(dsn: str, session: SessionDefaults | None, **kwargs: Any) -> Any:
        made = contender.manager(dsn, 1, reset=False, session=session, **kwargs)
        opened = await stack.enter_async_context(made)
        await opened.ready(1, len(Dsn.parse(dsn).hosts) - 1)
        return opened

    off, named = await manager(cluster.dsn, None), await manager(cluster.dsn, _NAMED)
    guarded = await manager(cluster.dsn, _GUARDED)
    alone = await manager(master, _GUARDED, fallback_master=True)
    both = await manager(master, _GUARDED, fallback_master=True)
    turns = [both.acquire_master, both.acquire_replica]

    async def by_turns() -> None:
        for number in range(_OPERATIONS):
            async with turns[number % 2]():
                pass

    return {
        "off, master": lambda: _lap(off.acquire_master),
        "at connect, master": lambda: _lap(named.acquire_master),
        "guarded, master": lambda: _lap(guarded.acquire_master),
        "off, replica": lambda: _lap(off.acquire_replica),
        "guarded, replica": lambda: _lap(guarded.acquire_replica),
        "guarded, reads on a master": lambda: _lap(alone.acquire_replica),
        "guarded, both on a master": by_turns,
        "of a lease": lambda: _lap(lambda: off.acquire_master(session=_NAMED)),
    }


async def _measure(cluster: LocalCluster, contender: Contender, rounds: int) -> dict[str, float]:
    figures: dict[str, list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        laps = await _laps(cluster, contender, stack)
        for number in range(rounds + 2):
            names = list(laps) if number % 2 else list(reversed(laps))
            for name in names:
                began = time.process_time_ns()
                await laps[name]()
                if number > 1:  # the first two warm up
                    figures[name].append((time.process_time_ns() - began) / _OPERATIONS / 1000)
    return {name: median(figures[name]) for name in laps}


def main() -> None:
    """Print a table for each driver."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--driver", action="append", choices=sorted(DRIVERS))
    options = parser.parse_args()
    with LocalCluster(replicas=1) as cluster:
        for driver in options.driver or ["asyncpg", "psycopg3"]:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                seen = runner.run(_measure(cluster, DRIVERS[driver](), options.rounds))
            print(f"\n{driver}: microseconds of the processor for an acquire and a release")
            for name, figure in seen.items():
                print(f"  {name:28} {figure:7.2f}")


if __name__ == "__main__":
    main()
