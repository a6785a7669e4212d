"""How the connects of a pool that are under way are ended."""

from __future__ import annotations

import asyncio

import pytest

from hasql.driver.connects import PendingConnects


async def test_what_is_under_way_is_ended() -> None:
    connects, discarded = PendingConnects(), list[str]()
    connecting = asyncio.ensure_future(connects.run(asyncio.sleep(10, "it"), discarded.append))
    await asyncio.sleep(0)
    connects.end()
    with pytest.raises(ConnectionError, match="gave up"):
        await connecting
    assert discarded == []


async def test_what_has_connected_in_the_turn_of_the_end_is_discarded() -> None:
    connects, discarded = PendingConnects(), list[str]()
    login: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    connecting = asyncio.ensure_future(connects.run(login, discarded.append))
    await asyncio.sleep(0)
    login.set_result("it")
    connects.end()
    with pytest.raises(ConnectionError, match="gave up"):
        await connecting
    assert discarded == ["it"]


async def test_what_has_connected_before_is_kept() -> None:
    connects, discarded = PendingConnects(), list[str]()
    assert await connects.run(asyncio.sleep(0, "it"), discarded.append) == "it"
    connects.end()
    assert discarded == []
