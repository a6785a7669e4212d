"""How attributes of SQLAlchemy's expressions are looked at that are no parts by themselves.

Each tells whether an attribute is harmless, and hands its parts to who looks at the expression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ClauseElement, ColumnElement, FromClause
from sqlalchemy.orm import QueryableAttribute
from sqlalchemy.sql.elements import ClauseList

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Mapper

    from hasql._adapters.sqlalchemy.read_types import ReadTypes

__all__ = (
    "FoundParts",
    "array_type",
    "cast_type",
    "joins",
    "lists",
    "part",
    "parts",
    "rows",
    "selected",
    "table",
    "table_type",
    "value_type",
)


class FoundParts:
    """What has been found in an expression so far.

    Args:
        types: Tells it of types.
        wrapped: Whether types put something around values.
    """

    def __init__(self, types: ReadTypes, *, wrapped: bool) -> None:
        self.types = types
        self.wrapped = wrapped
        #: What is still to be looked at.
        self.left: list[Any] = []
        #: The mappers of entities that are loaded, and of those that occur.
        self.loaded: set[Mapper[Any]] = set()
        self.occurring: set[Mapper[Any]] = set()
        #: Loader options with criteria that are a function of the entity.
        self.deferred: list[Any] = []
        #: By identity, as they are compared by what they are annotated with.
        self._reached: dict[int, Any] = {}

    def reach(self, table: Any) -> None:
        """Have a table be looked at, once: it has many columns, and may be of others in turn."""
        if id(table) not in self._reached:
            self._reached[id(table)] = table
            self.left.append(table)


def part(found: FoundParts, _: Any, value: Any) -> bool:
    """Look at a part."""
    found.left.append(value)
    return True


def parts(found: FoundParts, _: Any, value: Iterable[Any]) -> bool:
    """Look at several parts."""
    found.left += value
    return True


def lists(found: FoundParts, _: Any, value: Iterable[Any]) -> bool:
    """Look at tuples of parts."""
    for each in value:
        found.left += each
    return True


def rows(found: FoundParts, values: Any, value: Iterable[Any]) -> bool:
    """Look at rows of VALUES."""
    types = [column.type for column in values._column_args]  # noqa: SLF001  # SQLAlchemy has no other name for it
    for several in value:
        for row in several:
            found.left += [one for each in row if (one := _element(each)) is not None]
    if values.literal_binds:
        return all(map(found.types.is_plain, types))
    return not found.wrapped or all(map(found.types.reads_value, types))


def _element(value: Any) -> ClauseElement | None:
    """Return what SQLAlchemy makes of a value that is an expression, such as a mapped attribute."""
    element = value.__clause_element__() if hasattr(value, "__clause_element__") else value
    return element if isinstance(element, ClauseElement) else None


def table(found: FoundParts, _: Any, value: Any) -> bool:
    """Look at what a column is of: it may be in the FROM for that alone."""
    if value is not None:
        found.reach(value)
    return True


def joins(found: FoundParts, _: Any, value: Iterable[Any]) -> bool:
    """Look at what is joined."""
    for target, on, left, _flags in value:
        for each in (target, on, left):
            if isinstance(each, QueryableAttribute):
                _relation(found, each)
            elif isinstance(each, ClauseElement):
                found.left.append(each)
            elif each is not None:
                return False
    return True


def _relation(found: FoundParts, attribute: Any) -> None:
    found.left.append(attribute.__clause_element__())
    entity = attribute._of_type or getattr(attribute.property, "entity", None)  # noqa: SLF001  # as above
    if entity is not None:
        found.occurring.add(entity.mapper)
        found.reach(entity.selectable)


def selected(found: FoundParts, _: Any, value: Iterable[Any]) -> bool:
    """Look at what is selected: types wrap columns, and entities bring along what is mapped."""
    for each in value:
        found.left.append(each)
        if isinstance(each, ColumnElement):
            types = [each.type]
        elif (entity := each._annotations.get("parententity")) is not None:  # noqa: SLF001  # as above
            found.loaded.add(entity.mapper)
            continue
        elif isinstance(each, FromClause):
            found.left += each.c
            types = [column.type for column in each.c]
        elif isinstance(each, ClauseList):  # a bundle
            types = [column.type for column in each.clauses]
        else:
            return False
        if not all(map(found.types.reads_column, types)):
            return False
    return True


def value_type(found: FoundParts, bind: Any, value: Any) -> bool:
    """Look at the type of a value."""
    if bind.literal_execute:
        return found.types.is_plain(value)
    return not found.wrapped or found.types.reads_value(value)


def cast_type(found: FoundParts, _: Any, value: Any) -> bool:
    """Look at the type of a CAST."""
    return found.types.reads_name(value)


def array_type(found: FoundParts, array: Any, value: Any) -> bool:
    """Look at the type of an array, which is written if the array is empty."""
    return bool(array.clauses) or found.types.reads_name(value)


def table_type(found: FoundParts, _: Any, value: Any) -> bool:
    """Look at the columns that a function returns."""
    columns = getattr(value, "_elements", ())
    found.left += columns
    return all(found.types.reads_name(column.type) for column in columns)
