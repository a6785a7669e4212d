"""One look at an expression, part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hasql._adapters.sqlalchemy.read_looks import FoundParts, selected
from hasql._adapters.sqlalchemy.read_parts import ElementParts, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hasql._adapters.sqlalchemy.read_types import ReadTypes

__all__ = ("Walk",)


class Walk(FoundParts):
    """Looks at each part of an expression until one cannot be known to be a read.

    Args:
        known: A cache of the parts of each class of elements.
        functions: The names of functions that only read, besides those that SQLAlchemy knows.
        types: Tells whether types only read.
        wrapped: Whether types put something around values.
    """

    def __init__(
        self,
        known: dict[type[Any], ElementParts | None],
        functions: frozenset[str],
        types: ReadTypes,
        *,
        wrapped: bool,
    ) -> None:
        self._known = known
        self._functions = functions
        super().__init__(types, wrapped=wrapped)

    def only_selects(self, columns: Iterable[Any]) -> bool:
        """Tell whether selecting columns only reads."""
        return selected(self, None, columns) and self.only_reads()

    def only_reads(self, *expressions: Any) -> bool:
        """Tell whether expressions, and all that was left to look at, do nothing but read."""
        left = self.left
        left += expressions
        while left:
            if not self._is_harmless(left.pop()):
                return False
        return True

    def _is_harmless(self, element: Any) -> bool:
        """Tell whether an element is harmless in itself; its parts are left to be looked at."""
        kind = type(element)
        try:
            parts = self._known[kind]
        except KeyError:
            parts = self._known[kind] = parts_of(kind)
        if parts is None or (parts.is_named and not self._reads_by_name(element)):
            return False
        entity = element._annotations.get("parententity")  # noqa: SLF001  # SQLAlchemy has no other name for it
        if entity is not None:
            self.occurring.add(entity.mapper)
        for name in parts.single:
            if (part := getattr(element, name)) is not None:
                self.left.append(part)
        for name in parts.several:
            self.left += getattr(element, name) or ()
        for name, look in parts.others:
            value = getattr(element, name)
            if value is not None and not look(self, element, value):
                return False
        return True

    def _reads_by_name(self, function: Any) -> bool:
        names = (*getattr(function, "packagenames", ()), getattr(function, "name", ""))
        return ".".join(names).lower() in self._functions
