"""How many connects of one engine run at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("ConnectLimit",)

_T = TypeVar("_T")

#: Connects keep the event loop busy. If more ran at a time, the first statement would have to wait
#: until the last of them is done.
_AT_A_TIME = 2
#: Seconds that a connect waits at most for those before it, which may be stuck.
_LONGEST_WAIT = 0.5


class ConnectLimit:
    """Lets two connects run at a time. The others wait for them, but not for long."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_AT_A_TIME)

    async def run(self, connect: Callable[[], Awaitable[_T]]) -> _T:
        """Wait for a turn, for half a second at most, then run a connect and wait for it."""
        taken = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT):
                taken = await self._free.acquire()
        try:
            return await connect()
        finally:
            if taken:
                self._free.release()
