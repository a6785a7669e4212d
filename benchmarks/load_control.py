"""Measures admission, rate limits, the breaker and the watch on leases: their cost and effect.

    make bench ARGS="load_control --rounds 200"
    python benchmarks/load_control.py [--rounds 200] [--calls 16] [--laps 5] [--only cost]
        [--save FILE]

**Cost.** Managers that differ in one feature take turns on one server, in laps of acquire and
release without a statement: tasks with asyncpg, and a thread with psycopg. The time is this
process's processor time. A feature adds the median, over the rounds, of its lap minus the lap with
everything off; printed beside it is its shortest lap minus the shortest of those. `--calls` sets
the depth of calls at which acquires are made, because the watch on leases records stacks.

**Overload.** Four times as many requests as the server can do well, without and with admission: see
`overload.py`.
"""

import argparse
import asyncio
import gc
import json
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from overload import overload

from hasql.asyncpg import PoolManager
from hasql.resilience import Admission, Breaker, Lifecycle, RateLimit
from hasql.sync.psycopg3 import PoolManager as SyncPoolManager
from hasql.testing import LocalCluster

__all__ = ("FEATURES", "main")

_KEYS = cycle(map(str, range(100)))

FEATURES: dict[str, dict[str, Any]] = {
    "off": {},
    "off, again": {},
    "breaker": {"breaker": Breaker()},
    "admission": {"admission": Admission(50)},
    "admission, adaptive": {"admission": Admission(50, adaptive=True)},
    "rate in memory": {"rate_limit": RateLimit("100000000/second")},
    "rate by key": {"rate_limit": RateLimit("100000000/second", key=lambda: next(_KEYS))},
    "leaks": {"lifecycle": Lifecycle(leak_threshold=60)},
    "leaks, with stacks": {"lifecycle": Lifecycle(leak_threshold=60, stacks=True)},
    "leaks and ages": {"lifecycle": Lifecycle(leak_threshold=60, max_lifetime=600, max_idle=600)},
    "leaks and idle checks": {"lifecycle": Lifecycle(leak_threshold=60, check_idle=600)},
    "all": {
        "lifecycle": Lifecycle(leak_threshold=60),
        "breaker": Breaker(),
        "admission": Admission(50),
        "rate_limit": RateLimit("100000000/second"),
    },
}
#: Few, so that other load on the machine affects all laps alike.
_OPERATIONS = 100


async def _no_reset(_: object) -> None:
    pass


async def _use(acquire: Callable[[], Any], calls: int) -> None:
    if calls:
        await _use(acquire, calls - 1)
        return
    async with acquire():
        pass


def _use_in_thread(acquire: Callable[[], Any], calls: int) -> None:
    if calls:
        _use_in_thread(acquire, calls - 1)
        return
    with acquire():
        pass


async def _cost_to_tasks(dsn: str, rounds: int, calls: int) -> dict[str, list[float]]:
    """Return the seconds of an acquire and its release in each lap, by feature."""
    pool = {"min_size": 1, "max_size": 1, "reset": _no_reset}
    managers = {
        name: PoolManager(dsn, pool_factory_kwargs=pool, refresh_delay=3600, **kwargs)
        for name, kwargs in FEATURES.items()
    }
    laps: dict[str, list[float]] = {name: [] for name in managers}
    for manager in managers.values():
        await manager.ready()
    for number in range(rounds + 2):
        for name in sorted(managers, reverse=number % 2 == 1):
            acquire = managers[name].acquire_master
            began = process_time()
            for _ in range(_OPERATIONS):
                await _use(acquire, calls)
            laps[name].append((process_time() - began) / _OPERATIONS)
    await asyncio.gather(*(manager.close() for manager in managers.values()))
    return {name: each[2:] for name, each in laps.items()}


def _cost_to_threads(dsn: str, rounds: int, calls: int) -> dict[str, list[float]]:
    pool = {"min_size": 1, "max_size": 1, "kwargs": {"autocommit": True}}
    managers = {
        name: SyncPoolManager(dsn, pool_factory_kwargs=pool, refresh_delay=3600, **kwargs)
        for name, kwargs in FEATURES.items()
    }
    laps: dict[str, list[float]] = {name: [] for name in managers}
    for manager in managers.values():
        manager.ready()
    for number in range(rounds + 2):
        for name in sorted(managers, reverse=number % 2 == 1):
            acquire = managers[name].acquire_master
            began = process_time()
            for _ in range(_OPERATIONS):
                _use_in_thread(acquire, calls)
            laps[name].append((process_time() - began) / _OPERATIONS)
    for manager in managers.values():
        manager.close()
    return {name: each[2:] for name, each in laps.items()}


def report_cost(laps: dict[str, list[float]]) -> dict[str, float]:
    """Return the microseconds that each feature adds, by the medians of the rounds."""
    off = laps["off"]
    return {
        name: median((one - other) * 1e6 for one, other in zip(each, off, strict=True))
        for name, each in laps.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--laps", type=int, default=5, help="of each part of the overload")
    parser.add_argument("--only", choices=("cost", "overload"))
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with LocalCluster(replicas=0) as cluster:
        if options.only != "overload":
            gc.collect()
            measured = {
                "tasks": asyncio.run(_cost_to_tasks(cluster.dsn, options.rounds, options.calls)),
                "threads": _cost_to_threads(cluster.dsn, options.rounds, options.calls),
            }
            for face, laps in measured.items():
                results[face] = report_cost(laps)
                print(f"{face}: microseconds that an acquire and its release take longer with")
                print(f"  {'':22} median  minima")
                for name, added in results[face].items():
                    of_minima = (min(laps[name]) - min(laps["off"])) * 1e6
                    print(f"  {name:22} {added:6.2f}  {of_minima:6.2f}", flush=True)
        if options.only != "cost":
            print("overload:")
            results["overload"] = asyncio.run(overload(cluster, options.laps))
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
