"""The process in which herd.py counts probes: many pool managers, on a clock that jumps.

The arguments are the number of clients and the fault. The output is a JSON object with, for each
host, the number of probes of each kind in intervals of a quarter of a second.

Time does not pass here but jumps to the next timer. So a thousand managers can run in one process
without delaying each other. Everything that hasql does is done by its real code.
"""

import asyncio
import json
import logging
import selectors
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import uniform
from typing import Any

# Import hasql from the checkout, not an installed one.
sys.path.insert(0, str(Path(__file__).parent.parent))

_now = 1_000.0


def _monotonic() -> float:
    return _now


class JumpingSelector(selectors.DefaultSelector):
    """Moves the clock to the time when waiting would end, instead of waiting."""

    def select(self, timeout: float | None = None) -> Any:
        global _now  # noqa: PLW0603 - there is only one clock
        if timeout is None:
            raise RuntimeError("everybody waits, and for nothing that could happen")
        _now += max(timeout, 0.0)
        return super().select(0)


# Before hasql is imported, because its modules import the function by name.
time.monotonic = _monotonic

from hasql.cluster.host import HostSpec, parse_host  # noqa: E402
from hasql.cluster.probe import ProbeForm  # noqa: E402
from hasql.errors import NotAvailableError  # noqa: E402
from testbed.fake_driver import FakeConnection, FakeManager, FakeServer  # noqa: E402

_ROUND_TRIP = 0.0005
_STEADY, _AFTER = 3.0, 16.0
"""Seconds during which probes are counted, before the fault and after it."""

_START = 3.0
"""Seconds during which the managers start."""

_WITHOUT_MASTER = 0.15
"""Seconds from the loss of a master to the promotion of a replica."""

_PERIOD = 0.2
"""Seconds between two operations of a task; each client has one that writes and one that reads."""

_WIDTH = 0.25
"""The length in seconds of the interval that one column stands for."""


class CountedServer(FakeServer):
    """A server that answers after a round trip, and counts the kinds of probes over time."""

    def __init__(self, host: HostSpec, *, master: bool) -> None:
        super().__init__(host, master=master)
        self.counts: dict[str, Counter[int]] = {
            name: Counter() for name in ("full", "changes", "bare", "logins")
        }

    async def answer(self) -> None:
        await asyncio.sleep(_ROUND_TRIP)
        await super().answer()

    async def log_in(self) -> FakeConnection:
        if self.alive and not self.frozen:  # otherwise the kernel refuses it or keeps it waiting
            self.counts["logins"][_column()] += 1
        return await super().log_in()

    def row(self, form: ProbeForm, pid: int) -> Sequence[object]:
        self.counts[form.name.lower()][_column()] += 1
        row = super().row(form, pid)
        self.probes.clear()
        return row


def _column() -> int:
    return int(_now / _WIDTH)


async def _kill(old: FakeServer, new: FakeServer) -> None:
    old.kill()
    await asyncio.sleep(_WITHOUT_MASTER)
    new.promote()


async def _freeze(old: FakeServer, new: FakeServer) -> None:
    old.freeze()
    await asyncio.sleep(_WITHOUT_MASTER)
    new.promote()


async def _beside(_: FakeServer, new: FakeServer) -> None:
    new.promote()


_FAULTS: dict[str, Callable[[FakeServer, FakeServer], Awaitable[None]]] = {
    "kill": _kill,
    "freeze": _freeze,
    "beside": _beside,
}


async def _use(manager: FakeManager, *, read_only: bool) -> None:
    while True:
        await asyncio.sleep(_PERIOD * uniform(0.5, 1.5))  # noqa: S311 - no secret
        try:
            async with manager.acquire(read_only) as connection:
                await connection.run()
        except (ConnectionError, NotAvailableError):
            pass  # the application would see this error


async def _live(servers: dict[HostSpec, FakeServer]) -> None:
    """Play one application: start at a random time, then write and read."""
    await asyncio.sleep(uniform(0, 1))  # noqa: S311 - no secret
    async with FakeManager(servers) as manager:
        await asyncio.gather(_use(manager, read_only=False), _use(manager, read_only=True))


async def count(clients: int, fault: str) -> dict[str, Any]:
    """Play everything, and return the counts for each host."""
    servers = [CountedServer(parse_host(name), master=name == "a") for name in "abc"]
    by_host: dict[HostSpec, FakeServer] = {server.host: server for server in servers}
    lives = [asyncio.create_task(_live(by_host)) for _ in range(clients)]
    await asyncio.sleep(_START + _STEADY)
    struck = _column()
    await _FAULTS[fault](servers[0], servers[1])
    await asyncio.sleep(_AFTER)
    first, last = struck - int(_STEADY / _WIDTH), _column()
    for life in lives:
        life.cancel()
    ended = await asyncio.gather(*lives, return_exceptions=True)
    failed = [each for each in ended if not isinstance(each, asyncio.CancelledError)]
    return {
        "width": _WIDTH,
        "struck": struck - first,
        "clients": clients - len(failed),
        "hosts": {
            server.host.host: {
                name: [columns[each] for each in range(first, last)]
                for name, columns in server.counts.items()
            }
            for server in servers
        },
    }


if __name__ == "__main__":
    logging.getLogger("hasql").setLevel(logging.CRITICAL)
    loop = asyncio.SelectorEventLoop(JumpingSelector())
    counts = loop.run_until_complete(count(int(sys.argv[1]), sys.argv[2]))
    print(json.dumps(counts))
