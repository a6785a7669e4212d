"""How many connects of one engine run at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ("ConnectLimit",)

#: Connects are work for the event loop. If more ran at a time, the first statement would have to
#: wait until the last of them is done.
_AT_A_TIME = 2
#: Seconds that a connect waits at most for those before it, which may be stuck.
_LONGEST_WAIT = 0.5


class ConnectLimit:
    """Lets two connects run at a time. The others wait for them, but not for long."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_AT_A_TIME)

    @asynccontextmanager
    async def connecting(self) -> AsyncIterator[None]:
        """Wait until a connect may run; after half a second it runs in any case."""
        taken = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT):
                taken = await self._free.acquire()
        try:
            yield
        finally:
            if taken:
                self._free.release()
