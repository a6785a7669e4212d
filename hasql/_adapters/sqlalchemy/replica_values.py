"""What replicas have shown of objects: kept until the master has shown the same, or they expire."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Column, event
from sqlalchemy.orm import Mapper

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.orm import InstanceState, QueryContext

__all__ = ("READ_FROM", "ReadFrom", "columns_of", "forget", "shown_by_replica", "watch_loading")

#: The execution option that holds a statement's `ReadFrom`.
READ_FROM = "hasql_read_from"
#: Where SQLAlchemy lets others keep something about an object. It is pickled with the object, too.
_INFO = "hasql_shown_by_replica"


class ReadFrom:
    """What is known of one statement, and where it was executed.

    Objects may be made of its rows long after that.
    """

    __slots__ = ("mappers", "replica", "route")

    def __init__(self, route: str | None, mappers: Sequence[Mapper[Any]]) -> None:
        #: Where the statement asks to run; None: it does not say.
        self.route = route
        #: Those of the entities that it is for.
        self.mappers = mappers
        self.replica = False


def shown_by_replica(state: InstanceState[Any]) -> dict[str, Any]:
    """Return the values of the columns that a replica has shown last, by attribute."""
    shown: dict[str, Any] = state.info.get(_INFO, {})
    return shown


def forget(state: InstanceState[Any]) -> None:
    """Take note that the master has the same values."""
    state.info.pop(_INFO, None)


_columns: WeakKeyDictionary[Mapper[Any], Mapping[str, Column[Any]]] = WeakKeyDictionary()


def columns_of(mapper: Mapper[Any]) -> Mapping[str, Column[Any]]:
    """Return the columns of tables that a mapper loads, by attribute."""
    found = _columns.get(mapper)
    if found is None:
        candidates = {each.key: each.columns[0] for each in mapper.column_attrs}
        found = {key: each for key, each in candidates.items() if isinstance(each, Column)}
        _columns[mapper] = found
    return found


@cache
def watch_loading() -> None:
    """Take note of each object that a replica loads from now on, in all sessions that route."""
    for name, listener in (("load", _on_load), ("refresh", _on_refresh), ("expire", _on_expire)):
        event.listen(Mapper, name, listener, raw=True)


def _on_load(state: InstanceState[Any], context: QueryContext) -> None:
    if _is_of_replica(context):
        state.info[_INFO] = _values(state, columns_of(state.mapper))


def _on_refresh(
    state: InstanceState[Any], context: QueryContext | None, names: Iterable[str] | None
) -> None:
    if context is None:
        # Not loaded, but computed by SQLAlchemy as an UPDATE does, of what the object had before.
        return
    if _is_of_replica(context):
        columns = columns_of(state.mapper)
        keys = columns if names is None else columns.keys() & names
        state.info.setdefault(_INFO, {}).update(_values(state, keys))
    else:
        _on_expire(state, names)


def _is_of_replica(context: QueryContext) -> bool:
    read_from: Any = context.execution_options.get(READ_FROM)
    return read_from is not None and bool(read_from.replica)


def _on_expire(state: InstanceState[Any], names: Iterable[str] | None) -> None:
    if "info" not in state.__dict__:  # else it would be made
        return
    if names is None:
        forget(state)
    elif shown := state.info.get(_INFO):
        for name in names:
            shown.pop(name, None)


def _values(state: InstanceState[Any], keys: Iterable[str]) -> dict[str, Any]:
    loaded = state.dict
    return {key: _kept(loaded[key]) for key in keys if key in loaded}


def _kept(value: Any) -> Any:
    """Return a value as it will still be when the application has changed it in place."""
    if type(value).__hash__ is not None:
        return value
    # Those that SQLAlchemy tracks changes of are dicts, lists and sets of their own classes.
    for plain in (dict, list, set):
        if isinstance(value, plain):
            return deepcopy(plain(value))
    return deepcopy(value)
