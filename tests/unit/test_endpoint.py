"""Endpoints: which address of a name a connect leads to."""

from __future__ import annotations

import asyncio

import pytest

from hasql.cluster.host import parse_host
from hasql.driver import Endpoint, Failure


async def test_a_connect_during_which_the_name_moves_leads_to_where_it_has_moved() -> None:
    endpoint = Endpoint(parse_host("db"), "postgresql://db/app")
    endpoint.note_addresses(("10.0.0.1",), lambda _: False)
    discarded: list[str | None] = []

    async def dial(address: str | None) -> str | None:
        if address == "10.0.0.1":
            endpoint.note_addresses(("10.0.0.2",), {"10.0.0.1"}.__contains__)
        await asyncio.sleep(0)
        return address

    assert await endpoint.connect(dial, Failure.of_exception, discarded.append) == "10.0.0.2"
    assert discarded == ["10.0.0.1"]


class FullError(Exception):
    """The answer of a server that takes no more connections."""


def failure_of(error: BaseException) -> Failure:
    return Failure.FULL if isinstance(error, FullError) else Failure.of_exception(error)


async def connect(**outcomes: float | Exception) -> str:
    """Connect to a name with these addresses; each answers after some seconds, or raises."""
    endpoint = Endpoint(parse_host("db"), "postgresql://db/app")
    endpoint.note_addresses((*outcomes,), lambda _: False)

    async def dial(address: str | None) -> str:
        assert address is not None
        outcome = outcomes[address]
        if isinstance(outcome, Exception):
            raise outcome
        await asyncio.sleep(outcome)
        return address

    return await endpoint.connect(dial, failure_of, lambda _: None)


async def test_11_a_second_connection_that_comes_too_late_is_discarded() -> None:
    endpoint = Endpoint(parse_host("db"), "postgresql://db/app")
    endpoint.note_addresses(("10.0.0.1", "10.0.0.2"), lambda _: False)
    late, discarded = asyncio.Event(), asyncio.Queue[str | None]()

    async def dial(address: str | None) -> str | None:
        if address == "10.0.0.1":
            await late.wait()
        return address

    taken = await endpoint.connect(dial, Failure.of_exception, discarded.put_nowait)
    assert taken == "10.0.0.2"
    late.set()
    async with asyncio.timeout(5):
        assert await discarded.get() == "10.0.0.1"


async def test_4_a_server_that_is_full_leaves_it_to_the_other_addresses() -> None:
    assert await connect(full=FullError(), other=0) == "other"
    assert await connect(slow=0.3, full=FullError()) == "slow"


@pytest.mark.parametrize("other", [ConnectionRefusedError(), 60.0], ids=["refuses", "silent"])
async def test_that_a_server_is_full_says_more_than_that_another_is_away(
    other: float | Exception,
) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(FullError):
            await connect(full=FullError(), other=other)
        with pytest.raises(FullError):
            await connect(other=other, full=FullError())


async def test_where_logins_take_long_no_two_are_begun_for_each_connection() -> None:
    endpoint = Endpoint(parse_host("db"), "postgresql://db/app")
    endpoint.note_addresses(("10.0.0.1", "10.0.0.2"), lambda _: False)
    dialled: list[str | None] = []

    async def dial(address: str | None) -> str | None:
        dialled.append(address)
        await asyncio.sleep(0.35)
        return address

    for _ in range(3):
        await endpoint.connect(dial, Failure.of_exception, lambda _: None)
    assert dialled == ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"]
