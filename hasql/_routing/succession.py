"""The succession of the pools of a host: one takes the place of another, lease by lease."""

from collections.abc import Callable
from typing import Any

__all__ = ("Succession",)


class Succession:
    """What a node that lends no more leaves to its heir: its places, each once it is given back.

    So both together never have more connections than the heir may have.
    """

    __slots__ = ("_on_empty", "former", "heir")

    def __init__(self, former: Any, heir: Any, on_empty: Callable[["Succession"], object]) -> None:
        self.former = former
        self.heir = heir
        self._on_empty = on_empty

    def place_is_back(self) -> None:
        """Hand a place of the former node's on; its connection is closed. Twice does no harm."""
        self.heir.places_are_back()
        if not self.former.in_flight:
            self._on_empty(self)
