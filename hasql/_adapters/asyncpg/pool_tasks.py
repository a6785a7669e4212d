"""The tasks that asyncpg's pool makes for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ("DetachedReleases", "ReleaseErrors", "runs_method")


def runs_method(task: asyncio.Task[Any] | None, name: str) -> bool:
    """Tell whether a task is asyncpg's own and runs its method of this name.

    No public mark tells such a task. If asyncpg renamed the method, it would retry failed connects
    later than necessary, and asyncio would log errors that nobody needs: both harmless.
    """
    code = getattr(task and task.get_coro(), "cr_code", None)
    return code is not None and code.co_qualname == name


class ReleaseErrors:
    """The errors of releases that end because their connections are aborted.

    asyncpg shields its rollback from cancellation in a task, to which it then keeps no reference.
    """

    def __init__(self) -> None:
        self._retrieving = False

    def retrieve(self) -> None:
        """Have those of all that are under way count as retrieved."""
        if not self._retrieving:  # once for all that are aborted now: there may be many tasks
            self._retrieving = True
            asyncio.get_running_loop().call_soon(self._retrieve)

    def _retrieve(self) -> None:
        self._retrieving = False
        for task in asyncio.all_tasks():
            if runs_method(task, "PoolConnectionHolder.release"):
                task.add_done_callback(lambda done: done.cancelled() or done.exception())


class DetachedReleases:
    """The releases that asyncpg goes on with after their tasks were cancelled, by connection."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, asyncio.Future[None]] = {}

    async def wait_for_end(self, key: Hashable | None) -> None:
        """Wait until asyncpg has finished the release of a connection; None: it has."""
        if key is not None:
            self._waiting[key] = asyncio.get_running_loop().create_future()
            await self._waiting[key]

    def note_end(self, key: Hashable | None) -> None:
        """Take note that asyncpg has finished the release of a connection, if there was one."""
        waiter = self._waiting.pop(key, None) if self._waiting else None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
