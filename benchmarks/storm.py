"""Measures what a storm of meaningless passive signals costs each host, and a failover within it.

    make bench ARGS=storm
    python benchmarks/storm.py [--seconds 150] [--runs 20] [--save FILE]

A whole pool manager with its real monitors runs on the fake driver of the tests, and on the clock
of herd_count.py, which jumps. So minutes of a storm take seconds, and other load on this machine
does not blur the results.
"""

import argparse
import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Self

# Imported first: it replaces time.monotonic() for everything that is imported after it.
from herd_count import CountedServer, JumpingSelector

from hasql.cluster.host import HostSpec, parse_host
from hasql.errors import NotAvailableError
from testbed.fake_driver import FakeConnection, FakeManager, FakeServer

__all__ = ("main",)

_RATE = 200
"""Broken leases, or ended sessions, per second."""

_IDLE_TIMEOUT = 0.6
"""Seconds after which the server, or something on the network, ends a reserved connection."""

_RAMP = 60.0
"""Seconds until the quiet time between bursts has reached its maximum."""

_NOTICED_AFTER = 0.15
"""Seconds from the loss of a master to the promotion of a replica."""


class Server(CountedServer):
    """A server that may end idle reserved connections."""

    def __init__(self, host: HostSpec, *, master: bool, ends_idle: bool) -> None:
        super().__init__(host, master=master)
        self.ends_idle = ends_idle
        self.asked: Counter[int] = Counter()

    def row(self, form: Any, pid: int) -> Any:
        self.asked[int(time.monotonic())] += 1
        if self.ends_idle:
            for connection in self.connections:
                if connection.on_lost is not None:
                    self._end_later(connection, self.asked.total())
        return super().row(form, pid)

    def _end_later(self, connection: FakeConnection, asked: int) -> None:
        def end() -> None:
            if asked == self.asked.total():
                connection.lose()

        asyncio.get_running_loop().call_later(_IDLE_TIMEOUT, end)


async def _break_one(manager: FakeManager, *, read_only: bool) -> None:
    with suppress(ConnectionError, NotAvailableError):
        async with manager.acquire(read_only, timeout=2) as connection:
            connection.lose()
            await connection.run()


async def _again_and_again(work: Callable[[], Coroutine[Any, Any, None]], pause: float) -> None:
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(work())
            await asyncio.sleep(pause)


async def _leases(manager: FakeManager, *, read_only: bool) -> None:
    """Break leases of one role, each in a task of its own."""
    await _again_and_again(partial(_break_one, manager, read_only=read_only), 1 / _RATE)


async def _everything(server: FakeServer) -> None:
    """End all sessions of a server, including those of monitors, again and again."""
    while True:
        for connection in tuple(server.connections):
            connection.lose()
        await asyncio.sleep(1 / _RATE)


_STORMS: dict[str, Callable[[FakeManager, list[Server]], Awaitable[None]] | None] = {
    "none": None,
    "master's leases": lambda manager, _: _leases(manager, read_only=False),
    "replica's leases": lambda manager, _: _leases(manager, read_only=True),
    "one replica's sessions": lambda _, servers: _everything(servers[2]),
    "idle ends": None,
}


class Stage:
    """A cluster, its storm, and the observations of both."""

    def __init__(self, storm: str) -> None:
        idle = storm == "idle ends"
        self.servers = [
            Server(parse_host(name), master=name == "a", ends_idle=idle) for name in "abc"
        ]
        by_host: dict[HostSpec, FakeServer] = {server.host: server for server in self.servers}
        self.manager = FakeManager(by_host, pool_factory_kwargs={"min_size": 1, "max_size": 20})
        self._storm = _STORMS[storm]

    async def __aenter__(self) -> Self:
        await self.manager.ready()
        self._tasks = []
        if self._storm is not None:
            self._tasks.append(asyncio.ensure_future(self._storm(self.manager, self.servers)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.manager.close()

    def use(self, *, read_only: bool, note: Callable[[str], None]) -> None:
        """Keep using the manager from now on, each time in a new task."""

        async def work() -> None:
            with suppress(ConnectionError, NotAvailableError):
                async with self.manager.acquire(read_only, timeout=2) as connection:
                    await connection.run()
                    note(connection.server.host.host)

        self._tasks.append(asyncio.ensure_future(_again_and_again(work, 0.01)))


async def rates(storm: str, seconds: float) -> dict[str, dict[str, float]]:
    """Return the probes of each host per second, in the long run and in the worst second."""
    async with Stage(storm) as stage:
        began = int(time.monotonic())
        await asyncio.sleep(seconds)
        ended = int(time.monotonic())
    counted = {}
    for server in stage.servers:
        long_run = [server.asked[second] for second in range(began + int(_RAMP), ended)]
        counted[server.host.host] = {
            "long run": sum(long_run) / len(long_run),
            "at first": sum(server.asked[began + each] for each in range(int(_RAMP))) / _RAMP,
            "worst second": max(server.asked[second] for second in range(began, ended)),
        }
    return counted


async def _kill(stage: Stage) -> None:
    stage.servers[0].kill()
    await asyncio.sleep(_NOTICED_AFTER)


async def _freeze(stage: Stage) -> None:
    stage.servers[0].freeze()
    await asyncio.sleep(_NOTICED_AFTER)


async def _beside(_: Stage) -> None:
    pass


_FAULTS = {"kill": _kill, "freeze": _freeze, "beside": _beside}


async def failover(storm: str, fault: str, before: float) -> float:
    """Return the seconds from a promotion during the storm to the first write after it."""
    async with Stage(storm) as stage:
        done = asyncio.get_running_loop().create_future()

        def note(host: str) -> None:
            if host == "b" and not done.done():
                done.set_result(time.monotonic())

        stage.use(read_only=True, note=lambda _: None)
        stage.use(read_only=False, note=note)
        await asyncio.sleep(before)
        await _FAULTS[fault](stage)
        promoted = time.monotonic()
        stage.servers[1].promote()
        added: float = await done - promoted
        return added


def _play(what: Awaitable[Any]) -> Any:
    loop = asyncio.SelectorEventLoop(JumpingSelector())
    try:
        return loop.run_until_complete(what)
    finally:
        loop.close()


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--storm", action="append", choices=tuple(_STORMS))
    parser.add_argument("--seconds", type=float, default=_RAMP + 99, help="of each storm; 0: none")
    parser.add_argument("--runs", type=int, default=20, help="failovers of each kind")
    parser.add_argument("--before", type=float, default=20, help="seconds of a storm before them")
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    logging.getLogger("hasql").setLevel(logging.CRITICAL)
    saved = {}
    for storm in options.storm or _STORMS:
        counted = _play(rates(storm, options.seconds)) if options.seconds else {}
        saved[storm] = {"rates": counted, "added": {}}
        print(f"\n{storm}: probes a second; `a` is the master")
        for host, each in counted.items():
            cells = "  ".join(f"{name} {value:5.2f}" for name, value in each.items())
            print(f"  {host}  {cells}", flush=True)
        for fault in _FAULTS if options.runs else ():
            added = [_play(failover(storm, fault, options.before)) for _ in range(options.runs)]
            saved[storm]["added"][fault] = added
            print(f"  {fault:8} adds {median(added) * 1000:.0f} ms", end="")
            print(f" (worst of {options.runs}: {max(added) * 1000:.0f})", flush=True)
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
