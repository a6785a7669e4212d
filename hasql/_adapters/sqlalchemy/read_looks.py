"""How to look at the attributes of SQLAlchemy's expressions: one function for each kind.

Each function tells whether an attribute is harmless, which means that it does nothing but read, and
adds the attribute's parts to those that are still to be looked at.
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
        types: Tells whether types only read.
        wrapped: Whether types put something around values.
    """

    def __init__(self, types: ReadTypes, *, wrapped: bool) -> None:
        self.types = types
        self.wrapped = wrapped
        #: The parts that are still to be looked at.
        self.left: list[Any] = []
        #: The mappers of entities that are loaded, and those of entities that occur.
        self.loaded: set[Mapper[Any]] = set()
        self.occurring: set[Mapper[Any]] = set()
        #: Loader options whose criteria are a function of the entity.
        self.deferred: list[Any] = []
        #: By identity, because an annotated copy of a table compares equal to the table.
        self._reached: dict[int, Any] = {}

    def reach(self, table: Any) -> None:
        """Look at a table, but only once: it has many columns, and may itself consist of others."""
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
    """Return the expression that a value stands for, as a mapped attribute does; else None."""
    element = value.__clause_element__() if hasattr(value, "__clause_element__") else value
    return element if isinstance(element, ClauseElement) else None


def table(found: FoundParts, _: Any, value: Any) -> bool:
    """Look at the table of a column, which may be in the FROM only because of the column."""
    if value is not None:
        found.reach(value)
    return True


def joins(found: FoundParts, _: Any, value: Iterable[Any]) -> bool:
    """Look at the targets of joins, their conditions and their left sides."""
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
    """Look at what is selected: types may wrap columns, and entities bring along their mapping."""
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
    """Look at the type of an array, which is written into the SQL only if the array is empty."""
    return bool(array.clauses) or found.types.reads_name(value)


def table_type(found: FoundParts, _: Any, value: Any) -> bool:
    """Look at the columns that a function returns."""
    columns = getattr(value, "_elements", ())
    found.left += columns
    return all(found.types.reads_name(column.type) for column in columns)
