"""Which statements are reads for certain, so that a session may ask a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import CompoundSelect, Select
from sqlalchemy.orm import FromStatement

from hasql._adapters.sqlalchemy.read_mappers import ReadMappers
from hasql._adapters.sqlalchemy.read_types import ReadTypes
from hasql._adapters.sqlalchemy.read_walk import Walk
from hasql.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hasql._adapters.sqlalchemy.read_parts import ElementParts

__all__ = ("ProvableReads",)

_STATEMENTS = (Select, CompoundSelect, FromStatement)


class ProvableReads:
    """Recognises reads by looking at each part of a statement, with SQLAlchemy's own means.

    Text may do anything, and so may a function of which SQLAlchemy knows only the name.

    SQLAlchemy has no public name for much of what becomes SQL: prefixes, hints, what loader options
    add. Its public traversal leaves those out, so the modules for this use private names. If a
    release lacks one of those names, a statement counts as no read, and goes to the master.

    Args:
        functions: The names of functions that only read, spelt as for `func`: "lower",
            "geo.distance".

    Raises:
        TypeError: `functions` is a str, or one of the names is no str.
        ConfigurationError: A name is empty.
    """

    def __init__(self, functions: Iterable[str]) -> None:
        if isinstance(functions, str):
            msg = f"read_functions must be a sequence of names, not the str {functions!r}"
            raise TypeError(msg)
        self._functions = frozenset(map(_checked, functions))
        #: The parts of each class of elements that was looked at.
        self._parts: dict[type[Any], ElementParts | None] = {}
        self._types = ReadTypes(self._only_reads)
        self._mappers = ReadMappers(self._walk)
        #: The result for each statement: some are made once and executed often. They never change.
        self._statements: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    def is_read(self, statement: Any) -> bool:
        """Tell whether a statement does nothing but read."""
        if not isinstance(statement, _STATEMENTS):
            return False
        known = self._statements.get(statement)
        if known is None:
            try:
                known = self._only_reads(statement)
            except AttributeError:  # this release lacks a private name
                known = False
            self._statements[statement] = known
        return known

    def _only_reads(self, expression: Any, *, wrapped: bool = True) -> bool:
        walk = self._walk(wrapped=wrapped)
        mappers = self._mappers
        return (
            walk.only_reads(expression)
            and all(map(mappers.is_plain, walk.loaded))
            and all(mappers.criteria_only_read(option, walk.occurring) for option in walk.deferred)
        )

    def _walk(self, *, wrapped: bool = True) -> Walk:
        return Walk(self._parts, self._functions, self._types, wrapped=wrapped)


def _checked(name: object) -> str:
    if not isinstance(name, str):
        msg = f"read_functions must be names of functions, not {name!r}"
        raise TypeError(msg)
    if not name.strip("."):
        raise ConfigurationError("read_functions: a function's name is empty; drop it")
    return name.lower()
