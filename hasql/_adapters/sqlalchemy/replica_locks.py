"""How to lock the rows of objects that are mapped to more than plain tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Alias, Join, TableClause, select, tuple_
from sqlalchemy.sql.selectable import FromGrouping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, FromClause, Select
    from sqlalchemy.orm import Mapper

__all__ = ("is_lockable", "locks")


def is_lockable(mapped: FromClause) -> bool:
    """Tell whether `FOR UPDATE` works for what is mapped: tables, and inner joins of tables.

    PostgreSQL refuses it for the nullable side of an outer join, and for groups.
    """
    if isinstance(mapped, Join):
        is_outer = mapped.isouter or mapped.full
        return not is_outer and is_lockable(mapped.left) and is_lockable(mapped.right)
    if isinstance(mapped, (Alias, FromGrouping)):
        return is_lockable(mapped.element)
    return isinstance(mapped, TableClause)


def locks(mapper: Mapper[Any], chosen: ColumnElement[bool]) -> Iterator[Select[Any]]:
    """Yield for each table that a flush writes to a query that locks the rows of objects.

    Args:
        mapper: The objects' mapper.
        chosen: The condition that selects the objects.
    """
    mapped = mapper.persist_selectable
    for table in dict.fromkeys(mapper.tables):
        keys = [*table.primary_key]
        shown = [each for key in keys if (each := mapped.corresponding_column(key)) is not None]
        if not keys or len(shown) < len(keys):
            continue  # a flush does not write to a table without its key
        rows = select(*shown).select_from(mapped).where(chosen).correlate(None)
        yield select(*keys).where(tuple_(*keys).in_(rows)).order_by(*keys).with_for_update()
