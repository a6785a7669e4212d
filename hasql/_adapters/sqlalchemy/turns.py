"""Turns: who opens a connection waits for those before, but not for ever."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ("Turns",)

#: Connects at a time: they are work, and the first statement would wait for the last of them.
_AT_A_TIME = 2
#: Seconds that a connect waits at most for those before it, which may be stuck.
_PATIENCE = 0.5


class Turns:
    """The turns of one engine's connects."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_AT_A_TIME)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a turn and take it; without one, go on after a while."""
        taken = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                taken = await self._free.acquire()
        try:
            yield
        finally:
            if taken:
                self._free.release()
