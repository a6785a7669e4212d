"""The succession of a host's pools: one takes over the places of another, lease by lease."""

from collections.abc import Callable
from typing import Any

__all__ = ("Succession",)


class Succession:
    """Passes the places of a node that lends no more on to its successor, as they come back.

    So the two together never have more connections than the successor may have.
    """

    __slots__ = ("_on_empty", "former", "successor")

    def __init__(
        self, former: Any, successor: Any, on_empty: Callable[["Succession"], object]
    ) -> None:
        self.former = former
        self.successor = successor
        self._on_empty = on_empty

    def note_returned_place(self) -> None:
        """Pass on a place of the former node, whose connection is closed; twice does no harm."""
        self.successor.offer_returned_places()
        if not self.former.in_flight:
            self._on_empty(self)
