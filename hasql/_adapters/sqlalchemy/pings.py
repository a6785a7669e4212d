"""The questions of `pool_pre_ping`, to which a silent host has no answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy.util import await_only

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Pings",)


class Pings:
    """The pings of one engine: whose they are, so that they can be ended."""

    def __init__(self, dialect: Any, break_off: Callable[[Any], None]) -> None:
        self._ask: Callable[[Any], bool] = dialect.do_ping
        dialect.do_ping = self._ping
        self._break_off = break_off
        #: The driver's connections that are asked, and who waits for that.
        self._asked: dict[Any, asyncio.Task[Any] | None] = {}
        #: Those whose ping was ended: SQLAlchemy has them connect anew.
        self._ended: WeakSet[asyncio.Task[Any]] = WeakSet()

    def _ping(self, adapted: Any) -> bool:
        # An acquire goes on in a task of its own from here.
        await_only(asyncio.sleep(0))
        raw = adapted.driver_connection
        self._asked[raw] = asyncio.current_task()
        try:
            return self._ask(adapted)
        finally:
            self._asked.pop(raw, None)

    def of(self, task: asyncio.Task[Any]) -> list[Any]:
        """Return the connections that are asked for an acquire."""
        return [raw for raw, waiting in self._asked.items() if waiting is task]

    def end(self) -> None:
        """Break the connections that are asked; who waits for that is not to connect anew."""
        for raw, task in tuple(self._asked.items()):
            if task is not None:
                self._ended.add(task)
            self._break_off(raw)

    def raise_if_ended(self) -> None:
        """Raise ConnectionError if the ping of who would connect now was ended."""
        task = asyncio.current_task()
        if task is not None and task in self._ended:
            self._ended.discard(task)
            raise ConnectionError("the host was given up while a connection to it was checked")
