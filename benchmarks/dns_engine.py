"""Measures what following a name adds to SQLAlchemy's checkout of a connection.

    make bench ARGS="dns_engine --rounds 200"
    python benchmarks/dns_engine.py [--rounds 200] [--driver psycopg2]

One engine follows a name, the other does not. Both are on the same server, and which goes first
changes from round to round. A lap checks a connection out and gives it back a hundred times,
without a statement. The followed name has a TTL of 0, so it is looked up each second during the
measurement.
"""

import argparse
import asyncio
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

# Import hasql from the checkout, not an installed one.
sys.path.insert(0, str(Path(__file__).parent.parent))

from laps import Lap, added, times_bare
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from hasql.dns import get_async_dns_engine, get_dns_engine
from hasql.testing import LocalCluster
from testbed.nameserver import NameServer

__all__ = ("main",)

_NAME = "db.example.test"
_SYNC = ("psycopg2", "psycopg", "pg8000")
_ASYNC = ("asyncpg", "psycopg")
_LAP = 100
_CLOCKS = {"wall": perf_counter, "cpu": process_time}
Clock = Callable[[], float]


def checkouts(engine: Engine, clock: Clock) -> float:
    """Run one lap and return the seconds of one checkout."""
    began = clock()
    for _ in range(_LAP):
        with engine.connect():
            pass
    return (clock() - began) / _LAP


async def checkouts_async(engine: AsyncEngine, clock: Clock) -> float:
    """Do the same as `checkouts` with an async engine."""
    began = clock()
    for _ in range(_LAP):
        async with engine.connect():
            pass
    return (clock() - began) / _LAP


def race(lap: Callable[[str], float], rounds: int) -> list[Lap]:
    """Let the two engines take turns."""
    laps = []
    for number in range(rounds + 2):
        names = ("bare", "managed") if number % 2 else ("managed", "bare")
        times = {name: lap(name) for name in names}
        laps.append(Lap(**times))
    return laps[2:]  # the first ones open the connections


def measure(url: Callable[[str], str], nameserver: str, rounds: int, clock: Clock) -> list[Lap]:
    """Measure a synchronous driver."""
    engines = {
        "bare": create_engine(url("127.0.0.1")),
        "managed": get_dns_engine(url(_NAME), dns_nameservers=[nameserver]),
    }
    gc.collect()
    laps = race(lambda name: checkouts(engines[name], clock), rounds)
    for engine in engines.values():
        engine.dispose()
    return laps


def measure_async(
    url: Callable[[str], str], nameserver: str, rounds: int, clock: Clock
) -> list[Lap]:
    """Measure an asyncio driver."""
    engines = {
        "bare": create_async_engine(url("127.0.0.1")),
        "managed": get_async_dns_engine(url(_NAME), dns_nameservers=[nameserver]),
    }
    gc.collect()
    with asyncio.Runner() as runner:
        laps = race(lambda name: runner.run(checkouts_async(engines[name], clock)), rounds)
        for engine in engines.values():
            runner.run(engine.dispose())
    return laps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--driver", action="append", choices=sorted({*_SYNC, *_ASYNC}))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument(
        "--clock",
        choices=_CLOCKS,
        default="wall",
        help="cpu: of the process alone, with its look-ups, for a busy machine",
    )
    options = parser.parse_args()
    print(f"{'':20}{'plain, us':>12}{'added, us':>12}{'times plain':>16}")
    with LocalCluster(replicas=0) as cluster, NameServer() as nameserver:
        nameserver.set(_NAME, "127.0.0.1", ttl=0)
        address = cluster.master.dsn
        for kind, drivers, run in (("", _SYNC, measure), (", async", _ASYNC, measure_async)):
            for driver in drivers:
                if options.driver and driver not in options.driver:
                    continue

                def url(host: str, driver: str = driver) -> str:
                    return address.replace("127.0.0.1", host).replace("://", f"+{driver}://", 1)

                laps = run(url, nameserver.address, options.rounds, _CLOCKS[options.clock])
                bare = min(lap.bare for lap in laps) * 1e6
                print(
                    f"{driver + kind:20}{bare:12.1f}{added(laps) * 1e6:12.2f}"
                    f"{times_bare(laps)!s:>16}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
