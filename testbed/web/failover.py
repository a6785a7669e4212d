"""A failover under a serving application: the master is killed, and a replica is promoted."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from hasql.cli.observer import Observer
from testbed.scene import empty_database, sessions, until_sessions
from testbed.web.load import WebLoad
from testbed.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hasql.testing import LocalCluster, LocalNode
    from testbed.web.apps import WebApp
    from testbed.web.load import Answer

__all__ = ("WebOutcome", "play_failover")

_TABLE = """
    CREATE TABLE IF NOT EXISTS visits (id serial PRIMARY KEY, page text NOT NULL);
    TRUNCATE visits; GRANT ALL ON visits TO app; GRANT ALL ON visits_id_seq TO app
"""
_POSITION = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"

_COMPLAINT = re.compile(
    r".*(?:never retrieved|never awaited|ResourceWarning|was destroyed but|unclosed|Unclosed).*"
)


@dataclass
class WebOutcome:
    """The measurements; durations are seconds."""

    app: str
    #: The successful requests, and the writes among them.
    requests: int
    writes: int
    #: The failed requests: all of them, those that began when the fault should have been noticed,
    #: and the most of one client.
    failed: int
    failed_late: int
    failed_of_one: int
    #: When the last failed request began, in seconds after the fault; negative if before it.
    last_failed: float | None
    #: The failed requests by status, or by the reason why there was none.
    failures: dict[str, int]
    #: From the fault to the moment when the new master accepted writes.
    without_master: float
    #: From that moment to the first write that was acknowledged.
    added: float
    #: The longest write, and the longest read.
    hang: float
    read_hang: float
    #: From the signal to the server to end, to its end.
    closing: float
    #: Acknowledged writes that are missing; with asynchronous replication some may be.
    lost: int
    #: Results that are not acceptable.
    problems: list[str] = field(default_factory=list)


async def play_failover(
    app: WebApp,
    cluster: LocalCluster,
    *,
    before: float = 0.5,
    after: float = 0.5,
    felt: float = 0.1,
) -> WebOutcome:
    """Play a failover once.

    Args:
        app: The application that serves.
        cluster: The cluster; its master is killed, and the replica with the most WAL is promoted.
        before: Seconds of load before the fault.
        after: Seconds of load after the first write on the new master.
        felt: Seconds after the fault from which on no new request may fail. A killed server's
            sockets close a moment after its death, and a busy machine notices that even later.
    """
    name = f"web_{uuid4().hex}"
    master = cluster.master
    await empty_database(master)
    if not app.prepare:
        await master.sql(_TABLE)
    async with (
        Observer(cluster.replicas) as observer,
        WebServer(app, f"{cluster.dsn}?application_name={name}") as server,
    ):
        load = WebLoad(app, server.port)
        load.start()
        try:
            await asyncio.sleep(before)
            observer.watch()
            struck = time.monotonic()
            await asyncio.to_thread(master.kill)
            new = await _furthest(cluster.replicas)
            await asyncio.to_thread(new.request_promotion)
            # Take the earliest possible moment, so that the uncertainty counts against hasql.
            writable = (await observer.promotion(new)).not_before
            first = await load.first_write_after(writable)
            await asyncio.sleep(after)
            await load.stop()
        finally:
            await load.abort()
        await server.stop()
        output = server.output
    pages = set((await new.sql("SELECT page FROM visits")).split())
    await empty_database(new)
    outcome = _judge(app, load.answers, struck, felt)
    outcome.without_master, outcome.added = writable - struck, first.ended - writable
    outcome.closing = server.closing or 0.0
    outcome.lost = len({x.page for x in load.answers if x.page} - pages)
    outcome.problems += _COMPLAINT.findall(output)
    outcome.problems += await _leftovers([node for node in cluster.nodes if node.running], name)
    return outcome


async def _furthest(candidates: Sequence[LocalNode]) -> LocalNode:
    positions = [int(await node.sql(_POSITION)) for node in candidates]
    return candidates[positions.index(max(positions))]


def _judge(app: WebApp, answers: Sequence[Answer], struck: float, felt: float) -> WebOutcome:
    good = [each for each in answers if each.good]
    bad = [each for each in answers if not each.good]
    late = [each for each in bad if each.ended < struck or each.began > struck + felt]
    last = max((each.began - struck for each in bad), default=None)
    of_one = Counter(each.client for each in bad)
    writes = [each.ended - each.began for each in answers if each.client.startswith("writer")]
    reads = [each.ended - each.began for each in answers if each.client.startswith("reader")]
    again = [each for each in bad if of_one[each.client] > 1]
    problems = [
        f"{each.client}: began {each.began - struck:+.3f} s and ended {each.ended - struck:+.3f} s"
        f" after the fault: {each.status}: {each.error}"
        for each in bad
        if each in late or each in again
    ]
    return WebOutcome(
        app=app.name,
        requests=len(good),
        writes=sum(each.page is not None for each in good),
        failed=len(bad),
        failed_late=len(late),
        failed_of_one=max(of_one.values(), default=0),
        last_failed=last,
        failures=dict(Counter(str(each.status or each.error) for each in bad)),
        without_master=0.0,
        added=0.0,
        hang=max(writes, default=0.0),
        read_hang=max(reads, default=0.0),
        closing=0.0,
        lost=0,
        problems=problems,
    )


async def _leftovers(nodes: Sequence[LocalNode], name: str) -> list[str]:
    problems = []
    for node in nodes:
        try:
            await until_sessions(node, name, 0)
        except TimeoutError:
            count = await sessions(node, name)
            problems.append(f"{node.name} has {count} sessions after the server has ended")
    return problems
