"""The tasks that asyncpg's pool makes for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ("Releases", "heed_releases", "runs")


def runs(task: asyncio.Task[Any] | None, name: str) -> bool:
    """Tell whether a task is asyncpg's own that runs its method of this name.

    Such tasks have no public mark. Under another name their failures would be retried and logged
    by asyncpg and asyncio as ever: later than could be, and for all to see, but safely.
    """
    code = getattr(task and task.get_coro(), "cr_code", None)
    return code is not None and code.co_qualname == name


def heed_releases() -> None:
    """Take note of how the releases end that are under way.

    asyncpg shields its rollback from cancellation, and drops the task.
    """
    for task in asyncio.all_tasks():
        if runs(task, "PoolConnectionHolder.release"):
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


class Releases:
    """Releases whose tasks were cancelled, and which asyncpg goes on with, by connection."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, asyncio.Future[None]] = {}

    async def end_of(self, key: Hashable | None) -> None:
        """Wait until there is nothing more that asyncpg waits for; None: there is not."""
        if key is not None:
            self._waiting[key] = asyncio.get_running_loop().create_future()
            await self._waiting[key]

    def tell(self, key: Hashable | None) -> None:
        """Take note that there is not, for one connection."""
        waiter = self._waiting.pop(key, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
