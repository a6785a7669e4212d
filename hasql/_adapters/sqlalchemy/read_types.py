"""Which types add nothing but reads to columns, to values and to a CAST."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import BindParameter, Enum, String, TupleType, TypeDecorator, column
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import CompileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.types import TypeEngine

__all__ = ("ReadTypes", "is_compiled_anew", "is_of_sqlalchemy")

#: A dialect that stands for those of all drivers, which do not differ in this.
_DIALECT: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
_WORD = r'(?:\w+|"(?:[^"]|"")*")'
#: The name of a type, as in a CAST, and nothing behind it.
_NAME = re.compile(
    rf"(?:DOUBLE PRECISION|(?:CHARACTER|BIT) VARYING|INTERVAL [A-Z]+(?: TO [A-Z]+)?|{_WORD}"
    rf"(?:\.{_WORD})?)(?: ?\([\w ,-]*\))?(?: WITH(?:OUT)? TIME ZONE)?(?:\[\])*"
    rf"(?: COLLATE {_WORD}(?:\.{_WORD})?)?",
    re.IGNORECASE,
)
#: What SQLAlchemy writes for types of these classes depends on the single type.
_EXAMINED = (TypeDecorator, TupleType, Enum, postgresql.ARRAY, postgresql.DOMAIN)
#: The modules, besides SQLAlchemy's, that the bases of SQLAlchemy's classes come from.
_BASES = {"abc", "builtins", "enum", "typing", "typing_extensions"}


def is_of_sqlalchemy(kind: type[Any]) -> bool:
    """Tell whether a class is one of SQLAlchemy's own.

    Classes that SQLAlchemy derives from an application's are not, though they are in its modules.
    """
    modules = [each.__module__ for each in kind.__mro__]
    return all(each.startswith("sqlalchemy.") or each in _BASES for each in modules)


def is_compiled_anew(kind: type[Any]) -> bool:
    """Tell whether an application says what a class compiles to for PostgreSQL (`@compiles`)."""
    specs = getattr(getattr(kind, "_compiler_dispatcher", None), "specs", {})
    found = [specs[each] for each in ("default", "postgresql") if each in specs]
    # SQLAlchemy's own way is among them if the application has given one for another dialect.
    return any(getattr(each, "__module__", None) != "sqlalchemy.ext.compiler" for each in found)


class ReadTypes:
    """Tells whether the SQL that SQLAlchemy writes because of a type only reads.

    Args:
        only_reads: Tells this of an expression that a type makes. With `wrapped`, other types put
            something around the values in that expression.
    """

    def __init__(self, only_reads: Callable[..., bool]) -> None:
        self._only_reads = only_reads
        #: What `_text_of` has returned for each class. The attribute that it names must be None.
        self._classes: dict[type[Any], str | None] = {}
        #: The result for each type that was looked at. Types are made once, with their tables.
        self._columns: WeakKeyDictionary[TypeEngine[Any], bool] = WeakKeyDictionary()
        self._values: WeakKeyDictionary[TypeEngine[Any], bool] = WeakKeyDictionary()
        self._names: WeakKeyDictionary[TypeEngine[Any], bool] = WeakKeyDictionary()

    def is_plain(self, of_type: Any) -> bool:
        """Tell whether a type is SQLAlchemy's own, and nothing in it is the application's."""
        kind = type(of_type)
        try:
            text = self._classes[kind]
        except KeyError:
            text = self._classes[kind] = _text_of(kind)
        if text == "" or of_type._variant_mapping:  # noqa: SLF001  # there is no other way to ask
            return False
        return text is None or getattr(of_type, text) is None

    def reads_column(self, of_type: Any) -> bool:
        """Tell whether selecting a column of a type only reads."""
        return self.is_plain(of_type) or self._cached(of_type, self._columns, self._of_column)

    def reads_value(self, of_type: Any) -> bool:
        """Tell whether a value of a type only reads."""
        return self.is_plain(of_type) or self._cached(of_type, self._values, self._of_value)

    def reads_name(self, of_type: Any) -> bool:
        """Tell whether a type is written into a CAST as its name alone."""
        return self.is_plain(of_type) or self._cached(of_type, self._names, _is_name)

    def _cached(
        self,
        of_type: Any,
        known: WeakKeyDictionary[TypeEngine[Any], bool],
        ask: Callable[[Any], bool],
    ) -> bool:
        found = known.get(of_type)
        if found is None:
            try:
                found = ask(of_type.dialect_impl(_DIALECT))
            except Exception:  # noqa: BLE001  # an application's code; compiling the statement raises it again
                found = False
            known[of_type] = found
        return found

    def _of_column(self, of_type: Any) -> bool:
        if not of_type._has_column_expression:  # noqa: SLF001  # there is no other way to ask
            return True
        made = of_type.column_expression(column("hasql", of_type))
        return made is None or self._only_reads(made, wrapped=True)

    def _of_value(self, of_type: Any) -> bool:
        if not _is_name(of_type):
            return False
        if not of_type._has_bind_expression:  # noqa: SLF001  # there is no other way to ask
            return True
        # SQLAlchemy does not wrap the values again within an expression that a type has made.
        made = of_type.bind_expression(BindParameter("hasql", type_=of_type))
        return made is None or self._only_reads(made, wrapped=False)


def _is_name(of_type: Any) -> bool:
    if isinstance(of_type, TupleType):
        return all(map(_is_name, of_type.types))
    try:
        written = _DIALECT.type_compiler_instance.process(of_type)
    except CompileError:
        return True  # compiling the statement fails too, if the type is written in it
    return _NAME.fullmatch(written) is not None


def _text_of(kind: type[Any]) -> str | None:
    """Return the attribute of a type that is written as SQL text, if any; "" if unknown."""
    if not is_of_sqlalchemy(kind) or is_compiled_anew(kind) or issubclass(kind, _EXAMINED):
        return ""
    if issubclass(kind, String):
        return "collation"
    return "fields" if issubclass(kind, postgresql.INTERVAL) else None
