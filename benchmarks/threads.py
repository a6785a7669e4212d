"""Measures what acquire and release in threads add to the driver's own pool.

    make bench ARGS="threads --rounds 60"
    python benchmarks/threads.py [--rounds 60] [--driver psycopg3] [--save FILE]

The driver's pool and a manager of the same size take turns on the same server, in one process. Each
runs a lap in each round, and which goes first changes from round to round. All connections are
opened anew several times: see acquire.py. An empty operation is a call that takes a connection and
a call that gives it back; a statement runs in a ``with`` block, as applications write it.
"""

import argparse
import gc
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Barrier
from time import perf_counter, process_time
from typing import Any, NamedTuple, TypeAlias

import psycopg2
import psycopg_pool
from laps import Lap, added, times_bare
from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool

import hasql.sync.psycopg2
import hasql.sync.sqlalchemy
from hasql.sync import psycopg3
from hasql.testing import LocalCluster

__all__ = ("ThreadCase", "ThreadDriver", "main")


class Side(NamedTuple):
    """A pool or a manager: functions that take a connection, give it back, and do both."""

    take: Callable[[], Any]
    give: Callable[[Any], object]
    lend: Callable[[], AbstractContextManager[Any]]


class ThreadDriver(NamedTuple):
    """A driver: how its pool is used alone, and how through hasql."""

    bare: Callable[[str, int], AbstractContextManager[Side]]
    managed: Callable[[str, int], AbstractContextManager[Side]]
    select_1: Callable[[Any], object]


@contextmanager
def bare_psycopg3(dsn: str, size: int) -> Iterator[Side]:
    """Open a psycopg pool."""
    with psycopg_pool.ConnectionPool(
        dsn, min_size=size, max_size=size, kwargs={"autocommit": True}, open=True
    ) as pool:
        pool.wait()
        yield Side(pool.getconn, pool.putconn, pool.connection)


@contextmanager
def managed_psycopg3(dsn: str, size: int) -> Iterator[Side]:
    """Open a manager over such a pool."""
    kwargs = {"min_size": size, "max_size": size, "kwargs": {"autocommit": True}}
    with psycopg3.PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        manager.ready()
        yield Side(manager.getconn, manager.putconn, manager.acquire_master)


def closing_of(pool: QueuePool) -> Callable[[], AbstractContextManager[Any]]:
    """Return a function that takes a connection from a queue pool for a block."""
    return lambda: closing(pool.connect())


@contextmanager
def bare_psycopg2(dsn: str, size: int) -> Iterator[Side]:
    """Open a queue pool over psycopg2."""
    pool = QueuePool(lambda: psycopg2.connect(dsn), pool_size=size, max_overflow=0)
    try:
        yield Side(pool.connect, lambda connection: connection.close(), closing_of(pool))
    finally:
        pool.dispose()


@contextmanager
def managed_psycopg2(dsn: str, size: int) -> Iterator[Side]:
    """Open a manager over such a pool."""
    kwargs = {"pool_size": size, "max_overflow": 0}
    with hasql.sync.psycopg2.PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        manager.ready()
        yield Side(manager.getconn, manager.putconn, manager.acquire_master)


def select_by_psycopg2(connection: Any) -> None:
    """Run SELECT 1, in a transaction that ends when the connection is given back."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@contextmanager
def bare_sqlalchemy(dsn: str, size: int) -> Iterator[Side]:
    """Open an engine."""
    url = dsn.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url, pool_size=size, max_overflow=0)
    try:
        yield Side(engine.connect, lambda connection: connection.close(), engine.connect)
    finally:
        engine.dispose()


@contextmanager
def managed_sqlalchemy(dsn: str, size: int) -> Iterator[Side]:
    """Open a manager over such an engine."""
    kwargs = {"pool_size": size, "max_overflow": 0}
    with hasql.sync.sqlalchemy.PoolManager(dsn, pool_factory_kwargs=kwargs) as manager:
        manager.ready()
        yield Side(manager.getconn, manager.putconn, manager.acquire_master)


SELECT_1 = text("SELECT 1")
DRIVERS = {
    "psycopg3": ThreadDriver(
        bare_psycopg3, managed_psycopg3, lambda connection: connection.execute("SELECT 1")
    ),
    "psycopg2": ThreadDriver(bare_psycopg2, managed_psycopg2, select_by_psycopg2),
    "sqlalchemy": ThreadDriver(
        bare_sqlalchemy, managed_sqlalchemy, lambda connection: connection.execute(SELECT_1)
    ),
}


@dataclass(frozen=True, slots=True)
class ThreadCase:
    """A kind of lap."""

    threads: int
    select: bool

    def __str__(self) -> str:
        words = "SELECT 1" if self.select else "empty"
        return f"{self.threads} of {self.threads}, {words}"

    @property
    def each(self) -> int:
        """The number of operations of each thread in a lap."""
        return max(20, (200 if self.select else 1000) // self.threads)


CASES = [ThreadCase(threads, select) for select in (False, True) for threads in (1, 16)]
#: How many times the connections are opened anew for a case.
_OPENINGS = 5


_Work: TypeAlias = Callable[[int, Side], None]


class Runners:
    """The threads that run laps."""

    def __init__(
        self, threads: int, select_1: Callable[[Any], object], clock: Callable[[], float]
    ) -> None:
        self._threads = range(threads)
        self._start = Barrier(threads)
        self._select_1 = select_1
        self._clock = clock
        self._executor = ThreadPoolExecutor(threads)

    def lap(self, case: ThreadCase, side: Side) -> float:
        """Return the seconds of one operation while all threads work."""
        work = self._select if case.select else self._nothing
        running = [self._executor.submit(self._time, work, case, side) for _ in self._threads]
        began, ended = zip(*(each.result() for each in running), strict=True)
        return (max(ended) - min(began)) / (case.each * case.threads)

    def _time(self, work: _Work, case: ThreadCase, side: Side) -> tuple[float, float]:
        self._start.wait()
        began = self._clock()
        work(case.each, side)
        return began, self._clock()

    @staticmethod
    def _nothing(times: int, side: Side) -> None:
        for _ in range(times):
            side.give(side.take())

    def _select(self, times: int, side: Side) -> None:
        for _ in range(times):
            with side.lend() as connection:
                self._select_1(connection)

    def end(self) -> None:
        """End the threads."""
        self._executor.shutdown()


def race(
    driver: ThreadDriver,
    cluster: LocalCluster,
    case: ThreadCase,
    rounds: int,
    clock: Callable[[], float],
) -> list[Lap]:
    """Run all rounds of one case."""
    laps = []
    runners = Runners(case.threads, driver.select_1, clock)
    try:
        for opening in range(_OPENINGS):
            with (
                driver.bare(cluster.master.dsn, case.threads) as bare,
                driver.managed(cluster.dsn, case.threads) as managed,
            ):
                sides = {"bare": bare, "managed": managed}
                for side in sides.values():  # psycopg prepares a statement at its sixth use
                    for _ in range(10):
                        runners.lap(ThreadCase(case.threads, select=True), side)
                gc.collect()
                for number in range(opening, rounds, _OPENINGS):
                    names = sorted(sides, reverse=number % 2 > 0)
                    laps.append(Lap(**{name: runners.lap(case, sides[name]) for name in names}))
    finally:
        runners.end()
    return laps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--driver", action="append", choices=DRIVERS)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: of the process alone, for cases without statements on a busy machine",
    )
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    clock = perf_counter if options.clock == "wall" else process_time
    results = []
    with LocalCluster(replicas=0, settings={"max_connections": "100"}) as cluster:
        for name in options.driver or DRIVERS:
            print(name)
            heads = ("bare, us", "added, us", "times bare: median, of minima")
            print(f"  {'threads of connections':28}", *(f"{head:>12}" for head in heads))
            for case in CASES:
                laps = race(DRIVERS[name], cluster, case, options.rounds, clock)
                bare, ratio = min(lap.bare for lap in laps) * 1e6, times_bare(laps)
                more = added(laps) * 1e6
                print(f"  {case!s:28} {bare:12.1f} {more:12.1f}       {ratio}", flush=True)
                result = {"bare_us": bare, "added_us": more, "ours": asdict(ratio)}
                results.append({"driver": name, "case": str(case), **result})
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
