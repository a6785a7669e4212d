"""Which statements are reads for certain, so that a session may ask a replica."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import BindParameter, Column, CompoundSelect, Select, Table, TextClause, inspect
from sqlalchemy.orm import FromStatement
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import (
    BinaryExpression,
    ColumnClause,
    OperatorExpression,
    UnaryExpression,
)
from sqlalchemy.sql.functions import FunctionElement, GenericFunction, next_value
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import ForUpdateArg

from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy.orm import Mapper

__all__ = ("ProvableReads",)

_STATEMENTS = (Select, CompoundSelect, FromStatement)
#: Whatever holds one of these is no read, or nobody can tell.
_OTHERS = (TextClause, UpdateBase, ForUpdateArg, next_value)
_DEPENDING = (ColumnClause, OperatorExpression, UnaryExpression)
#: Of these SQLAlchemy would look for parts in vain, which takes it a while.
_LEAVES = (BindParameter, Column, Table)
#: An operator of PostgreSQL's, and none that somebody has written SQL into.
_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|`?]+|(?:NOT )?I?LIKE|(?:NOT )?SIMILAR TO", re.IGNORECASE)
#: Text that is a value, as SQLAlchemy itself writes ``select(1)`` and ``count(*)``.
_CONSTANT = re.compile(r"\*|[0-9.]+|'[^'\\]*'|NULL|TRUE|FALSE", re.IGNORECASE)


class _Verdict(Enum):
    """What is known of all elements of a class."""

    #: It reads, and has no parts.
    LEAF = auto()
    #: It reads, if its parts do.
    READ = auto()
    #: Each has to be looked at.
    DEPENDS = auto()
    #: It is no read, or nobody can tell.
    OTHER = auto()


class ProvableReads:
    """Tells reads by looking at each part of a statement, with SQLAlchemy's own means.

    Nobody can tell what text does, nor a function of which SQLAlchemy knows only the name.

    Args:
        functions: Names of functions that read, as `func` spells them: "lower", "geo.distance".

    Raises:
        TypeError: They are no names.
        ConfigurationError: One is empty.
    """

    def __init__(self, functions: Iterable[str]) -> None:
        if isinstance(functions, str):
            msg = f"read_functions must be a sequence of names, not the str {functions!r}"
            raise TypeError(msg)
        self._functions = frozenset(map(_checked, functions))
        #: What was found for each class of elements.
        self._verdicts: dict[type[Any], _Verdict] = {}
        #: Those that were looked at, as some are made once and executed often. They never change.
        self._statements: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        self._mappers: WeakKeyDictionary[Mapper[Any], bool] = WeakKeyDictionary()

    def is_read(self, statement: Any) -> bool:
        """Tell whether a statement does nothing but read."""
        if not isinstance(statement, _STATEMENTS):
            return False
        known = self._statements.get(statement)
        if known is None:
            known = self._only_reads(statement) and all(map(self._is_plain, _mappers_of(statement)))
            self._statements[statement] = known
        return known

    def _only_reads(self, root: Any) -> bool:
        verdicts = self._verdicts
        stack = [root]
        while stack:
            element = stack.pop()
            kind = type(element)
            verdict = verdicts.get(kind)
            if verdict is None:
                verdict = verdicts[kind] = _of_class(kind)
            if verdict is _Verdict.LEAF:
                continue
            if verdict is _Verdict.OTHER or (
                verdict is _Verdict.DEPENDS and not self._of_element(element)
            ):
                return False
            # Most are comparisons, and SQLAlchemy takes ten times as long to name two parts.
            is_comparison = kind is BinaryExpression
            stack += (element.left, element.right) if is_comparison else element.get_children()
        return True

    def _of_element(self, element: Any) -> bool:
        if isinstance(element, FunctionElement):
            names = (*getattr(element, "packagenames", ()), getattr(element, "name", ""))
            return ".".join(names).lower() in self._functions
        if isinstance(element, ColumnClause):
            # A literal column is text, and so is a name that is never quoted.
            is_text = element.is_literal or getattr(element.name, "quote", None) is False
            return not is_text or bool(_CONSTANT.fullmatch(element.name))
        operator = getattr(element, "operator", None)
        return not isinstance(operator, custom_op) or bool(_OPERATOR.fullmatch(operator.opstring))

    def _is_plain(self, mapper: Mapper[Any]) -> bool:
        """Tell whether loading what is mapped only reads, with all that is loaded along with it."""
        known = self._mappers.get(mapper)
        if known is None:
            found = _reachable(mapper)
            known = all(map(self._maps_reads, found))
            if known:
                self._mappers.update(dict.fromkeys(found, True))
            else:
                self._mappers[mapper] = False
        return known

    def _maps_reads(self, mapper: Mapper[Any]) -> bool:
        parts: list[Any] = [mapper.persist_selectable, mapper.polymorphic_on]
        for column in mapper.column_attrs:
            parts += column.columns
        for relation in mapper.relationships:
            parts += [relation.primaryjoin, relation.secondaryjoin, relation.secondary]
            parts += relation.order_by or ()
        return all(self._only_reads(part) for part in parts if part is not None)


def _checked(name: object) -> str:
    if not isinstance(name, str):
        msg = f"read_functions must be names of functions, not {name!r}"
        raise TypeError(msg)
    if not name.strip("."):
        raise ConfigurationError("read_functions: a function's name is empty; drop it")
    return name.lower()


def _of_class(kind: type[Any]) -> _Verdict:
    if issubclass(kind, _OTHERS):
        return _Verdict.OTHER
    is_function = issubclass(kind, FunctionElement)
    if not kind.__module__.startswith("sqlalchemy."):
        # Nobody knows what an application's own element compiles to. Its functions have names.
        return _Verdict.DEPENDS if is_function else _Verdict.OTHER
    if is_function:
        return _Verdict.READ if issubclass(kind, GenericFunction) else _Verdict.DEPENDS
    if issubclass(kind, _LEAVES):
        return _Verdict.LEAF
    return _Verdict.DEPENDS if issubclass(kind, _DEPENDING) else _Verdict.READ


def _mappers_of(statement: Any) -> Iterator[Mapper[Any]]:
    """Yield the mappers of the entities that a statement is for."""
    if isinstance(statement, CompoundSelect):
        return  # it has columns alone
    for described in statement.column_descriptions:
        if (entity := described.get("entity")) is not None:
            found: Any = inspect(entity, raiseerr=False)
            if found is not None:
                yield found.mapper


def _reachable(mapper: Mapper[Any]) -> set[Mapper[Any]]:
    """Return the mappers that loading an entity may come to: related ones, bases and subclasses."""
    found: set[Mapper[Any]] = set()
    left = [mapper]
    while left:
        one = left.pop()
        if one in found:
            continue
        found.add(one)
        left += [*one.iterate_to_root(), *one.self_and_descendants]
        left += [relation.mapper for relation in one.relationships]
    return found
