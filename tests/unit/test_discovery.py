"""Where hosts come from: whatever a source does, the hosts known so far stay."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from hasql.cluster.dsn import Dsn
from hasql.cluster.host import HostSpec, parse_host
from hasql.discovery import Discovered, Discovery, StaticDiscovery
from testbed.fake_driver import FakeManager, FakeServer, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hasql.cluster.dsn import Dsn

A, B, C = (parse_host(name) for name in "abc")


def found(*hosts: HostSpec) -> tuple[Discovered, ...]:
    return tuple(Discovered(host) for host in hosts)


class Scripted(Discovery):
    """A source that does what a test puts into its queue."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.watched = 0
        self.refreshed = 0
        self.refusal: Exception | None = None

    async def watch(self) -> AsyncIterator[tuple[Discovered, ...]]:
        self.watched += 1
        while True:
            answer = await self.answers.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer

    def refresh(self) -> None:
        self.refreshed += 1
        if self.refusal is not None:
            raise self.refusal


class SourcedManager(FakeManager):
    """A manager of three servers, whose hosts come from a source."""

    def __init__(self) -> None:
        self.source = Scripted()
        servers = {host: FakeServer(host, master=host is A) for host in (A, B, C)}
        super().__init__(servers, refresh_delay=0.05)

    def _discovery(self, _: Dsn) -> Discovery:
        return self.source

    def hosts(self) -> list[HostSpec]:
        return [node.host for node in self.metrics().nodes]


@pytest.mark.parametrize(
    "answer",
    [(), None, "db1", (Discovered(A), "b"), [None], (A,), 7, OSError("no such name")],
    ids=["nothing", "none", "text", "half", "nones", "hosts", "number", "failure"],
)
async def test_17_what_is_no_answer_changes_nothing_and_is_logged_once(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        with caplog.at_level(logging.WARNING, "hasql"):
            for _ in range(2):
                await manager.source.answers.put(answer)
            await until(lambda: manager.source.answers.qsize() <= isinstance(answer, Exception))
            await until(lambda: len(caplog.records) > 0)
        assert manager.hosts() == [A, B, C]
        assert ["Scripted has failed" in record.getMessage() for record in caplog.records] == [True]
        # And what is an answer counts all the same, in whatever order and however often.
        if not isinstance(answer, Exception):
            await manager.source.answers.put([*found(C, A, C)])
            await until(lambda: manager.hosts() == [C, A])
        async with manager.acquire_master() as connection:
            assert connection.server.host == A


async def test_17_a_source_that_fails_is_asked_again_and_the_hosts_serve_meanwhile() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        await manager.source.answers.put(OSError("no such name"))
        await until(manager.source.answers.empty)
        async with manager.acquire_master() as connection:
            assert connection.server.host == A
        await manager.source.answers.put(found(A, B))
        await until(lambda: manager.hosts() == [A, B])
        assert manager.source.watched == 2


async def test_17_a_source_that_hangs_keeps_nobody_waiting() -> None:
    async with asyncio.timeout(5), SourcedManager() as manager:
        await manager.ready(1, 2)
        async with manager.acquire_replica() as connection:
            assert connection.server.host in {B, C}


async def test_a_source_is_asked_to_look_again_while_no_master_is_known() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        assert manager.source.refreshed == 0
        manager.source.refusal = OSError("it may fail as well")
        manager.driver.servers[A].kill()
        await until(lambda: manager.source.refreshed >= 2)  # at once, and a second later
        manager.driver.servers[B].promote()
        await until(lambda: manager.master_pool_count == 1)
        asked = manager.source.refreshed
        await asyncio.sleep(1.2)  # longer than to the next, if there were one
        assert manager.source.refreshed == asked


async def test_a_manager_that_is_closed_asks_no_source_any_more() -> None:
    async with SourcedManager() as manager:
        await manager.ready(1, 2)
        manager.driver.servers[A].kill()
        await until(lambda: manager.source.refreshed >= 1)
    asked = manager.source.refreshed
    await asyncio.sleep(1.2)  # as above
    assert manager.source.refreshed == asked


async def test_a_static_source_yields_its_hosts_once() -> None:
    assert [hosts async for hosts in StaticDiscovery([A, B]).watch()] == [found(A, B)]
