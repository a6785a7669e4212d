"""Measures what a failover costs an application, with this hasql and with the published one.

    make bench ARGS="failover --runs 5"
    make bench ARGS="failover --runs 5 --storm terminated"
    python benchmarks/failover.py [--peer .venv-peer/bin/python] [--runs 5] [--save FILE]

Each run starts a cluster of its own: a master and two replicas. An application in a process of its
own, with eight writers and eight readers and the manager's default settings, works on it while the
fault happens. Another process asks the replicas every 2 ms, and so knows when one has become the
master. With a driver called sync-..., writers and readers are threads; the published hasql has no
such drivers.

With --storm, each fault happens in turn to a plain application and to one that also breaks 200
leases a second in the same pools, half of them of the master. With `terminated`, the server ends
the session, so that the pool logs in again. With `raised`, a ConnectionResetError ends the lease's
block, like the error of another service; this costs the servers nothing. Broken leases do not count
as failed operations.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from time import monotonic
from typing import IO, Any

from aftermath import Aftermath, Failed, Notes, Read, Scene, Written

from hasql.cli.observer import Observer
from hasql.testing import LocalCluster, LocalNode

__all__ = ("Stage", "main")

_STEADY = 1.0
"""Seconds of load before the fault."""

_STORMY = 11.5
"""The same in a storm: long enough that its beginning, when all hosts are probed, is over.

The fault then comes in the third pause between the bursts of probes that broken leases cause.
"""

_NOTICED_AFTER = 0.1
"""Seconds from the killing or freezing of the master to the promotion by the HA manager."""

_PATIENCE = 90.0
"""Seconds within which an application must end: it waits 20 s for operations that hang."""

_LONGEST_LINE = 1 << 28

_LAST_WORDS = 4000
"""How many characters of its standard error to show of an application that ends at its start."""

_DRIVERS = "asyncpg", "psycopg3", "sqlalchemy"
_SYNC_DRIVERS = "sync-psycopg3", "sync-psycopg2", "sync-sqlalchemy"


class Stage:
    """The servers, and the actions on them."""

    def __init__(self, cluster: LocalCluster, observer: Observer) -> None:
        self.old, self.new, self.other = cluster.nodes
        self.master = self.old
        self.struck = 0.0
        self.writable: float | None = None
        self._observer = observer

    async def strike(self, act: Callable[[], None] = lambda: None) -> None:
        """Cause the fault."""
        self._observer.watch()
        self.struck = monotonic()
        await asyncio.to_thread(act)

    async def promote(self) -> None:
        """Promote a replica, and record when it became the master."""
        await asyncio.to_thread(self.new.request_promotion)
        promotion = await self._observer.promotion(self.new)
        # Take the earliest possible moment, so that the uncertainty counts against hasql.
        self.writable, self.master = promotion.not_before, self.new


async def _clean(stage: Stage) -> None:
    await stage.strike()
    await stage.old.stop("fast")
    await stage.promote()
    await asyncio.sleep(2)


async def _kill(stage: Stage) -> None:
    await stage.strike(stage.old.kill)
    await asyncio.sleep(_NOTICED_AFTER)
    await stage.promote()
    await asyncio.sleep(2)


async def _freeze(stage: Stage) -> None:
    await stage.strike(stage.old.freeze)
    await asyncio.sleep(_NOTICED_AFTER)
    await stage.promote()
    await asyncio.sleep(4)
    await asyncio.to_thread(stage.old.thaw)
    await asyncio.sleep(3)


async def _beside(stage: Stage) -> None:
    await stage.strike()
    await stage.promote()
    await asyncio.sleep(3)


async def _replica_killed(stage: Stage) -> None:
    await stage.strike(stage.other.kill)
    await asyncio.sleep(3)


async def _replica_frozen(stage: Stage) -> None:
    # Leases on the frozen replica are aborted after 10 s.
    await stage.strike(stage.other.freeze)
    await asyncio.sleep(13)


_FAULTS: dict[str, tuple[str, Callable[[Stage], Awaitable[None]]]] = {
    "clean": ("clean stop + promote", _clean),
    "kill": ("kill -9 + promote", _kill),
    "freeze": ("freeze, promote, thaw", _freeze),
    "beside": ("promote beside a living master", _beside),
    "replica-killed": ("replica killed", _replica_killed),
    "replica-frozen": ("replica frozen", _replica_frozen),
}


class Application:
    """A process that runs the load."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    async def order(self, order: object = "go on") -> None:
        """Send a line."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(f"{json.dumps(order)}\n".encode())
        await self._process.stdin.drain()

    async def answer(self) -> Any:
        """Read a line."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        async with asyncio.timeout(_PATIENCE):
            return json.loads(await self._process.stdout.readline() or "null")

    async def end(self) -> str:
        """Wait until it has ended by itself; return how, and the end of its standard error."""
        async with asyncio.timeout(_PATIENCE):
            code = await self._process.wait()
        self._errors.seek(0)
        return f"exit code {code}\n{self._errors.read().decode()[-_LAST_WORDS:]}"

    async def notes(self) -> Notes:
        """Stop the load and return the application's records."""
        await self.order()
        notes = await self.answer()
        return Notes(
            written=[Written(*each) for each in notes["written"]],
            read=[Read(*each) for each in notes["read"]],
            failed=[Failed(*each) for each in notes["failed"]],
            hung=[(task, began) for task, began in notes["hung"]],
            closed=notes["closed"],
            broken=notes["broken"],
        )


@asynccontextmanager
async def application(python: str, driver: str) -> AsyncIterator[Application]:
    """Start an application; kill it at the end if it still runs."""
    # The peer's environment must not contain anything of ours.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    # Standard error goes to a file, because the peer logs every failed probe with its traceback.
    with TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(python, str(Path(__file__).with_name("traffic_process.py")), driver),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment,
            limit=_LONGEST_LINE,
        )
        try:
            yield Application(process, errors)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def run(
    fault: str, python: str, driver: str, tasks: tuple[int, int], storm: str | None = None
) -> Aftermath:
    """Cause a fault under one application, possibly in a storm."""
    _, play = _FAULTS[fault]
    async with LocalCluster() as cluster, application(python, driver) as client:
        await cluster.nodes[0].sql("CREATE TABLE bench (client int, number int)")
        await cluster.nodes[0].sql("GRANT ALL ON bench TO app")
        writers, readers = tasks
        plan = {"dsn": cluster.dsn, "writers": writers, "readers": readers, "replicas": 2}
        await client.order(plan | {"storm": storm})
        if await client.answer() is None:
            ended = await client.end()
            raise SystemExit(
                f"{python} traffic_process.py {driver} has ended at its start: {ended}"
            )
        async with Observer(cluster.nodes[1:]) as observer:
            stage = Stage(cluster, observer)
            await client.order()
            await asyncio.sleep(_STEADY if storm is None else _STORMY)
            await play(stage)
        stopped = monotonic()
        notes = await client.notes()
        scene = Scene(
            struck=stage.struck,
            ended=stopped,
            master=stage.master.name,
            writable=stage.writable,
            present=await _rows_on(stage.master),
            lossless=fault in {"clean", "replica-killed", "replica-frozen"},
        )
        return Aftermath.of(scene, notes)


async def _rows_on(node: LocalNode) -> set[tuple[int, int]]:
    lines = (await node.sql("SELECT client, number FROM bench")).splitlines()
    return {(int(client), int(number)) for client, number in (line.split("|") for line in lines)}


_COLUMNS: dict[str, Callable[[Aftermath], float | None]] = {
    "added ms": lambda each: _ms(each.added),
    "no master ms": lambda each: _ms(each.without_master),
    "failed": lambda each: each.failed,
    "of one task": lambda each: each.most_failures_of_one_task,
    "longest hang ms": lambda each: _ms(each.longest_hang),
    "never ended": lambda each: each.hung,
    "wrong server": lambda each: each.wrong,
    "last after ms": lambda each: _ms(each.last_wrong),
    "lost": lambda each: each.lost,
    "broken a second": lambda each: each.broken_before,
    "and after it": lambda each: each.broken_after,
    "close() ms": lambda each: _ms(float("inf") if each.closed is None else each.closed),
}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def row(runs: list[Aftermath]) -> list[str]:
    """Format the median and the worst of some runs."""
    cells = []
    for value in _COLUMNS.values():
        values = [v for v in map(value, runs) if v is not None]
        cells.append(f"{median(values):,.0f} ({max(values):,.0f})" if values else "-")
    return cells


async def measure(options: argparse.Namespace, pythons: dict[str, str]) -> None:
    """Run everything and print a line for each fault."""
    faults = options.fault or list(_FAULTS)
    kinds = [(name, storm) for name in pythons for storm in (None, *options.storm)]
    tasks = (options.writers, options.readers)
    results = []
    for driver in options.driver or ["asyncpg"]:
        print(f"\n{driver}: median (worst) of {options.runs} runs, {tasks} writers and readers")
        print(f"{'':52}", *(f"{name:>16}" for name in _COLUMNS))
        # The published hasql has no drivers for threads.
        whose = [each for each in kinds if each[0] == "ours" or driver not in _SYNC_DRIVERS]
        for fault in faults:
            runs: dict[tuple[str, str | None], list[Aftermath]] = {kind: [] for kind in whose}
            for _ in range(options.runs):
                for name, storm in whose:
                    one = await run(fault, pythons[name], driver, tasks, storm)
                    runs[name, storm].append(one)
            for (name, storm), each in runs.items():
                heading = f"{_FAULTS[fault][0]}, {name}" + (f", {storm}" if storm else "")
                print(f"{heading:52}", *(f"{cell:>16}" for cell in row(each)), flush=True)
                saved = {"driver": driver, "fault": fault, "hasql": name, "tasks": tasks}
                saved |= {"storm": storm, "runs": [asdict(one) for one in each]}
                results.append(saved)
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", metavar="PYTHON", help="that of the published hasql")
    parser.add_argument("--only-peer", action="store_true", help="leave ours out")
    parser.add_argument("--driver", action="append", choices=(*_DRIVERS, *_SYNC_DRIVERS))
    parser.add_argument("--fault", action="append", choices=tuple(_FAULTS))
    parser.add_argument(
        "--storm",
        action="append",
        choices=("terminated", "raised"),
        default=[],
        help="once more, in turn, with 200 leases a second that are broken in this way",
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    pythons = {} if options.only_peer else {"ours": sys.executable}
    pythons |= {"peer": options.peer} if options.peer else {}
    asyncio.run(measure(options, pythons))


if __name__ == "__main__":
    main()
