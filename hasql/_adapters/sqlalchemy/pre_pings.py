"""The pings of `pool_pre_ping`, which a silent host does not answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy.util import await_only

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("PrePings",)


class PrePings:
    """The pings of one engine, with the task that waits for each, so that they can be ended."""

    def __init__(self, dialect: Any, abort: Callable[[Any], None]) -> None:
        self._dialects_own: Callable[[Any], bool] = dialect.do_ping
        dialect.do_ping = self._ping
        self._abort = abort
        #: The driver's connections that are being pinged, each with the task that waits for it.
        self._pinged: dict[Any, asyncio.Task[Any] | None] = {}
        #: The tasks whose ping was ended. SQLAlchemy then makes them open a new connection.
        self._ended: WeakSet[asyncio.Task[Any]] = WeakSet()

    def _ping(self, adapted: Any) -> bool:
        # `ShieldedOperations` moves an acquire to a task of its own at its first pause. So pause
        # here: `current_task` below is that task.
        await_only(asyncio.sleep(0))
        raw = adapted.driver_connection
        self._pinged[raw] = asyncio.current_task()
        try:
            return self._dialects_own(adapted)
        finally:
            self._pinged.pop(raw, None)

    def of(self, task: asyncio.Task[Any]) -> list[Any]:
        """Return the connections that are being pinged for an acquire."""
        return [raw for raw, waiting in self._pinged.items() if waiting is task]

    def end(self) -> None:
        """Abort the connections that are being pinged. The tasks that wait open no new ones."""
        for raw, task in tuple(self._pinged.items()):
            if task is not None:
                self._ended.add(task)
            self._abort(raw)

    def raise_if_ended(self) -> None:
        """Raise ConnectionError if the ping of the current task was ended."""
        task = asyncio.current_task()
        if task is not None and task in self._ended:
            self._ended.discard(task)
            raise ConnectionError("hasql gave up on the host while checking a connection to it")
