"""Connections that are opened for nobody any more: the next one who needs one gets it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from hasql._adapters.sqlalchemy.beneath import Beneath

__all__ = ("Spares",)


class Spares:
    """What was being opened for those that have found another connection."""

    def __init__(self, beneath: Beneath) -> None:
        self._beneath = beneath
        self._openings: deque[asyncio.Task[Any]] = deque()

    def put(self, opening: asyncio.Task[Any]) -> None:
        """Keep one that is being opened."""
        self._openings.append(opening)
        opening.add_done_callback(lambda done: done.cancelled() or done.exception())

    def take(self) -> asyncio.Task[Any] | None:
        """Return one that is being opened or has opened well, None if there is none."""
        # All that is opened takes its turn here, so there is never more of it than places.
        while self._openings:
            opening = self._openings.popleft()
            if not opening.done() or self._opened_well(opening):
                return opening
        return None

    def idle(self) -> int:
        """Return how many have opened well."""
        return sum(each.done() and self._opened_well(each) for each in self._openings)

    def _opened_well(self, opening: asyncio.Task[Any]) -> bool:
        if opening.cancelled() or opening.exception() is not None:
            return False
        return not self._beneath.has_died(opening.result())
