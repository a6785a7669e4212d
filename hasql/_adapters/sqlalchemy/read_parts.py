"""The parts of SQLAlchemy's expressions that become SQL, by the class of the expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import BindParameter, Cast, Column, Extract, Select, Table, TextClause
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import FromStatement
from sqlalchemy.sql import selectable
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import BinaryExpression, ColumnClause
from sqlalchemy.sql.functions import FunctionElement, GenericFunction, next_value
from sqlalchemy.sql.selectable import ForUpdateArg, HasCTE, TableValuedAlias

from hasql._adapters.sqlalchemy import read_looks as looks
from hasql._adapters.sqlalchemy import read_texts as texts
from hasql._adapters.sqlalchemy.read_options import options
from hasql._adapters.sqlalchemy.read_types import is_compiled_anew, is_of_sqlalchemy

if TYPE_CHECKING:
    from collections.abc import Callable

    from hasql._adapters.sqlalchemy.read_looks import FoundParts

    #: Takes an element and the value of an attribute, not None; tells whether that is harmless.
    Look = Callable[[FoundParts, Any, Any], bool]

__all__ = ("ElementParts", "parts_of")

#: What a select selected before that was changed; its joins may refer to it. The class has a
#: private name. If a release lacks that name, its columns are looked at like any other part.
_MEMOIZED: type[Any] = getattr(selectable, "_MemoizedSelectEntities", TableValuedAlias)
#: An expression that holds one of these is no read, or cannot be known to be one.
_NO_READS = (TextClause, UpdateBase, ForUpdateArg, next_value)
#: An application's subclasses of these compile to the same SQL, unless `_COMPILING` says otherwise.
_DERIVED = (Column, Table)
#: The attributes that say what a class compiles to.
_COMPILING = ("__visit_name__", "_compiler_dispatch")
#: How to look at each kind of attribute; None: it does not become SQL. A kind that is missing here
#: is unknown, so that an expression which has it is no read.
_BY_KIND: dict[str, Look | None] = {
    "annotations_key": None,
    "anon_name": texts.name,
    "boolean": None,
    "clauseelement": looks.part,
    "clauseelement_list": looks.parts,
    "clauseelement_tuple": looks.parts,
    "clauseelement_tuples": looks.lists,
    "compile_state_funcs": texts.functions,
    "dialect_options": texts.of_dialects,
    "dml_multi_values": looks.rows,
    "executable_options": options,
    "fromclause_canonical_column_collection": None,
    "memoized_select_entities": looks.parts,
    "operator": texts.operator,
    "params": None,
    "plain_dict": None,
    "prefix_sequence": texts.prefixes,
    "propagate_attrs": texts.plugin,
    "setup_join_tuple": looks.joins,
    "statement_hint_list": texts.empty,
    "table_hint_list": texts.hints,
    "type": None,
    "with_context_options": texts.functions,
}
#: The same for attributes whose kind says little, such as text, by their names.
_BY_NAME: dict[str, Look | None] = {
    "_correlate_mode": None,
    "_independent_ctes_opts": None,
    "_label_style": None,
    "_table_value_type": looks.table_type,
    "collation": texts.name,
    "collation_schema": texts.name,
    "element": None,  # a label's name, which SQLAlchemy looks up
    "exclude": None,  # of a window; SQLAlchemy checks it
    "keyword": None,  # UNION and the like
    "left_index": None,
    "lower_type": None,
    "name": texts.name,
    "packagenames": None,  # is part of a function's name
    "range_": None,
    "right_index": None,
    "rows": None,
    "schema": texts.name,
    "upper_type": None,
    "value": None,  # of a parameter
}
_VAGUE_KINDS = {"has_cache_key", "plain_obj", "string"}
#: Exceptions from the rules above, by class and name.
_BY_CLASS_AND_NAME: tuple[tuple[type[Any], str, Look | None], ...] = (
    (BinaryExpression, "negate", None),  # the operator that a negation would have
    (BindParameter, "type", looks.value_type),
    (BindParameter, "key", None),  # SQLAlchemy escapes it
    (Cast, "type", looks.cast_type),
    (ColumnClause, "name", texts.column_name),
    (ColumnClause, "table", looks.table),
    (Extract, "field", texts.field),
    (FromStatement, "_raw_columns", looks.selected),
    (Select, "_correlate", None),
    (Select, "_correlate_except", None),
    (Select, "_raw_columns", looks.selected),
    (TableValuedAlias, "_tableval_type", looks.table_type),
    (_MEMOIZED, "_raw_columns", looks.selected),
    (postgresql.array, "type", looks.array_type),
)
_SIMPLE = (None, looks.part, looks.parts)


class ElementParts(NamedTuple):
    """The names of the attributes that make up the elements of a class."""

    #: Whether it is a function that counts as a read only because of its name.
    is_named: bool
    #: Attributes that are one part, or None.
    single: tuple[str, ...]
    #: Attributes that are several parts.
    several: tuple[str, ...]
    #: All other attributes, each with the way to look at it.
    others: tuple[tuple[str, Look], ...]


def parts_of(kind: type[Any]) -> ElementParts | None:
    """Return the parts of elements of a class; None if they cannot be known to be reads."""
    is_function = issubclass(kind, FunctionElement)
    if issubclass(kind, _NO_READS) or not (is_function or _compiles_as_known(kind)):
        return None
    # What an application's own element compiles to is unknown. Its functions go by their names.
    is_known = issubclass(kind, GenericFunction) and _compiles_as_known(kind)
    try:
        found = [
            (attribute, _look_at(kind, attribute, symbol.name.removeprefix("dp_")))
            for attribute, symbol in kind._traverse_internals  # noqa: SLF001  # SQLAlchemy has no other name for it
        ]
    except KeyError:
        return None
    if issubclass(kind, HasCTE):  # the first versions of SQLAlchemy 2 forgot these in a UNION
        found.append(("_independent_ctes", looks.parts))
    return ElementParts(
        is_function and not is_known,
        tuple(attribute for attribute, look in found if look is looks.part),
        tuple(attribute for attribute, look in found if look is looks.parts),
        tuple((attribute, look) for attribute, look in found if look not in _SIMPLE),
    )


def _look_at(kind: type[Any], attribute: str, symbol: str) -> Look | None:
    for base, name, look in _BY_CLASS_AND_NAME:
        if name == attribute and issubclass(kind, base):
            return look
    return _BY_NAME[attribute] if symbol in _VAGUE_KINDS else _BY_KIND[symbol]


def _compiles_as_known(kind: type[Any]) -> bool:
    if is_compiled_anew(kind):
        return False
    if not issubclass(kind, _DERIVED):
        return is_of_sqlalchemy(kind)
    own = (vars(each).keys() for each in kind.__mro__ if not is_of_sqlalchemy(each))
    return all(names.isdisjoint(_COMPILING) for names in own)
