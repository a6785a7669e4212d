"""The stage: the servers, the ways to them, and the HA manager that a scenario plays."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack, asynccontextmanager
from types import CoroutineType
from typing import TYPE_CHECKING

from chaos.wire import Wire
from hasql.cluster.dsn import Dsn
from testbed.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from chaos.application import Application
    from hasql.cli.observer import Observer
    from hasql.testing import LocalCluster, LocalNode

__all__ = ("Stage", "Way", "dsn_of", "set_synchronous", "ways")

_POSITION = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"


_OURS = {
    *("_asyncio", "asyncio", "uvloop", "hasql", "asyncpg", "psycopg", "psycopg_pool"),
    *("psycopg2", "psycopg_binary", "aiopg"),
}
"""The libraries whose objects are counted."""


class Way:
    """The application's way to a server: through a proxy, and maybe over a wire."""

    def __init__(self, proxy: Proxy, wire: Wire | None) -> None:
        self.proxy = proxy
        self.wire = wire

    @property
    def address(self) -> str:
        """The address in the DSN."""
        host = self.wire.far if self.wire is not None else "127.0.0.1"
        return f"{host}:{self.proxy.port}"

    def lose(self, *, there: float = 0.0, back: float = 0.0) -> None:
        """Lose a share of the packets in each direction; a proxy loses all or nothing."""
        if self.wire is not None:
            self.wire.loss_there, self.wire.loss_back = there, back
        elif there or back:
            self.proxy.black_hole(there=there > 0, back=back > 0)
        else:
            self.proxy.forward()


@asynccontextmanager
async def ways(nodes: Sequence[LocalNode], *, wires: bool) -> AsyncIterator[dict[LocalNode, Way]]:
    """Open a way to each server."""
    found: dict[LocalNode, Way] = {}
    async with AsyncExitStack() as stack:
        for number, node in enumerate(nodes):
            wire = await stack.enter_async_context(Wire(number)) if wires else None
            listen = wire.near if wire is not None else "127.0.0.1"
            proxy = Proxy(node.host, node.port, listen=listen)
            found[node] = Way(await stack.enter_async_context(proxy), wire)
            if wire is not None:
                wire.port = proxy.port
        yield found


def dsn_of(cluster: LocalCluster, found: dict[LocalNode, Way]) -> str:
    """Return the DSN that leads over these ways; if there are none, directly to the servers."""
    if not found:
        return cluster.dsn
    parsed = Dsn.parse(cluster.dsn)
    hosts = ",".join(found[node].address for node in cluster.nodes)
    return f"postgresql://{parsed.user}:{parsed.password}@{hosts}/app"


class Stage:
    """The servers and applications of a scenario; times are monotonic seconds."""

    def __init__(
        self,
        cluster: LocalCluster,
        observer: Observer,
        applications: Sequence[Application],
        found: dict[LocalNode, Way],
        *,
        short: bool,
    ) -> None:
        self.cluster = cluster
        self.applications = applications
        self.ways = found
        self.short = short
        self.master = cluster.master
        self.replicas = list(cluster.replicas)
        #: When the fault happened, when a replica was asked to become master, and when it was one.
        self.struck: float | None = None
        self.asked: float | None = None
        self.writable: float | None = None
        #: When the scenario was over, and the repair began.
        self.played = float("inf")
        #: How often a host was lost; a task may fail as many times.
        self.faults = 0
        #: The numbers of objects of asyncio, hasql and drivers, counted from time to time.
        self.objects: list[int] = []
        self._observer = observer

    @property
    def moment(self) -> float:
        """Seconds for which a fault lasts, so that it is noticed."""
        return 0.4 if self.short else 1.0

    async def strike(self, *acts: Callable[[], None]) -> None:
        """Cause faults."""
        if self.struck is None:
            self._observer.watch()
            self.struck = time.monotonic()
        self.faults += max(len(acts), 1)
        for act in acts:
            await asyncio.to_thread(act)

    async def commits_wait_for(self, node: LocalNode) -> None:
        """Make the master acknowledge only what this standby has, which is to be promoted."""
        await set_synchronous(self.master, f"FIRST 1 ({node.name})")
        names = "SELECT application_name FROM pg_stat_replication WHERE sync_state = 'sync'"
        while await self.master.sql(names) != node.name:  # noqa: ASYNC110 - a server's word
            await asyncio.sleep(0.01)

    async def promote(self, *candidates: LocalNode) -> LocalNode:
        """Promote the candidate with the most WAL, and wait until it accepts writes."""
        # Take the time before finding out which one that is: a master that lives on may acknowledge
        # writes meanwhile that only another standby has.
        self.asked = time.monotonic()
        positions = [int(await node.sql(_POSITION)) for node in candidates]
        new = candidates[positions.index(max(positions))]
        await asyncio.to_thread(new.request_promotion)
        # Take the earliest possible moment, so that the uncertainty counts against hasql.
        self.writable = (await self._observer.promotion(new)).not_before
        self.master = new
        return new

    def count_objects(self) -> None:
        """Record how many objects there are that must not grow in number with faults."""
        gc.collect()
        self.objects.append(sum(map(_is_ours, gc.get_objects())))


def _is_ours(thing: object) -> bool:
    # The load's own records are left out, and compiled statements that SQLAlchemy caches.
    module = type(thing).__module__
    return isinstance(thing, CoroutineType) or (
        isinstance(module, str) and module.partition(".")[0] in _OURS
    )


async def set_synchronous(node: LocalNode, names: str) -> None:
    """Set which standbys the commits of a node wait for, now or once it is master."""
    await node.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    await node.sql("SELECT pg_reload_conf()")
