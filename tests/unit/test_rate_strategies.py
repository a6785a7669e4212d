"""The strategies of the rate limit that the `limits` library provides, in memory."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import Any

import pytest

from hasql.errors import RateLimitedError
from hasql.resilience import RateLimit
from testbed.fake_driver import fake_cluster, manager_of
from testbed.fake_threads import ThreadManager

STRATEGIES = ["moving-window", "fixed-window", "sliding-window-counter"]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_strategies_of_the_library_work_for_tasks(strategy: str) -> None:
    limit = RateLimit("4/second", strategy=strategy)
    async with manager_of(fake_cluster("a master"), rate_limit=limit, acquire_timeout=5) as manager:
        began = monotonic()
        for _ in range(6):
            await _use(manager.acquire_master())
        assert monotonic() - began < 4.5
        metrics = manager.metrics().rate_limit
        assert metrics is not None
        assert metrics.waits >= 1
        with suppress(RateLimitedError):  # until the window is full
            for _ in range(9):
                await _use(manager.acquire_master(timeout=0.001))
            pytest.fail("never refused")
        assert manager.metrics().rate_limit.refusals == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_strategies_of_the_library_work_for_threads(strategy: str) -> None:
    limit = RateLimit("4/second", strategy=strategy, wait=False)
    manager = ThreadManager(fake_cluster("a master"), rate_limit=limit)
    try:
        manager.ready(1, 0)
        with pytest.raises(RateLimitedError) as raised:
            for _ in range(9):
                manager.putconn(manager.getconn())
        assert 0 < raised.value.seconds <= 1.01
    finally:
        manager.close()


async def _use(lease: Any) -> None:
    async with lease:
        pass
