"""Faults of a Patroni cluster under load, and what an application sees of them."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from hasql.cli.observer import Observer
from hasql.cli.report import Acknowledged, FailedOperation, Report, RunRecord
from hasql.discovery import PatroniDiscovery
from testbed.scene import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from hasql.base import BasePoolManager
    from testbed.kits.base import Kit
    from testbed.patroni import Member, PatroniCluster

__all__ = ("Fault", "Hosts", "Scaled", "come_and_go", "perform")

_PAUSE = 0.005
"""Seconds that a task rests between two operations: the whole cluster runs on the same cores."""

_ACQUIRE_TIMEOUT = 40.0
"""Seconds that an operation waits for a master: a dead leader's lock lasts for 20 s."""

_STEADY = 1.0
"""Seconds of load before the fault."""

_AFTERWARDS = 50
"""The number of acknowledged writes after the fault that end a scene."""


class Fault(StrEnum):
    """The faults that can happen to the cluster."""

    SWITCHOVER = "switchover"
    LEADER_KILLED = "leader killed"
    SERVER_KILLED = "server killed, failover"
    SERVER_RESTARTED = "server killed, restart"


class Hosts(StrEnum):
    """Where an application gets its hosts from."""

    DSN = "dsn"
    REST = "rest"


@dataclass(frozen=True)
class _Table:
    name: str

    def insert(self, client: int, sequence: int) -> str:
        return f"INSERT INTO {self.name} VALUES ({client}, {sequence})"  # noqa: S608  # ours

    def last(self, client: int) -> str:
        return f"SELECT max(sequence) FROM {self.name} WHERE client = {client}"  # noqa: S608  # ours

    @classmethod
    def on(cls, leader: Member) -> _Table:
        name = f"t_{uuid4().hex}"
        leader.sql(
            f"CREATE TABLE {name} (client int, sequence int, PRIMARY KEY (client, sequence));"
            f"GRANT ALL ON {name} TO app"
        )
        return cls(name)

    def rows_on(self, member: Member) -> set[tuple[int, int]]:
        lines = member.sql(f"SELECT client, sequence FROM {self.name}").split()  # noqa: S608  # ours
        return {(int(row[0]), int(row[1])) for row in (line.split("|") for line in lines)}


class _Load:
    """The writers and readers of one driver, and the outcome of each operation."""

    def __init__(
        self,
        kit: Kit,
        table: _Table,
        cluster: PatroniCluster,
        source: PatroniDiscovery | None,
        tasks: int,
    ) -> None:
        self.kit = kit
        self.table = table
        self.manager: BasePoolManager[Any, Any] = kit.manager(
            cluster.dsn if source is None else cluster.hostless_dsn,
            discovery=source,
            acquire_timeout=_ACQUIRE_TIMEOUT,
            pool_factory_kwargs=kit.sizes(tasks, 2 * tasks),
        )
        self.acknowledged: list[Acknowledged] = []
        self.reads: list[tuple[float, float]] = []
        self.failed: list[FailedOperation] = []
        self.hung = 0
        self.began = self.ended = time.monotonic()
        self._count = tasks
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._progress = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            await self.manager.ready(1, 2)
        except BaseException:
            await self.manager.terminate()
            raise
        self.began = time.monotonic()
        for client in range(self._count):
            for name, operation in (("writer", self._write), ("reader", self._read)):
                repeated = self._repeat(f"{name} {client}", operation, client)
                self._tasks.append(asyncio.create_task(repeated))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.manager.close()

    async def writes(self, count: int) -> None:
        """Wait until `count` more writes are acknowledged."""
        goal = len(self.acknowledged) + count
        async with asyncio.timeout(_ACQUIRE_TIMEOUT):
            while len(self.acknowledged) < goal:
                self._progress.clear()
                await self._progress.wait()

    async def stop(self) -> None:
        """Wait for running operations to end, and count those that do not."""
        self._stopping = True
        _, hanging = await asyncio.wait(self._tasks, timeout=5)
        self.ended, self.hung = time.monotonic(), len(hanging)

    async def _repeat(
        self, name: str, operation: Callable[[int, int], Awaitable[None]], client: int
    ) -> None:
        number = 0
        while not self._stopping:
            number += 1
            began = time.monotonic()
            try:
                await operation(client, number)
            except Exception as error:  # noqa: BLE001 - every failure is counted
                self.failed.append(
                    FailedOperation(name, f"{error!r}"[:200], began, time.monotonic())
                )
            await asyncio.sleep(_PAUSE)

    async def _write(self, client: int, number: int) -> None:
        async with self.manager.acquire_master() as connection:
            await self.kit.write(connection, self.table.insert(client, number))
            self.acknowledged.append(Acknowledged(client, number, time.monotonic()))
        self._progress.set()

    async def _read(self, client: int, _number: int) -> None:
        began = time.monotonic()
        async with self.manager.acquire_replica(fallback_master=True) as connection:
            await self.kit.value(connection, self.table.last(client))
        self.reads.append((began, time.monotonic()))


async def perform(
    cluster: PatroniCluster,
    kits: Sequence[Kit],
    fault: Fault,
    tasks: int,
    hosts: Hosts = Hosts.DSN,
) -> dict[str, Report]:
    """Cause a fault while each driver has `tasks` writers and as many readers.

    :returns: a report for each driver, once the cluster is whole again
    """
    # Patroni waits for a server that it restarts, unless it is told not to wait.
    cluster.change({"primary_start_timeout": 0 if fault is Fault.SERVER_KILLED else 300})
    await cluster.heal()
    old, new = cluster.leader, cluster.standby
    assert old is not None
    assert new is not None
    async with AsyncExitStack() as stack:
        observer = await stack.enter_async_context(Observer([new]))
        sources = [
            PatroniDiscovery(cluster.api_urls) if hosts is Hosts.REST else None for _ in kits
        ]
        loads = [
            _Load(kit, _Table.on(old), cluster, source, tasks)
            for kit, source in zip(kits, sources, strict=True)
        ]
        for load in loads:
            await stack.enter_async_context(load)
        await asyncio.sleep(_STEADY)
        struck, writable = await _strike(cluster, fault, observer, old, new)
        await asyncio.gather(*[load.writes(_AFTERWARDS) for load in loads])
        await cluster.heal()
        await asyncio.gather(*[load.manager.ready(1, 2) for load in loads])
        whole = time.monotonic()
        await asyncio.gather(*[load.writes(_AFTERWARDS) for load in loads])
        await asyncio.gather(*[load.stop() for load in loads])
        leader = cluster.leader
        assert leader is not None
        version = leader.sql("SHOW server_version")
        return {
            load.kit.name: Report.of(
                RunRecord(
                    fault=fault.value,
                    postgresql=version,
                    lossless=True,  # replication is synchronous
                    began=load.began,
                    ended=load.ended,
                    struck=struck,
                    writable=writable,
                    whole=whole,
                    acknowledged=load.acknowledged,
                    reads=load.reads,
                    failed=load.failed,
                    hung=load.hung,
                    present=load.table.rows_on(leader),
                )
            )
            for load in loads
        }


@dataclass(frozen=True)
class Scaled:
    """What an application has seen while members came and went."""

    writes: int
    reads: int
    failed: tuple[FailedOperation, ...]


async def come_and_go(
    cluster: PatroniCluster, kits: Sequence[Kit], tasks: int
) -> dict[str, Scaled]:
    """Under load, take members out until only the leader is left, then take them in again.

    :returns: the result for each driver, whose pool manager has followed every step
    """
    await cluster.heal()
    leader = cluster.leader
    assert leader is not None
    async with AsyncExitStack() as stack:
        loads = []
        for kit in kits:
            source = PatroniDiscovery(cluster.api_urls, interval=0.5)
            load = _Load(kit, _Table.on(leader), cluster, source, tasks)
            loads.append(await stack.enter_async_context(load))
        members = len(cluster.members)
        for member in [each for each in cluster.members if each is not leader]:
            await asyncio.to_thread(cluster.take_out, member)
            members -= 1
            await _until_hosts(loads, members)
        await cluster.heal()
        await _until_hosts(loads, len(cluster.members))
        await asyncio.gather(*[load.manager.ready(1, 2) for load in loads])
        await asyncio.gather(*[load.writes(_AFTERWARDS) for load in loads])
        await asyncio.gather(*[load.stop() for load in loads])
        return {
            load.kit.name: Scaled(len(load.acknowledged), len(load.reads), tuple(load.failed))
            for load in loads
        }


async def _until_hosts(loads: Sequence[_Load], count: int) -> None:
    """Wait until each pool manager has `count` hosts, and writes go on."""
    await until(lambda: all(len(load.manager.metrics().nodes) == count for load in loads))
    await asyncio.gather(*[load.writes(_AFTERWARDS) for load in loads])


async def _strike(
    cluster: PatroniCluster, fault: Fault, observer: Observer, old: Member, new: Member
) -> tuple[float, float | None]:
    """Cause a fault; return when it happened, and since when there has been a new master."""
    observer.watch()
    struck = time.monotonic()
    if fault is Fault.SWITCHOVER:
        asked = asyncio.create_task(asyncio.to_thread(cluster.switch_over, old, new))
        promotion = await observer.promotion(new)
        await asked
        return struck, promotion.not_before
    await asyncio.to_thread(old.kill if fault is Fault.LEADER_KILLED else old.kill_server)
    if fault is Fault.SERVER_RESTARTED:
        return struck, None
    # Take the earliest possible moment, so that the uncertainty counts against hasql.
    return struck, (await observer.promotion(new)).not_before
