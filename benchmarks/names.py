"""Measures what following the hosts' names adds to an acquire and its release.

    make bench ARGS="names --rounds 60"
    python benchmarks/names.py [--driver NAME] [--rounds 60] [--clock cpu] [--save FILE]

Three managers take turns in one process: one with addresses and `follow_names=False`; a second one
like it, which shows the difference that chance makes; and one with names, each with a TTL of one
second, that a nameserver in another process resolves. A lap is a few milliseconds, and which goes
first changes from round to round; all connections are opened anew several times.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any

from contender import DRIVERS, Contender
from laps import Lap, added, times_bare

from hasql.cluster.dsn import Dsn
from hasql.dns import Resolver
from hasql.testing import LocalCluster
from testbed.nameserver import NameServer

__all__ = ("main", "named_dsn", "tell_names")

_HEAD = """
Two figures each: the median over the rounds, and the ratio of the shortest laps, of acquire and
release with names that are followed over the same without; and of the same without over itself.
"""

_OPENINGS = 5
_PLAIN, _AGAIN, _FOLLOWED = "plain", "again", "followed"


@dataclass(frozen=True, slots=True)
class _Case:
    tasks: int
    size: int
    select: bool

    def __str__(self) -> str:
        return f"{self.tasks} of {self.size}, {'SELECT 1' if self.select else 'empty'}"

    @property
    def each(self) -> int:
        """The number of operations of a task in a lap."""
        return (100 if self.select else 200) // self.tasks


_CASES = (_Case(1, 10, select=False), _Case(50, 50, select=False), _Case(1, 10, select=True))


def tell_names(nameserver: NameServer, cluster: LocalCluster) -> None:
    """Give a nameserver the names of a cluster's hosts."""
    for node in cluster.nodes:
        nameserver.set(f"{node.name}.test", node.host, ttl=1)


def named_dsn(cluster: LocalCluster) -> str:
    """Return the cluster's DSN with these names."""
    login = Dsn.parse(cluster.dsn)
    hosts = ",".join(f"{node.name}.test:{node.port}" for node in cluster.nodes)
    return f"postgresql://{login.user}:{login.password}@{hosts}/{login.dbname}"


class _Race:
    """Three managers that run laps in turn."""

    def __init__(self, contender: Contender, case: _Case, clock: Callable[[], int]) -> None:
        self._contender = contender
        self._case = case
        self._clock = clock

    async def run(self, order: dict[str, Any], rounds: int) -> list[dict[str, float]]:
        """Return the nanoseconds of an operation with each manager, for each round."""
        plain, followed = order["plain"], order["followed"]
        resolver = Resolver(nameservers=[order["nameserver"]], fallback=False)
        async with AsyncExitStack() as stack:
            managers = {
                _PLAIN: self._manager(plain, follow_names=False),
                _AGAIN: self._manager(plain, follow_names=False),
                _FOLLOWED: self._manager(followed, resolver=resolver),
            }
            for manager in managers.values():
                await stack.enter_async_context(manager)
                await manager.ready()
                await asyncio.gather(*(self._warm(manager) for _ in range(self._case.size)))
            gc.collect()
            laps = []
            for number in range(rounds):
                names = [*managers][number % 3 :] + [*managers][: number % 3]
                laps.append({name: await self._lap(managers[name]) for name in names})
        return laps

    def _manager(self, dsn: str, **kwargs: Any) -> Any:
        # Without statements, the server must take no part in the measurement, so no reset either.
        reset = self._case.select or not self._contender.has_reset
        return self._contender.manager(
            dsn, self._case.size, reset=reset, acquire_timeout=30.0, **kwargs
        )

    async def _warm(self, manager: Any) -> None:
        async with manager.acquire_master() as connection:
            for _ in range(10):  # psycopg prepares a statement at its sixth use
                await self._contender.select_1(connection)

    async def _lap(self, manager: Any) -> float:
        began = self._clock()
        tasks = self._case.tasks
        await asyncio.gather(*(self._task(manager.acquire_master) for _ in range(tasks)))
        return (self._clock() - began) / (self._case.each * tasks)

    async def _task(self, lend: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        for _ in range(self._case.each):
            async with lend() as connection:
                if self._case.select:
                    await self._contender.select_1(connection)


async def _measure(driver: str, order: dict[str, Any]) -> None:
    """Print the laps of one case, as JSON."""
    clock = process_time_ns if order["clock"] == "cpu" else perf_counter_ns
    race = _Race(DRIVERS[driver](), _Case(**order["case"]), clock)
    laps = []
    for _ in range(_OPENINGS):
        laps += await race.run(order, order["rounds"] // _OPENINGS)
    print(json.dumps(laps))


def _laps(driver: str, order: dict[str, Any]) -> list[dict[str, float]]:
    """Run one case in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, __file__, "measure", driver],
        input=json.dumps(order),  # not as an argument: it holds a password
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    laps: list[dict[str, float]] = json.loads(done.stdout)
    return laps


def _report(laps: list[dict[str, float]]) -> dict[str, Any]:
    followed = [Lap(lap[_PLAIN] / 1e9, lap[_FOLLOWED] / 1e9) for lap in laps]
    again = [Lap(lap[_PLAIN] / 1e9, lap[_AGAIN] / 1e9) for lap in laps]
    return {
        "plain_us": min(lap.bare for lap in followed) * 1e6,
        "followed": asdict(times_bare(followed)) | {"added_us": added(followed) * 1e6},
        "again": asdict(times_bare(again)) | {"added_us": added(again) * 1e6},
    }


def _line(case: _Case, result: dict[str, Any]) -> str:
    shown = [f"  {case!s:22} {result['plain_us']:9.2f}"]
    for name in ("followed", "again"):
        each = result[name]
        shown.append(f"{each['median']:7.3f} {each['of_minima']:7.3f} {each['added_us']:+9.2f}")
    return "   ".join(shown)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--driver", action="append", choices=DRIVERS)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    results = []
    print(_HEAD)
    # Fifty connections for each of three managers, and their reserved connections.
    settings = {"max_connections": "300"}
    with LocalCluster(settings=settings) as cluster, NameServer() as nameserver:
        tell_names(nameserver, cluster)
        order = {
            "plain": cluster.dsn,
            "followed": named_dsn(cluster),
            "nameserver": nameserver.address,
            "rounds": options.rounds,
            "clock": options.clock,
        }
        for driver in options.driver or DRIVERS:
            heads = "followed, added us", "itself, added us"
            print(f"{driver:24} {'plain, us':>9}", *(f"{head:>27}" for head in heads))
            for case in _CASES:
                result = _report(_laps(driver, order | {"case": asdict(case)}))
                print(_line(case, result), flush=True)
                results.append({"driver": driver, "case": str(case), **result})
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        asyncio.run(_measure(sys.argv[2], json.load(sys.stdin)))
    else:
        main()
