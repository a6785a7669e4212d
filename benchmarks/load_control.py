"""What admission, rates, the breaker and the watch on leases cost an acquire, and an overload.

    make bench ARGS="load_control --rounds 60"
    python benchmarks/load_control.py [--rounds 60] [--only cost] [--save FILE]

**Cost.** Managers that are the same in all but one feature take turns on one server: laps of
acquire and release without a statement, by the processor's time of this process, tasks on asyncpg
and a thread on psycopg. What a feature adds is the median over the rounds of its lap less the lap
with everything off.

**Overload.** Requests arrive by chance at a rate, each with a deadline, some of them critical; each
runs a statement that keeps one of the server's processors busy. At first as many as are done best;
then four times as many, without admission and with it. A request is good if it is done in time.
"""

import argparse
import asyncio
import gc
import json
import random
from collections import Counter
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

from hasql.asyncpg import PoolManager
from hasql.errors import NotAvailableError
from hasql.resilience import Admission, Breaker, Lifecycle, Priority, RateLimit, priority
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
    "all": {
        "lifecycle": Lifecycle(leak_threshold=60),
        "breaker": Breaker(),
        "admission": Admission(50),
        "rate_limit": RateLimit("100000000/second"),
    },
}
_OPERATIONS = 1000

#: Seconds of each part of an overload, and of the deadline of a request.
_SECONDS, _DEADLINE = 4.0, 0.5
#: Keeps a processor busy for some milliseconds.
_WORK = "SELECT count(*) FROM generate_series(1, 60000)"
_CRITICAL_SHARE = 0.05


async def _no_reset(_: object) -> None:
    pass


async def _cost_to_tasks(dsn: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of an acquire and release in each lap, by feature."""
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
                async with acquire():
                    pass
            laps[name].append((process_time() - began) / _OPERATIONS)
    await asyncio.gather(*(manager.close() for manager in managers.values()))
    return {name: each[2:] for name, each in laps.items()}


def _cost_to_threads(dsn: str, rounds: int) -> dict[str, list[float]]:
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
                with acquire():
                    pass
            laps[name].append((process_time() - began) / _OPERATIONS)
    for manager in managers.values():
        manager.close()
    return {name: each[2:] for name, each in laps.items()}


def report_cost(laps: dict[str, list[float]]) -> dict[str, float]:
    """Return the microseconds that each feature adds."""
    off = laps["off"]
    return {
        name: median((one - other) * 1e6 for one, other in zip(each, off, strict=True))
        for name, each in laps.items()
    }


class Requests:
    """Requests of one part, and what became of them."""

    def __init__(self, manager: PoolManager, chance: random.Random) -> None:
        self._manager = manager
        self._chance = chance
        self.outcomes: Counter[str] = Counter()
        self.good = 0
        self.critical: list[float] = []
        self.latest = 0.0

    async def arrive(self, rate: float, seconds: float) -> None:
        """Let requests arrive at a rate, and wait for the last of them."""
        tasks, began = [], perf_counter()
        due = began
        while due < began + seconds:
            await asyncio.sleep(max(0.0, due - perf_counter()))
            critical = self._chance.random() < _CRITICAL_SHARE
            level = Priority.CRITICAL if critical else Priority.NORMAL
            tasks.append(asyncio.create_task(self._request(level)))
            due += self._chance.expovariate(rate)
        await asyncio.gather(*tasks)

    async def _request(self, level: Priority) -> None:
        began = perf_counter()
        try:
            with priority(level):
                async with self._manager.acquire_master(timeout=_DEADLINE) as connection:
                    waited = perf_counter() - began
                    await connection.fetchval(_WORK)
        except NotAvailableError as error:
            waited = perf_counter() - began
            self.outcomes[type(error).__name__] += 1
        else:
            took = perf_counter() - began
            self.outcomes["done" if took <= _DEADLINE else "done late"] += 1
            self.good += took <= _DEADLINE
            if level is Priority.CRITICAL:
                self.critical.append(took)
        self.latest = max(self.latest, waited - _DEADLINE)


async def _best(dsn: str) -> tuple[int, float]:
    """Return how many at once do best, and how many are done in a second then."""
    async with PoolManager(dsn, pool_factory_kwargs={"min_size": 8, "max_size": 8}) as manager:
        await manager.ready()
        done = {}
        for at_once in (1, 2, 3, 4):
            over, number = asyncio.Event(), 0

            async def work() -> None:
                nonlocal number
                while not over.is_set():  # noqa: B023  # within the turn
                    async with manager.acquire_master() as connection:
                        await connection.fetchval(_WORK)
                        number += 1

            tasks = [asyncio.create_task(work()) for _ in range(at_once)]
            await asyncio.sleep(1.0)
            over.set()
            done[at_once] = number
            await asyncio.gather(*tasks)
        best = max(done, key=lambda at_once: done[at_once])
        return best, float(done[best])


async def _overload(dsn: str) -> dict[str, Any]:
    at_once, rate = await _best(dsn)
    # One more at a time than do best: it waits in the server while others wait for the network.
    limit = at_once + 1
    parts: dict[str, tuple[float, dict[str, Any]]] = {
        "unloaded": (0.1, {}),
        "as many as are done best": (1.0, {}),
        "4x, without admission": (4.0, {}),
        "4x, with admission": (
            4.0,
            {"admission": Admission(limit, queue=2 * limit, reserve=1 / limit)},
        ),
    }
    results: dict[str, Any] = {"at_once": at_once, "best": rate}
    for name, (times, kwargs) in parts.items():
        pool = {"min_size": 40, "max_size": 40}
        async with PoolManager(
            dsn, pool_factory_kwargs=pool, acquire_timeout=_DEADLINE, **kwargs
        ) as manager:
            await manager.ready()
            requests = Requests(manager, random.Random(1))  # noqa: S311  # no secret
            await requests.arrive(times * rate, _SECONDS)
        p99 = quantiles(requests.critical, n=100)[98] if len(requests.critical) > 1 else None
        results[name] = {
            "good_a_second": requests.good / _SECONDS,
            "critical_p99_ms": p99 and p99 * 1e3,
            "latest_ms": max(0.0, requests.latest) * 1e3,
            "outcomes": dict(requests.outcomes),
        }
        print(f"  {name:26} {json.dumps(results[name])}", flush=True)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", choices=("cost", "overload"))
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with LocalCluster(replicas=0) as cluster:
        if options.only != "overload":
            gc.collect()
            measured = {
                "tasks": asyncio.run(_cost_to_tasks(cluster.dsn, options.rounds)),
                "threads": _cost_to_threads(cluster.dsn, options.rounds),
            }
            for face, laps in measured.items():
                results[face] = report_cost(laps)
                print(f"{face}: microseconds that an acquire and its release take longer with")
                for name, added in results[face].items():
                    print(f"  {name:22} {added:6.2f}", flush=True)
        if options.only != "cost":
            print("overload:")
            with suppress(KeyboardInterrupt):
                results["overload"] = asyncio.run(_overload(cluster.dsn))
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
