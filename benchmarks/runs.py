"""What `run` costs beside the same transaction by hand, on a lease of the same manager.

    make bench ARGS="runs --rounds 60"
    python benchmarks/runs.py [--driver asyncpg] [--rounds 60] [--clock wall] [--save FILE]

Laps of each kind take turns in one process. The transaction is empty: what it costs is BEGIN and
COMMIT, with the drivers that send them then. `run` is with ``resolve_commits=False``; `with mark`
asks for the transaction's id as well, and stands beside a transaction that does nothing but ask
that by the adapter's own way: the difference is what hasql adds to the round trip.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from hasql.driver.transactions import TransactionModes
from hasql.resilience import CommitMark
from hasql.testing import LocalCluster
from testbed.kits import KITS
from testbed.kits.in_threads import ALL as OF_THREADS
from testbed.workers import run_to_end

_OPERATIONS = 100
_MODES = TransactionModes(asked=True)

#: How an application writes an empty transaction by hand, by driver.
_BY_HAND: dict[str, str] = {
    "asyncpg": "transaction",
    "psycopg3": "transaction",
    "sqlalchemy-asyncpg": "begin",
    "sqlalchemy-psycopg": "begin",
    "sync-psycopg3": "transaction",
    "sync-sqlalchemy-psycopg": "begin",
    "sync-sqlalchemy-psycopg2": "begin",
}


def _kinds(manager: Any, name: str) -> dict[str, Callable[[], Any]]:
    """Return the kinds of laps of a manager for tasks, each one operation."""
    block = _BY_HAND[name]

    async def by_hand() -> None:
        async with manager.acquire_master() as connection, getattr(connection, block)():
            pass

    async def asking() -> None:
        async with manager.acquire_master() as connection:
            pool = manager._book.of(connection).node.pool  # noqa: SLF001  # the adapter's
            transaction = pool.transaction(connection, _MODES)
            await transaction.begin()
            await transaction.fetch_row(CommitMark.SQL)
            await transaction.commit()

    async def nothing(_: object) -> None:
        pass

    async def run() -> None:
        await manager.run(nothing, resolve_commits=False)

    async def run_with_mark() -> None:
        await manager.run(nothing)

    return {"by hand": by_hand, "run": run, "asking": asking, "with mark": run_with_mark}


def _kinds_of_threads(manager: Any, name: str) -> dict[str, Callable[[], Any]]:
    block = _BY_HAND[name]

    def by_hand() -> None:
        with manager.acquire_master() as connection, getattr(connection, block)():
            pass

    def asking() -> None:
        with manager.acquire_master() as connection:
            pool = manager._book.of(connection).node.pool  # noqa: SLF001  # as above
            transaction = pool.transaction(connection, _MODES)
            transaction.begin()
            transaction.fetch_row(CommitMark.SQL)
            transaction.commit()

    def run() -> None:
        manager.run(lambda _: None, resolve_commits=False)

    def run_with_mark() -> None:
        manager.run(lambda _: None)

    return {"by hand": by_hand, "run": run, "asking": asking, "with mark": run_with_mark}


async def _lap(operation: Callable[[], Awaitable[None]], clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(_OPERATIONS):
        await operation()
    return (clock() - began) / _OPERATIONS * 1e6


def _figures(name: str, laps: dict[str, list[float]]) -> dict[str, Any]:
    """Return microseconds: medians of the differences within a round, and those of minima."""

    def added(more: str, less: str) -> dict[str, float]:
        differences = [a - b for a, b in zip(laps[more], laps[less], strict=True)]
        return {"median": median(differences), "of_minima": min(laps[more]) - min(laps[less])}

    # SQLAlchemy begins nothing at the server here, so that nothing is asked.
    asks = "sqlalchemy" not in name
    return {
        "driver": name,
        "by_hand_us": min(laps["by hand"]),
        "run_adds_us": added("run", "by hand"),
        "mark_adds_us": added("with mark", "asking") if asks else None,
    }


def _report(figures: dict[str, Any]) -> str:
    shown = [
        f"{added['median']:8.1f} {added['of_minima']:8.1f}"
        for added in (figures["run_adds_us"], figures["mark_adds_us"])
        if added is not None
    ]
    return f"{figures['driver']:26}{figures['by_hand_us']:9.1f}  " + "  ".join(shown)


async def _measure(kinds: dict[str, Any], rounds: int, clock: Callable[[], float]) -> Any:
    laps: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind in sorted(kinds, reverse=number % 2 > 0):
            laps[kind].append(await _lap(kinds[kind], clock))
    return laps


def _awaitable(operation: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def awaited() -> None:
        operation()

    return awaited


async def _main(options: argparse.Namespace) -> None:
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    results: list[dict[str, Any]] = []
    heads = "by hand, us", "run adds: median, minima", "to asking: median, minima"
    print(f"{'':26}" + "  ".join(heads))
    async with LocalCluster(replicas=0) as cluster:
        for kit in (*KITS, *OF_THREADS):
            if kit.name not in _BY_HAND or (options.driver and kit.name not in options.driver):
                continue
            manager = kit.manager(cluster.dsn, pool_factory_kwargs=kit.sizes(1, 2))
            await manager.ready(1, 0)
            try:
                if kit in OF_THREADS:
                    plain = _kinds_of_threads(manager.manager, kit.name)
                    kinds = {kind: _awaitable(each) for kind, each in plain.items()}
                    laps = await asyncio.to_thread(
                        run_to_end, _measure(kinds, options.rounds, clock)
                    )
                else:
                    laps = await _measure(_kinds(manager, kit.name), options.rounds, clock)
                results.append(_figures(kit.name, laps))
                print(_report(results[-1]), flush=True)
            finally:
                await manager.close()
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(results, indent=1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--driver", action="append", choices=_BY_HAND)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu")
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
