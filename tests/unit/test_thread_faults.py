"""What a manager for threads survives: interrupts, forks, and threads in each other's way.

Each test bears the number of the invariant it stands for, where it stands for one.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

from hasql._leasing.book import LeaseBook
from hasql._leasing.lease import Lease
from hasql._leasing.overdue import OverdueTimer
from hasql._routing.request import MASTER

# Timers


def test_15_one_timer_serves_all_releases_whenever_the_next_begins() -> None:
    looks = 0

    async def look_for_a_while() -> None:
        loop = asyncio.get_running_loop()

        class Guard(nullcontext[None]):
            def __enter__(self) -> None:
                nonlocal looks
                looks += 1
                if not timer.is_set:  # as a thread finds that gives back at this moment
                    timer.is_set = True
                    loop.call_soon(timer.set)

        book: LeaseBook[Any, Any] = LeaseBook()
        lease: Lease[Any, Any] = Lease(None, MASTER, 1.0, {})
        book.enter(lease, object())
        lease.returning, lease.due_back = True, 0.01
        timer = OverdueTimer(book, 0.01, lambda: 0.0, Guard())
        timer.set()
        await asyncio.sleep(0.12)
        timer.cancel()

    asyncio.run(look_for_a_while())
    assert 1 < looks <= 12  # else each look has begun two
