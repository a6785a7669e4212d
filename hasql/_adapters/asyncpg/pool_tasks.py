"""The tasks that asyncpg's pool creates for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ("DetachedReleases", "ReleaseErrors", "runs_method")


def runs_method(task: asyncio.Task[Any] | None, name: str) -> bool:
    """Tell whether a task is asyncpg's own and runs its method of this name.

    asyncpg offers no public way to recognise such a task. If asyncpg renamed the method, it would
    retry failed connects later than necessary, and asyncio would log needless errors. Both are
    harmless.
    """
    code = getattr(task and task.get_coro(), "cr_code", None)
    return code is not None and code.co_qualname == name


class ReleaseErrors:
    """Retrieves the errors of releases whose connections are aborted, so that none is logged.

    asyncpg runs a release in a task of its own, to shield its rollback from cancellation. After a
    cancellation it keeps no reference to that task, and asyncio would log an error that it raises.
    """

    def __init__(self) -> None:
        self._retrieving = False

    def retrieve(self) -> None:
        """Retrieve the errors of all releases that are under way, when they have ended."""
        if not self._retrieving:  # once for all connections aborted now: there may be many tasks
            self._retrieving = True
            asyncio.get_running_loop().call_soon(self._retrieve)

    def _retrieve(self) -> None:
        self._retrieving = False
        for task in asyncio.all_tasks():
            if runs_method(task, "PoolConnectionHolder.release"):
                task.add_done_callback(lambda done: done.cancelled() or done.exception())


class DetachedReleases:
    """The releases that asyncpg continues after a cancellation, by the connection's key."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, asyncio.Future[None]] = {}

    async def wait_for_end(self, key: Hashable | None) -> None:
        """Wait until asyncpg has finished the release of a connection; key None: do not wait."""
        if key is not None:
            self._waiting[key] = asyncio.get_running_loop().create_future()
            await self._waiting[key]

    def note_end(self, key: Hashable | None) -> None:
        """Wake the task that waits for the end of this release, if there is one."""
        waiter = self._waiting.pop(key, None) if self._waiting else None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
