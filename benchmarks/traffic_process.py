"""The process that failover.py watches: an application with writers and readers on one manager.

It reads its plan from standard input, a JSON object on one line: `dsn`, `writers`, `readers`,
`replicas`, and `storm`, which tells how leases are broken besides, or is null. It answers
``"ready"``, starts at the next line and stops at the one after that. Then it writes its records as
one JSON object. Times are those of the monotonic clock, which all processes of a machine share.
"""

import asyncio
import json
import sys
from time import monotonic

from contender import DRIVERS, Contender
from traffic import Traffic

_POOL = 10

_CLOSE_PATIENCE = 15.0
"""Seconds after which closing the manager counts as never ending."""


def contender_of(driver: str) -> tuple[Contender, type[Traffic]]:
    """Return the contender for a driver, and the class of the load that uses it."""
    if driver in DRIVERS:
        return DRIVERS[driver](), Traffic
    # Imported here, because the published hasql has no drivers for threads.
    from thread_traffic import SYNC_DRIVERS, ThreadTraffic

    return SYNC_DRIVERS[driver](), ThreadTraffic


async def serve(driver: str) -> None:
    """Play one application."""
    loop = asyncio.get_running_loop()
    plan = json.loads(sys.stdin.readline())
    contender, kind = contender_of(driver)
    manager = contender.manager(plan["dsn"], _POOL)
    await manager.ready(masters_count=1, replicas_count=plan["replicas"])
    traffic = kind(contender, manager)
    print(json.dumps("ready"), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    traffic.start(plan["writers"], plan["readers"])
    if plan["storm"] is not None:
        traffic.storm(plan["storm"])
    await loop.run_in_executor(None, sys.stdin.readline)
    await traffic.stop()
    began = monotonic()
    closing = asyncio.ensure_future(manager.close())
    await asyncio.wait([closing], timeout=_CLOSE_PATIENCE)
    closed = monotonic() - began if closing.done() else None
    notes = {"written": traffic.written, "read": traffic.read, "failed": traffic.failed}
    notes |= {"broken": traffic.broken}
    print(json.dumps(notes | {"hung": traffic.hung, "closed": closed}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(serve(sys.argv[1]))
