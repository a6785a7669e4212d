"""The report on the pools, and the advice on their sizes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hasql import ConfigurationError
from testbed.fake_driver import fake_cluster, manager_of, until

if TYPE_CHECKING:
    from testbed.fake_driver import FakeManager


def reports(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(x) for x in caplog.records if vars(x).get("event") == "pools"]


async def test_the_pools_are_reported_time_and_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hasql")
    async with manager_of(fake_cluster("a master", "b replica"), report_every=0.05) as manager:
        async with manager.acquire():
            await until(lambda: len(reports(caplog)) >= 2)
        await until(lambda: len(reports(caplog)) >= 4)
    first, last = reports(caplog)[1], reports(caplog)[-1]
    hosts = {each["host"]: each for each in first["pools"]}
    assert hosts["a:5432"]["used"] == hosts["a:5432"]["peak"] == 1
    assert hosts["a:5432"]["role"] == "master"
    assert hosts["b:5432"]["used"] == 0
    assert {each["peak"] for each in last["pools"]} == {0}  # the peak since the last report
    assert "1 of 2 in use" in first["message"]
    count = len(reports(caplog))
    await asyncio.sleep(0.1)
    assert len(reports(caplog)) == count  # a closed manager does not report


async def test_without_report_every_there_is_no_report(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hasql")
    async with manager_of(fake_cluster("a master")) as manager, manager.acquire():
        await asyncio.sleep(0.05)
    assert reports(caplog) == []


@pytest.mark.parametrize("wrong", [0, -1.0, "60"])
def test_report_every_is_a_number_of_seconds(wrong: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError), match="report_every"):
        manager_of(fake_cluster("a master"), report_every=wrong)


async def advice_after(peak: int, *, waits: bool = False, **sizes: int) -> str | None:
    manager = manager_of(fake_cluster("a master"), pool_factory_kwargs=sizes)
    async with manager:
        leases = [await manager.acquire() for _ in range(peak)]
        if waits:
            with pytest.raises(TimeoutError):
                await manager.acquire(timeout=0.01)
        await give_back(manager, leases)
        (node,) = manager.metrics().nodes
        assert node.pool_peak == peak
        return node.advice


async def give_back(manager: FakeManager, leases: list[Any]) -> None:
    for lease in leases:
        await manager.release(lease)


async def test_a_pool_that_acquires_waited_for_could_be_larger() -> None:
    advice = await advice_after(2, waits=True, max_size=2)
    assert advice is not None
    assert "a larger max_size" in advice


async def test_a_pool_of_which_little_is_used_could_be_smaller() -> None:
    assert await advice_after(3, min_size=0, max_size=20) == (
        "at most 3 of 20 were in use: max_size=6 would do"
    )
    assert await advice_after(2, min_size=10, max_size=20) == (
        "10 are kept open, and 2 were in use: min_size=2 would do"
    )


async def test_a_pool_that_is_as_large_as_need_be_gets_no_advice() -> None:
    assert await advice_after(5, min_size=1, max_size=8) is None
    assert await advice_after(2, max_size=2) is None  # no acquire has waited
    assert await advice_after(0, min_size=10, max_size=20) is None  # there was no acquire at all


async def test_a_pool_that_cannot_be_resized_stays_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with manager_of(fake_cluster("a master")) as manager:
        manager.driver.open_errors.append(OSError("too many files"))
        with pytest.raises(OSError, match="too many files"):
            await manager.resize(max_size=4)
        (record,) = [vars(x) for x in caplog.records if vars(x).get("event") == "resize_failed"]
        assert "too many files" in record["message"]
        async with manager.acquire(), manager.acquire():
            pass
        await manager.resize(max_size=4)  # a second attempt
        assert manager.metrics().nodes[0].pool_max == 4
