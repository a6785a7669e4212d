"""Measures what a thousand applications that follow one failover cost each server.

    make bench ARGS=herd
    python benchmarks/herd.py [--clients 1000] [--fault kill] [--save FILE]

Probes are counted in a simulation: whole pool managers, with their real monitors, topologies and
cadence, on the fake driver of the tests and a clock that jumps (herd_count.py). The cost of a probe
is measured: sessions of the real driver send each form of it to a real server, at the pace of a
burst, and the processor time of the server's backends is read from /proc. The product is the
processor time that a host has to spend.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from shares import Cost, Counts, Share

from hasql._adapters.asyncpg.driver import AsyncpgDriver
from hasql.cluster.probe import STANDBY_QUERY, ProbeForm
from hasql.driver import Session
from hasql.testing import LocalCluster
from testbed.scene import endpoint_of

__all__ = ("main",)

_SESSIONS = 300
_PACE = 0.05


async def cost(seconds: float) -> Cost:
    """Measure the processor time of a server for each form of probe and for a login."""
    async with LocalCluster(replicas=0, settings={"max_connections": "400"}) as cluster:
        (node,) = cluster.nodes
        driver, endpoint = AsyncpgDriver(), endpoint_of(node.dsn)
        sessions = [await driver.connect(endpoint, {}, lambda: None) for _ in range(_SESSIONS)]
        full, changes = [
            await _cost_of(sessions, lambda s, form=form: s.fetch_row(form.value), seconds)
            for form in (ProbeForm.FULL, ProbeForm.CHANGES)
        ]
        bare = await _cost_of(sessions, lambda s: s.has_row(STANDBY_QUERY), seconds)
        for session in sessions:
            session.kill()
        assert node.pid is not None  # noqa: S101 - it runs
        # The processor time of backends that have ended is counted for their parent.
        before, number = _with_children(node.pid), 200
        for _ in range(number):
            (await driver.connect(endpoint, {}, lambda: None)).kill()
        await asyncio.sleep(0.5)
        logins = (_with_children(node.pid) - before) / number
    return Cost(full, changes, bare, logins)


async def _cost_of(
    sessions: Sequence[Session], ask: Callable[[Session], Awaitable[object]], seconds: float
) -> float:
    """Send probes at the pace of a burst; return the backends' processor seconds for each.

    The probes do not go through a single session one after the other: a backend that sleeps costs
    more because it has to be woken, and a burst from many clients meets sleeping backends.
    """
    pids = [int(str((await s.fetch_row("SELECT pg_backend_pid()"))[0])) for s in sessions]
    for session in sessions:
        for _ in range(3):
            await ask(session)
    until, sent = monotonic() + seconds, 0

    async def probe(session: Session, offset: float) -> None:
        nonlocal sent
        await asyncio.sleep(offset)
        while monotonic() < until:
            await ask(session)
            sent += 1
            await asyncio.sleep(_PACE)

    before = sum(map(_processor_time, pids))
    await asyncio.gather(*(probe(s, i / len(sessions) * _PACE) for i, s in enumerate(sessions)))
    return (sum(map(_processor_time, pids)) - before) / sent


def _processor_time(pid: int) -> float:
    nanoseconds = Path(f"/proc/{pid}/schedstat").read_text().split()[0]
    return int(nanoseconds) / 1e9


def _with_children(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def count(clients: int, fault: str) -> dict[str, Any]:
    """Run the simulation in a process of its own, because it replaces the clock."""
    script = str(Path(__file__).with_name("herd_count.py"))
    command = [sys.executable, script, str(clients), fault]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    counts: dict[str, Any] = json.loads(output)
    return counts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--fault", action="append", choices=("kill", "freeze", "beside"))
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring each probe's cost")
    parser.add_argument("--save", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    each = asyncio.run(cost(options.seconds))
    print(f"server's processor time: full probe {each.full * 1e6:.0f} us, changes", end=" ")
    print(f"{each.changes * 1e6:.0f} us, short probe {each.bare * 1e6:.0f} us,", end=" ")
    print(f"login {each.logins * 1e3:.1f} ms")
    results = []
    for fault in options.fault or ("kill", "freeze", "beside"):
        counts = count(options.clients, fault)
        print(f"\n{fault}: {counts['clients']} clients; `a` is the old master, `b` the new one")
        heads = "steady/s", "peak/s", "worst second", "cores: steady", "peak", "worst second"
        print(f"  {'host':6}", *(f"{head:>14}" for head in (*heads, "settled, s")))
        struck, width = counts["struck"], counts["width"]
        for host, counted in counts["hosts"].items():
            share = Share.of(Counts(**counted, struck=struck, width=width), each)
            cells = [f"{share.steady_rate:,.0f}", f"{share.peak_rate:,.0f}"]
            cells += [f"{share.worst_second_rate:,.0f}", f"{share.steady_cores:.3f}"]
            cells += [f"{share.peak_cores:.2f}", f"{share.worst_second_cores:.2f}"]
            cells += [f"{share.settled_after:.1f}"]
            print(f"  {host:6}", *(f"{cell:>14}" for cell in cells), flush=True)
            results.append({"fault": fault, "host": host, **asdict(share), "counts": counted})
            results[-1] |= {"width": width, "struck": struck}
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        saved = {"cost": asdict(each), "clients": options.clients, "hosts": results}
        options.save.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
