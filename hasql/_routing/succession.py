"""The succession of a host's pools: one takes over the places of another, lease by lease."""

from collections.abc import Callable
from typing import Any

__all__ = ("Succession",)


class Succession:
    """Passes the places of a node that lends no more on to its heir, each once it is given back.

    So the two together never have more connections than the heir may have.
    """

    __slots__ = ("_on_empty", "former", "heir")

    def __init__(self, former: Any, heir: Any, on_empty: Callable[["Succession"], object]) -> None:
        self.former = former
        self.heir = heir
        self._on_empty = on_empty

    def place_is_back(self) -> None:
        """Pass on a place of the former node, whose connection is closed; twice does no harm."""
        self.heir.places_are_back()
        if not self.former.in_flight:
            self._on_empty(self)
