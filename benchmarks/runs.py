"""Measures what `run` costs, compared with the same transaction written by hand on a lease.

    make bench ARGS="runs --rounds 1000"
    python benchmarks/runs.py [--driver asyncpg] [--rounds 1000] [--clock wall] [--save FILE]

Short laps of each kind take turns in one process, on the same manager. The transaction is empty, so
it costs only BEGIN and COMMIT. `without id` is ``run(resolve_commits=False)`` minus the same by
hand. ``run()`` also asks for the transaction's id before COMMIT and reads the texts of the row,
which is one more round trip; `with id` is ``run()`` minus the same by hand with the same query,
made by the driver's own method. With asyncpg, both sides use COPY for it, which takes about twice
as long as `fetchrow` of a prepared statement, but needs neither a prepared statement nor a codec.
SQLAlchemy sends no BEGIN before the first statement, so both sides execute a ``SELECT 1`` there.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from hasql.resilience import CommitMark
from hasql.testing import LocalCluster
from testbed.kits import KITS
from testbed.kits.in_threads import ALL as OF_THREADS
from testbed.workers import run_to_end

_OPERATIONS = 5

#: The method with which an application writes an empty transaction by hand, by driver.
_BY_HAND: dict[str, str] = {
    "asyncpg": "transaction",
    "psycopg3": "transaction",
    "sqlalchemy-asyncpg": "begin",
    "sqlalchemy-psycopg": "begin",
    "sync-psycopg3": "transaction",
    "sync-sqlalchemy-psycopg": "begin",
    "sync-sqlalchemy-psycopg2": "begin",
}


async def _ask(connection: Any, sql: str) -> None:
    """Run a query by the driver's own method, and fetch the row."""
    if hasattr(connection, "copy_from_query"):
        data = bytearray()

        async def take(chunk: bytes) -> None:
            data.extend(chunk)

        await connection.copy_from_query(sql, output=take)
        _ = [None if each == "\\N" else each for each in data.decode().rstrip("\n").split("\t")]
    elif hasattr(connection, "exec_driver_sql"):
        (await connection.exec_driver_sql(sql)).one()
    else:
        await (await connection.execute(sql)).fetchone()


def _ask_in_thread(connection: Any, sql: str) -> None:
    if hasattr(connection, "exec_driver_sql"):
        connection.exec_driver_sql(sql).one()
    else:
        connection.execute(sql).fetchone()


def _kinds(manager: Any, name: str) -> dict[str, Callable[[], Any]]:
    """Return the kinds of laps with a manager for tasks; each function is one operation."""
    block = _BY_HAND[name]

    async def by_hand() -> None:
        async with manager.acquire_master() as connection, getattr(connection, block)():
            pass

    async def nothing(_: object) -> None:
        pass

    async def first(connection: Any) -> None:
        await _ask(connection, "SELECT 1")

    begun = first if block == "begin" else nothing

    async def asked_by_hand() -> None:
        async with manager.acquire_master() as connection, getattr(connection, block)():
            await begun(connection)
            await _ask(connection, CommitMark.SQL)

    async def run() -> None:
        await manager.run(nothing, resolve_commits=False)

    async def run_with_id() -> None:
        await manager.run(begun)

    return {"by hand": by_hand, "run": run, "asked": asked_by_hand, "run with id": run_with_id}


def _kinds_of_threads(manager: Any, name: str) -> dict[str, Callable[[], Any]]:
    block = _BY_HAND[name]

    def by_hand() -> None:
        with manager.acquire_master() as connection, getattr(connection, block)():
            pass

    def nothing(_: object) -> None:
        pass

    def first(connection: Any) -> None:
        _ask_in_thread(connection, "SELECT 1")

    begun = first if block == "begin" else nothing

    def asked_by_hand() -> None:
        with manager.acquire_master() as connection, getattr(connection, block)():
            begun(connection)
            _ask_in_thread(connection, CommitMark.SQL)

    def run() -> None:
        manager.run(nothing, resolve_commits=False)

    def run_with_id() -> None:
        manager.run(begun)

    return {"by hand": by_hand, "run": run, "asked": asked_by_hand, "run with id": run_with_id}


async def _lap(operation: Callable[[], Awaitable[None]], clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(_OPERATIONS):
        await operation()
    return (clock() - began) / _OPERATIONS * 1e6


def _figures(name: str, laps: dict[str, list[float]]) -> dict[str, Any]:
    """Return microseconds: medians of the differences within a round, and differences of minima."""

    def added(more: str, less: str) -> dict[str, float]:
        differences = [a - b for a, b in zip(laps[more], laps[less], strict=True)]
        return {"median": median(differences), "of_minima": min(laps[more]) - min(laps[less])}

    return {
        "driver": name,
        "by_hand_us": min(laps["by hand"]),
        "run_adds_us": added("run", "by hand"),
        "asked_us": min(laps["asked"]),
        "with_id_adds_us": added("run with id", "asked"),
    }


def _report(figures: dict[str, Any]) -> str:
    def shown(added: dict[str, float]) -> str:
        return f"{added['median']:9.1f} {added['of_minima']:9.1f}"

    return (
        f"{figures['driver']:26}{figures['by_hand_us']:9.1f}  {shown(figures['run_adds_us'])}"
        f"    {figures['asked_us']:9.1f}  {shown(figures['with_id_adds_us'])}"
    )


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
    print(f"{'us':26}  by hand  run adds: median, minima   asked  with id: median, minima")
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
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu")
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
