"""The connections on which listeners and pings run before an acquire has them.

Listeners and pings wait for the server in the thread that acquires. Aborting the connection ends
that. If a listener waits for anything else, the acquire waits for it, as in SQLAlchemy itself.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Preparations",)


class Preparations:
    """The preparations of one pool. Must be made in the manager's event loop.

    Args:
        abort: Aborts a connection of the driver's.
    """

    def __init__(self, abort: Callable[[Any], None]) -> None:
        self._abort = abort
        self._loop = asyncio.get_running_loop()
        #: By the driver's connection, an object that tells one preparation of it from the next.
        self._running: dict[Any, object] = {}

    def begin(self, raw: Any, seconds: float) -> None:
        """Abort a connection after so many seconds, unless `end` is called before."""
        running = self._running[raw] = object()
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(
                self._loop.call_later, seconds, self._too_late, raw, running
            )

    def _too_late(self, raw: Any, running: object) -> None:
        if self._running.get(raw) is running:
            self._abort(raw)

    def end(self, raw: Any) -> None:
        """Take note that a connection is ready for use, or given up."""
        self._running.pop(raw, None)

    def abort_all(self) -> None:
        """Abort the connections that are not ready for use yet."""
        for raw in self._running.copy():
            self._abort(raw)
