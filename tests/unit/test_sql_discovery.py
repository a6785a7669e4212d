"""Sources that ask the servers themselves: how they read the answers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import pytest

from hasql import ConfigurationError, HostSpec
from hasql.discovery import AuroraDiscovery, Discovered, RdsDiscovery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from hasql.discovery.sql import SqlDiscovery

pytestmark = pytest.mark.loops_in_turn

PATTERN = "?.xyz.eu-west-1.rds.amazonaws.com"


class Rows:
    """Stands in for the servers: answers each question with its rows."""

    def __init__(self, *rows: Any) -> None:
        self.rows = list(rows)
        self.asked = 0

    async def __call__(self, sql: str) -> list[dict[str, Any]]:
        assert sql.strip().startswith("SELECT")
        self.asked += 1
        return self.rows


def watching(
    source: SqlDiscovery, rows: Rows
) -> aclosing[AsyncGenerator[tuple[Discovered, ...], None]]:
    return aclosing(cast("AsyncGenerator[tuple[Discovered, ...], None]", source.watch(rows)))


async def answer_of(source: SqlDiscovery, *rows: Any) -> tuple[Discovered, ...]:
    async with watching(source, Rows(*rows)) as watched:
        return await anext(watched)


async def test_an_instance_of_aurora_stands_where_the_pattern_says() -> None:
    source = AuroraDiscovery("?-a.xyz.rds.amazonaws.com", port=6432)
    assert await answer_of(source, {"server_id": "pg-1", "writer": True}) == (
        Discovered(HostSpec("pg-1-a.xyz.rds.amazonaws.com", 6432), label="pg-1"),
    )
    assert str(source) == "AuroraDiscovery('?-a.xyz.rds.amazonaws.com')"


async def test_an_instance_of_rds_stands_where_it_says_itself() -> None:
    row = {"id": "db-X1", "endpoint": "a.xyz.rds.amazonaws.com", "port": 6432}
    assert await answer_of(RdsDiscovery(), row) == (
        Discovered(HostSpec("a.xyz.rds.amazonaws.com", 6432), label="db-X1"),
    )
    assert str(RdsDiscovery()) == "RdsDiscovery"


@pytest.mark.parametrize(
    "server_id",
    ["evil.example/?", "a.b", "a:1", "a,b", "", "-a", "1a", "a" * 64, "a\n", "ä", None, 7],
)
async def test_no_answer_leads_out_of_the_pattern(server_id: object) -> None:
    good = {"server_id": "a", "writer": True}
    with pytest.raises(ValueError, match="is not the name of an instance"):
        await answer_of(AuroraDiscovery(PATTERN), good, {"server_id": server_id})


@pytest.mark.parametrize(
    "row",
    [
        {"id": "a", "endpoint": None, "port": 5432},
        {"id": "a", "endpoint": "", "port": 5432},
        {"id": "a", "endpoint": "b,c", "port": 5432},
        {"id": "a", "endpoint": "b", "port": None},
        {"id": "a", "endpoint": "b", "port": 0},
        {"id": 7, "endpoint": "b", "port": 5432},
    ],
)
async def test_what_is_no_host_is_no_answer(row: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        await answer_of(RdsDiscovery(), row)


async def test_to_find_nobody_is_a_failure() -> None:
    for source in (AuroraDiscovery(PATTERN), RdsDiscovery()):
        with pytest.raises(ValueError, match="found no host"):
            await answer_of(source)


async def test_refreshing_asks_again_but_not_within_a_second() -> None:
    rows = Rows({"id": "a", "endpoint": "b", "port": 5432})
    source = RdsDiscovery()
    loop = asyncio.get_running_loop()
    async with watching(source, rows) as watched:
        await anext(watched)
        began = loop.time()
        again = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0)
        source.refresh()
        async with asyncio.timeout(5):
            await again
        assert loop.time() - began > 0.9
        assert rows.asked == 2


@pytest.mark.parametrize(
    ("pattern", "port", "why"),
    [
        ("xyz.rds.amazonaws.com", 5432, "must be .* with one \\? in its first label"),
        ("a.?.rds.amazonaws.com", 5432, "must be .* with one \\? in its first label"),
        ("??.rds.amazonaws.com", 5432, "must be .* with one \\? in its first label"),
        ("?.?.rds.amazonaws.com", 5432, "must be .* with one \\? in its first label"),
        ("?", 5432, "must be .* with one \\? in its first label"),
        ("?.", 5432, "must be .* with one \\? in its first label"),
        ("", 5432, "must be .* with one \\? in its first label"),
        ("?.rds.amazonaws.com:5432", 5432, "give another port as port="),
        ("?.rds.amazonaws.com,b", 5432, "must be"),
        ("/?.rds.amazonaws.com", 5432, "must be"),
        (PATTERN, 0, "cannot be a host"),
        (PATTERN, 99999, "cannot be a host"),
    ],
)
def test_a_pattern_that_can_never_work_is_refused(pattern: str, port: int, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        AuroraDiscovery(pattern, port=port)


@pytest.mark.parametrize("pattern", [None, 7, b"?.x"])
def test_a_pattern_is_a_text(pattern: Any) -> None:
    with pytest.raises(TypeError):
        AuroraDiscovery(pattern)
