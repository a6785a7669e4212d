"""Which names, texts and other values without parts are harmless in SQLAlchemy's expressions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy.sql.operators import custom_op

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "column_name",
    "empty",
    "field",
    "functions",
    "hints",
    "name",
    "of_dialects",
    "operator",
    "plugin",
    "prefixes",
)

#: An operator of PostgreSQL's, and not one that an application has written other SQL into.
_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|`?]+|(?:NOT )?I?LIKE|(?:NOT )?SIMILAR TO", re.IGNORECASE)
#: Text that is a value, as SQLAlchemy itself writes ``select(1)`` and ``count(*)``.
_CONSTANT = re.compile(r"\*|[0-9.]+|'[^'\\]*'|NULL|TRUE|FALSE", re.IGNORECASE)
#: A name that needs no quotes, or several with dots between them.
_NAME = re.compile(r"[\w$]+(?:\.[\w$]+)*")
#: What may be written before a CTE, or a comment that cannot be a hint.
_PREFIX = re.compile(r"(?:NOT )?MATERIALIZED|/\*[\w .,:=-]*\*/", re.IGNORECASE)
#: SQLAlchemy's own plugins that compile statements.
_PLUGINS = ("default", "orm")


def name(_: object, __: object, value: Any) -> bool:
    """Look at a name: SQLAlchemy quotes it where needed, unless the application forbids that."""
    return getattr(value, "quote", None) is not False or bool(_NAME.fullmatch(value))


def column_name(_: object, column: Any, value: Any) -> bool:
    """Look at the name of a column: that of a literal column is written as SQL text."""
    if column.is_literal:
        return bool(_CONSTANT.fullmatch(value))
    return getattr(value, "quote", None) is not False or bool(_NAME.fullmatch(value))


def field(_: object, __: object, value: str) -> bool:
    """Look at the field of EXTRACT, which is written as SQL text."""
    return bool(_NAME.fullmatch(value))


def operator(_: object, __: object, value: Any) -> bool:
    """Look at an operator: a custom one must be an operator of PostgreSQL's."""
    return not isinstance(value, custom_op) or bool(_OPERATOR.fullmatch(value.opstring))


def prefixes(_: object, __: object, value: Iterable[Any]) -> bool:
    """Look at what is written before or after a SELECT or a CTE."""
    return all(_PREFIX.fullmatch(getattr(text, "text", "")) for text, *_ in value)


def hints(_: object, __: object, value: Any) -> bool:
    """Look at hints for tables: PostgreSQL knows one, ``FROM ONLY``."""
    return all(text.upper() == "ONLY" for text in value.values())


def empty(_: object, __: object, value: Any) -> bool:
    """Look at what must be empty, such as hints: they are text, or for another dialect."""
    return not value


def of_dialects(_: object, element: Any, __: object) -> bool:
    """Look at arguments for dialects: there must be none."""
    return not element.dialect_kwargs


def plugin(_: object, __: object, value: Any) -> bool:
    """Look at the plugin that compiles a statement: by default it is SQLAlchemy's own."""
    return value.get("compile_state_plugin", "orm") in _PLUGINS


def functions(_: object, __: object, value: Iterable[Any]) -> bool:
    """Look at functions that change how a statement is compiled: all must be SQLAlchemy's."""
    return all(each[0].__module__.startswith("sqlalchemy.") for each in value)
