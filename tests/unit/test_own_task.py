"""Tasks that do one piece of work, and may be cancelled before they begin it.

In that case no coroutine may be left that was never awaited: the warning about it fails a test.
"""

import asyncio
import gc
from random import Random

import pytest

from hasql._probing.fresh_look import Found, FreshLooks
from hasql.cluster.host import HostSpec
from hasql.driver.own_task import in_own_task


async def _cancel_those_since(before: set[asyncio.Task[object]]) -> None:
    """Cancel the one task begun since, as `asyncio.run` cancels all when the program ends."""
    since = asyncio.all_tasks() - before
    assert len(since) == 1
    for task in since:
        task.cancel()
    await asyncio.wait(since)


async def test_work_that_is_cancelled_before_it_begins() -> None:
    begun = []

    async def work() -> None:
        begun.append(True)

    before = asyncio.all_tasks()
    waiting = in_own_task(work).__await__()
    next(waiting)
    await _cancel_those_since(before)
    with pytest.raises(asyncio.CancelledError):
        next(waiting)
    gc.collect()
    assert not begun


async def test_a_look_that_is_cancelled_before_it_begins() -> None:
    begun = []

    async def look() -> Found | None:
        begun.append(True)
        return None

    before = asyncio.all_tasks()
    clock = asyncio.get_running_loop().time
    looks = FreshLooks(HostSpec("db1", 5432), str, clock, Random(1))  # noqa: S311  # no secret
    looks.begin(look, lambda: None)
    await _cancel_those_since(before)
    assert looks.take() is None
    gc.collect()
    assert not begun
