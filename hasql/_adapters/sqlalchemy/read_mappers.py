"""What loading an entity adds to the SQL that a statement itself says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import BindParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy.orm import Mapper

    from hasql._adapters.sqlalchemy.read_walk import Walk

__all__ = ("ReadMappers",)


class ReadMappers:
    """Tells whether loading the entities of a mapper, with all that is related, only reads.

    Args:
        new_walk: Makes a `Walk`, which looks at expressions.
    """

    def __init__(self, new_walk: Callable[[], Walk]) -> None:
        self._new_walk = new_walk
        self._plain: WeakKeyDictionary[Mapper[Any], bool] = WeakKeyDictionary()
        self._reachable: WeakKeyDictionary[Mapper[Any], WeakSet[Mapper[Any]]] = WeakKeyDictionary()

    def is_plain(self, mapper: Mapper[Any]) -> bool:
        """Tell whether loading the entities of this mapper only reads."""
        known = self._plain.get(mapper)
        if known is None:
            found: set[Mapper[Any]] = set()
            left = [mapper]
            known = True
            while left and known:
                one = left.pop()
                if one not in found:
                    found.add(one)
                    known = self._only_reads(one, left)
            self._plain.update(dict.fromkeys(found if known else [mapper], known))
        return known

    def _only_reads(self, mapper: Mapper[Any], left: list[Mapper[Any]]) -> bool:
        walk = self._new_walk()
        columns = [column for each in mapper.column_attrs for column in each.columns]
        if not (walk.only_reads(*_parts(mapper)) and walk.only_selects(columns)) or walk.deferred:
            return False
        left += [*_next_to(mapper), *walk.loaded]
        return True

    def criteria_only_read(self, option: Any, occurring: Iterable[Mapper[Any]]) -> bool:
        """Tell whether criteria that are a function of the entity only read.

        Args:
            option: The loader option that has the criteria.
            occurring: The mappers in the statement. Related entities may be loaded later.
        """
        concerned = {each for mapper in occurring for each in self._reached_from(mapper)}
        for mapper in concerned.intersection(option._all_mappers()):  # noqa: SLF001  # SQLAlchemy has no other name for it
            try:
                criteria = option.where_criteria._resolve_with_args(mapper.entity)  # noqa: SLF001  # as above
            except Exception:  # noqa: BLE001  # an application's code; compiling the statement raises it again
                return False
            walk = self._new_walk()
            if not walk.only_reads(criteria) or walk.deferred:
                return False
            if not all(map(self.is_plain, walk.loaded)):
                return False
        return True

    def _reached_from(self, mapper: Mapper[Any]) -> WeakSet[Mapper[Any]]:
        found = self._reachable.get(mapper)
        if found is None:
            found = self._reachable[mapper] = WeakSet()
            left = [mapper]
            while left:
                one = left.pop()
                if one not in found:
                    found.add(one)
                    left += _next_to(one)
        return found


def _next_to(mapper: Mapper[Any]) -> Iterator[Mapper[Any]]:
    """Yield the mappers that loading an entity may reach: bases, subclasses and related ones."""
    yield from mapper.iterate_to_root()
    yield from mapper.self_and_descendants
    for relation in mapper.relationships:
        yield relation.mapper


def _parts(mapper: Mapper[Any]) -> Iterator[Any]:
    """Yield the expressions that a mapper adds to statements, besides its columns."""
    compared = [*mapper.primary_key]
    parts: list[Any] = [mapper.persist_selectable, mapper.selectable, mapper.polymorphic_on]
    for relation in mapper.relationships:
        parts += [relation.primaryjoin, relation.secondaryjoin, relation.secondary]
        parts += relation.order_by or ()
        parts.append(relation.entity.selectable)  # the alias's own, if it relates to an alias
        compared += [*relation.local_columns, *relation.remote_side]
    yield from (part for part in parts if part is not None)
    # Related objects are looked up by the values of these columns.
    for column in compared:
        yield BindParameter("hasql", type_=column.type)
