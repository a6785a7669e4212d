"""What the options of a statement add to it: loader options, criteria, the application's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ClauseElement
from sqlalchemy.orm import Mapper, MapperProperty, UserDefinedOption
from sqlalchemy.orm.interfaces import LoaderOption
from sqlalchemy.orm.util import AliasedInsp, LoaderCriteriaOption

from hasql._adapters.sqlalchemy.read_looks import selected
from hasql._adapters.sqlalchemy.read_types import is_of_sqlalchemy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hasql._adapters.sqlalchemy.read_looks import FoundParts

__all__ = ("options",)

#: The values in loader options that do not become SQL.
_SETTINGS = (bool, int, str, type(None))


def options(found: FoundParts, _: Any, value: Iterable[Any]) -> bool:
    """Look at the options of a statement."""
    return all(_option(found, each) for each in value)


def _option(found: FoundParts, option: Any) -> bool:
    if isinstance(option, UserDefinedOption):
        # SQLAlchemy does nothing with it. What a listener does because of it is in the statement.
        return not option._is_compile_state  # noqa: SLF001  # SQLAlchemy has no other name for it
    if not is_of_sqlalchemy(type(option)):
        return False
    if isinstance(option, LoaderCriteriaOption):
        if option.deferred_where_criteria:
            found.deferred.append(option)
        else:
            found.left.append(option.where_criteria)
        return True
    if not isinstance(option, LoaderOption):
        return False
    steps = getattr(option, "context", None)
    if steps is None:  # as in ``joinedload("*")``, which has no entity
        return all(isinstance(each, _SETTINGS) for each in option.local_opts.values())  # type: ignore[attr-defined]  # its class is not public
    return all(_step(found, each) for each in steps)


def _step(found: FoundParts, step: Any) -> bool:
    """Look at what a loader option says about one attribute."""
    told = [*step.path.path, getattr(step, "_of_type", None)]
    for each in step.local_opts.values():
        told += each if isinstance(each, tuple) else [each]
    for each in told:
        if isinstance(each, ClauseElement):
            found.left.append(each)
        elif isinstance(each, (AliasedInsp, Mapper)):
            found.occurring.add(each.mapper)
            found.reach(each.selectable)
        elif not isinstance(each, (*_SETTINGS, MapperProperty)):
            return False
    # The expression of `with_expression` is selected. Treating those of other options in the same
    # way makes no difference.
    return selected(found, step, step._extra_criteria)  # noqa: SLF001  # as above
